//! `guest-get-fsinfo`, `guest-fstrim`.

use std::path::Path;

use qga_proto::command::{
    Command as _, FilesystemInfo, GuestFstrim, GuestGetFsinfo, TrimReport, TrimResult,
};
use qga_proto::{Outcome, QgaError, Request};
use rustix::fs::{Mode, OFlags, open, statvfs};
use rustix::io::Errno;

use super::{Handler, Place};
use crate::disk::{Roots, address};
use crate::freeze::mounts::{Device, Mount, Mounts};
use crate::{errno, log, sys};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestGetFsinfo::INFO.name, place: Place::Filesystems(info) },
    Handler { command: GuestFstrim::INFO.name, place: Place::Trims(trim) },
];

fn info(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetFsinfo {} = request.arguments()?;
    let roots = Roots::system();
    let mounts = mounts()?;
    let filesystems = mounts.on_devices().into_iter().rev();
    let filesystems: Vec<_> =
        filesystems.map(|(device, mount)| filesystem(&roots, device, mount)).collect();
    Ok(Outcome::value(&filesystems))
}

fn filesystem(roots: &Roots, device: Device, mount: &Mount) -> FilesystemInfo {
    let number = device.to_string();
    let device = roots.block_device(&number).ok();
    let sizes = Sizes::of(&mount.path);
    FilesystemInfo {
        name: device.as_ref().map_or(number, |device| device.kernel_name()),
        mountpoint: mount.path.to_string_lossy().into_owned(),
        fs_type: mount.fs_type.clone(),
        used_bytes: sizes.map(|sizes| sizes.used),
        total_bytes: sizes.map(|sizes| sizes.total),
        total_bytes_privileged: sizes.map(|sizes| sizes.privileged),
        disk: device.as_ref().map(address::places).unwrap_or_default(),
    }
}

/// Bytes, as `df` shows them. What is kept for root counts only as privileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    used: u64,
    total: u64,
    privileged: u64,
}

impl Sizes {
    fn of(mount_point: &Path) -> Option<Self> {
        let stat = statvfs(mount_point).ok()?;
        Some(Self::new(stat.f_frsize, stat.f_blocks, stat.f_bfree, stat.f_bavail))
    }

    /// A filesystem may say anything, so nothing here may overflow.
    fn new(block: u64, blocks: u64, free: u64, available: u64) -> Self {
        let used = blocks.saturating_sub(free);
        Self {
            used: used.saturating_mul(block),
            total: used.saturating_add(available).saturating_mul(block),
            privileged: blocks.saturating_mul(block),
        }
    }
}

fn trim(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestFstrim { minimum } = request.arguments()?;
    log::info(format_args!("guest-fstrim called"));
    let minimum = minimum.unwrap_or(0).cast_unsigned();
    let targets = mounts()?.targets();
    let mut paths: Vec<_> = targets.iter().map(|target| trim_one(&target.path, minimum)).collect();
    paths.reverse();
    Ok(Outcome::value(&TrimReport { paths }))
}

fn trim_one(mount_point: &Path, minimum: u64) -> TrimResult {
    let mut result =
        TrimResult { path: mount_point.to_string_lossy().into_owned(), ..TrimResult::default() };
    let directory = match open(mount_point, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(directory) => directory,
        Err(e) => {
            result.error = Some(format!("failed to open: {}", errno::text(e)));
            return result;
        }
    };
    match sys::fstrim::trim(&directory, minimum) {
        Ok(trimmed) => {
            result.trimmed = Some(trimmed.bytes.cast_signed());
            result.minimum = Some(trimmed.minimum.cast_signed());
        }
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => result.error = Some("trim not supported".into()),
        Err(e) => result.error = Some(format!("failed to trim: {}", errno::text(e))),
    }
    result
}

fn mounts() -> Result<Mounts, QgaError> {
    Mounts::read().map_err(|_| QgaError::generic("failed to open mtab file: '/proc/self/mounts'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_df_and_never_overflow() {
        let sizes = Sizes::new(1024, 100, 40, 30);
        assert_eq!(sizes, Sizes { used: 61440, total: 92160, privileged: 102_400 });
        let odd = Sizes::new(u64::MAX, u64::MAX, 0, u64::MAX);
        assert_eq!(odd, Sizes { used: u64::MAX, total: u64::MAX, privileged: u64::MAX });
        assert_eq!(Sizes::new(1, 5, 9, 0), Sizes { used: 0, total: 0, privileged: 5 });
    }
}
