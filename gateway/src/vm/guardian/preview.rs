//! What a freeze would freeze, without freezing it.

use std::time::Duration;

use qga_proto::command::{
    Command as _, FilesystemInfo, FsfreezeStatus, GuestFsfreezeStatus, GuestGetFsinfo,
};

use tokio::time::Instant;

use super::asking::{not_begun, same_path, unknown_among};
use crate::vm::call::CallOptions;
use crate::vm::freeze::FreezeError;
use crate::vm::handle::VmHandle;
use crate::vm::lease::Policy;

/// What a freeze would do, as far as the guest tells without one.
#[derive(Clone, Debug)]
pub struct Preview {
    /// What is mounted, as the guest lists it.
    pub filesystems: Vec<Prospect>,
    /// What is named and no mount point: a freeze leaves it out.
    pub unknown: Vec<String>,
}

/// What would become of one filesystem.
#[derive(Clone, Debug)]
pub struct Prospect {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Its type, as `ext4`.
    pub fs_type: String,
    /// Why it would not be frozen.
    pub left_out: Option<LeftOut>,
}

/// Why a filesystem would not be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// Others are named.
    NotNamed,
    /// Filesystems of its type cannot freeze.
    CannotFreeze,
}

/// Types whose drivers have no freeze, in Linux and in Windows.
const CANNOT_FREEZE: [&str; 23] = [
    "9p", "cdfs", "cramfs", "erofs", "exfat", "fat", "fat32", "fuseblk", "iso9660", "minix",
    "msdos", "nfs", "nfs4", "ntfs3", "overlay", "ramfs", "romfs", "squashfs", "tmpfs", "udf",
    "ufs", "vfat", "virtiofs",
];

/// Asks a guest what a freeze of `named`, or of everything, would freeze. Sends no freeze. `within`:
/// how long the guest may take in all, where that is not as configured.
///
/// # Errors
/// What would stand in the freeze's way stands in this one's too; and an agent that does not list
/// its filesystems cannot say.
pub async fn preview(
    vm: &VmHandle,
    named: Option<&[String]>,
    policy: Policy,
    within: Option<Duration>,
) -> Result<Preview, FreezeError> {
    let until = within.map(|within| Instant::now() + within);
    let options = |info| {
        let options = vm.options(info);
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        CallOptions { timeout: left.unwrap_or(options.timeout), ..options }
    };
    let status = vm.call(GuestFsfreezeStatus {}, options(&GuestFsfreezeStatus::INFO)).await;
    if status.map_err(|e| not_begun(&GuestFsfreezeStatus::INFO, e))? != FsfreezeStatus::Thawed {
        return Err(FreezeError::AlreadyFrozen { lease: None });
    }
    let mounted = vm.call(GuestGetFsinfo {}, options(&GuestGetFsinfo::INFO)).await;
    let mounted = mounted.map_err(|error| not_begun(&GuestGetFsinfo::INFO, error))?;
    let paths: Vec<&str> = mounted.iter().map(|f| f.mountpoint.as_str()).collect();
    let unknown = unknown_among(&paths, named.unwrap_or_default());
    if !unknown.is_empty() && policy == Policy::Required {
        return Err(FreezeError::NoMountPoint { names: unknown });
    }
    let prospect = |f: FilesystemInfo| {
        let chosen = named.is_none_or(|n| n.iter().any(|name| same_path(name, &f.mountpoint)));
        let can = !CANNOT_FREEZE.contains(&f.fs_type.to_ascii_lowercase().as_str());
        let left_out = match (chosen, can) {
            (false, _) => Some(LeftOut::NotNamed),
            (true, false) => Some(LeftOut::CannotFreeze),
            (true, true) => None,
        };
        Prospect { mountpoint: f.mountpoint, fs_type: f.fs_type, left_out }
    };
    Ok(Preview { filesystems: mounted.into_iter().map(prospect).collect(), unknown })
}
