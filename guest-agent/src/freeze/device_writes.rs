//! What the kernel has written to a filesystem's devices.
//!
//! Once FIFREEZE has returned, ext4, xfs and btrfs write nothing until they are thawed; a thaw and
//! another freeze write at least a superblock or a log record each. So the devices' counters, taken
//! at both ends of a freeze, show a thaw in between that nobody told the agent of, like that of
//! `fsfreeze -u; …; fsfreeze -f`. They also move for what goes past the filesystem: a swap file on
//! it, or a program that writes to its device.

use std::path::{Path, PathBuf};

use super::mounts::Target;
use crate::bounded;
use crate::disk::Roots;

/// Sectors of 512 bytes, in the seventh field of `stat` (the kernel's
/// `Documentation/block/stat.rst`).
const SECTORS_WRITTEN: usize = 6;

/// How many sectors of 512 bytes the devices of `target` took since they are there; `None` where
/// the kernel does not count.
pub(super) fn sectors(roots: &Roots, target: &Target) -> Option<u64> {
    let device = roots.sys.join("dev/block").join(target.device.to_string());
    if target.fs_type != "btrfs" {
        return counted(&device);
    }
    let devices = btrfs_devices(&roots.sys, &device)?;
    devices.iter().map(|device| counted(device)).sum()
}

/// All devices of the btrfs that has this one.
fn btrfs_devices(sys: &Path, device: &Path) -> Option<Vec<PathBuf>> {
    let name = std::fs::canonicalize(device).ok()?;
    let name = name.file_name()?;
    let mut all = std::fs::read_dir(sys.join("fs/btrfs")).ok()?.flatten();
    let devices = all.find_map(|one| {
        let devices = one.path().join("devices");
        devices.join(name).exists().then_some(devices)
    })?;
    Some(std::fs::read_dir(devices).ok()?.flatten().map(|entry| entry.path()).collect())
}

fn counted(device: &Path) -> Option<u64> {
    if !counts(device) {
        return None;
    }
    let stat = bounded::read(device.join("stat"), bounded::SMALL).ok()?;
    let stat = std::str::from_utf8(&stat).ok()?;
    stat.split_ascii_whitespace().nth(SECTORS_WRITTEN)?.parse().ok()
}

/// Whether the counters of a device move at all. Stacked devices count whatever the switch says.
fn counts(device: &Path) -> bool {
    let stacked = device.join("dm").exists() || device.join("md").exists();
    // A partition has the switch of its disk.
    let mut switches = [device.to_path_buf(), device.join("..")].into_iter();
    let switch =
        switches.find_map(|one| bounded::read(one.join("queue/iostats"), bounded::SMALL).ok());
    stacked || switch.is_some_and(|on| on.trim_ascii() == b"1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const STAT: &str = "1 2 3 4 5 6 77 8 9 10 11 12 13 14 15 16 17\n";

    fn target(device: &str, fs_type: &str) -> Target {
        Target {
            device: device.parse().unwrap(),
            path: "/x".into(),
            fs_type: fs_type.into(),
            read_only: false,
        }
    }

    fn tree() -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path().join("sys");
        let make = |path: &str, text: &str| {
            let path = sys.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (disk, on) in [("vda", "1\n"), ("vdb", "0\n"), ("dm-0", "0\n"), ("vdc", "1\n")] {
            make(&format!("devices/{disk}/stat"), STAT);
            make(&format!("devices/{disk}/queue/iostats"), on);
        }
        make("devices/vda/vda1/stat", STAT);
        make("devices/dm-0/dm/name", "root\n");
        make("devices/vdd/queue/iostats", "1\n");
        make("devices/vdd/stat", "1 2\n");
        fs::create_dir_all(sys.join("dev/block")).unwrap();
        fs::create_dir_all(sys.join("fs/btrfs/u/devices")).unwrap();
        fs::create_dir_all(sys.join("fs/btrfs/features")).unwrap();
        for (number, path) in
            [("8:0", "vda"), ("8:1", "vda/vda1"), ("8:2", "vdb"), ("8:3", "dm-0"), ("8:4", "vdd")]
        {
            symlink(sys.join("devices").join(path), sys.join("dev/block").join(number)).unwrap();
        }
        for name in ["vda", "vdc"] {
            symlink(sys.join("devices").join(name), sys.join("fs/btrfs/u/devices").join(name))
                .unwrap();
        }
        let roots = Roots { sys, ..Roots::system() };
        (dir, roots)
    }

    #[test]
    fn counts_disks_partitions_stacks_and_all_devices_of_a_btrfs() {
        let (_dir, roots) = tree();
        for (device, fs_type, sectors_written) in [
            ("8:0", "ext4", Some(77)),
            ("8:1", "xfs", Some(77)),
            ("8:2", "ext4", None),
            ("8:3", "ext4", Some(77)),
            ("8:4", "ext4", None),
            ("8:9", "ext4", None),
            ("8:0", "btrfs", Some(154)),
            ("8:2", "btrfs", None),
        ] {
            assert_eq!(sectors(&roots, &target(device, fs_type)), sectors_written, "{device}");
        }
    }
}
