//! A filesystem that no path leads to any more.
//!
//! FIFREEZE itself holds what it freezes, so a filesystem that was unmounted lazily, or covered,
//! lives on until it is thawed. The thread that froze it could thaw it; after a restart of the agent
//! there is none. But whoever mounts its device again gets the very same filesystem: here by a
//! mount that is attached nowhere and goes with its descriptor.
//!
//! A filesystem that is really gone must not be mounted anew. Whether the kernel still has it stands
//! below `/sys/fs`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::mounts::{Mounts, Target};
use crate::disk::Roots;
use crate::errno;

/// Whether an open directory lies on the filesystem that is meant, and not on one that covers it.
pub(super) fn is_on(directory: impl AsFd, target: &Target) -> bool {
    let found = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    let Ok(found) = found else { return true };
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        // Kernels before 5.8.
        return true;
    }
    let Ok(mounts) = Mounts::read() else { return true };
    let mount = mounts.all.iter().find(|mount| mount.id == found.stx_mnt_id);
    mount.is_none_or(|mount| mount.device == Some(target.device))
}

/// A directory of the filesystem on `target`'s device; none if the kernel has no such filesystem any
/// more. Only for a thread that ends with it.
pub(super) fn by_device(target: &Target) -> Result<Option<OwnedFd>, String> {
    let roots = Roots::system();
    let refuse = |why: &str| {
        format!(
            "{} ({}, device {}) is mounted there no more, and {why}; mount the device anywhere, \
             then thaw again",
            target.path.display(),
            target.fs_type,
            target.device
        )
    };
    let Ok(device) = roots.block_device(&target.device.to_string()) else {
        // With the device, everything on it has gone.
        return match roots.sys.join("dev/block").exists() {
            true => Ok(None),
            false => Err(refuse("there is no /sys to look for its device")),
        };
    };
    let name = device.kernel_name();
    match is_there(&roots.sys, &target.fs_type, &name) {
        Some(true) => {}
        Some(false) => return Ok(None),
        None => return Err(refuse("the kernel does not say whether it is still frozen")),
    }
    let node = format!("/dev/{}", name.replace('!', "/"));
    let root = mount(&target.fs_type, &node);
    root.map(Some).map_err(|e| refuse(&format!("mounting {node} fails: {}", errno::text(e))))
}

/// A directory in it can be opened, but not the mount itself: that descriptor is only a path.
fn mount(fs_type: &str, node: &str) -> Result<OwnedFd, Errno> {
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", node)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    openat(&mount, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether the kernel has a filesystem on the device of this name; `None` where it does not say.
fn is_there(sys: &Path, fs_type: &str, device: &str) -> Option<bool> {
    let sys = sys.join("fs");
    match fs_type {
        "ext3" | "ext4" => Some(sys.join("ext4").join(device).exists()),
        "xfs" | "f2fs" => Some(sys.join(fs_type).join(device).exists()),
        "btrfs" => {
            let all = std::fs::read_dir(sys.join("btrfs")).ok()?;
            Some(all.flatten().any(|one| one.path().join("devices").join(device).exists()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_stands_in_sys() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path();
        for path in ["fs/ext4/sda1", "fs/xfs/dm-0", "fs/btrfs/features", "fs/btrfs/u/devices/vdb"] {
            std::fs::create_dir_all(sys.join(path)).unwrap();
        }
        for (fs_type, device, there) in [
            ("ext4", "sda1", Some(true)),
            ("ext3", "sda1", Some(true)),
            ("ext4", "dm-0", Some(false)),
            ("xfs", "dm-0", Some(true)),
            ("btrfs", "vdb", Some(true)),
            ("btrfs", "vdc", Some(false)),
            ("f2fs", "vdb", Some(false)),
            ("jfs", "sda1", None),
        ] {
            assert_eq!(is_there(sys, fs_type, device), there, "{fs_type} {device}");
        }
    }

    #[test]
    fn a_directory_is_on_the_filesystem_of_its_mount_and_on_no_other() {
        let mounts = Mounts::read().unwrap();
        let device = |number: &str| number.parse().unwrap();
        let target =
            |device| Target { device, path: "/".into(), fs_type: "ext4".into(), read_only: false };
        let root = std::fs::File::open("/").unwrap();
        if let Some(own) = mounts.holder(Path::new("/")).unwrap().device {
            assert!(is_on(&root, &target(own)));
        }
        assert!(!is_on(&root, &target(device("1:200"))));
    }
}
