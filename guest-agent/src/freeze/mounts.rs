//! The mount table, and which of its entries qemu-ga freezes.
//!
//! `/proc/self/mountinfo` lists all mounts in mount order. What can be frozen is what sits on a
//! block device: entries with a device number whose major is not 0, except that btrfs, whose
//! number is anonymous, counts with the number of its source device. Of several mounts of one
//! device only the first counts.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dev, StatxFlags, major, makedev, minor, stat, statx};

/// Major and minor number of a block device: what makes a filesystem one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device(Dev);

impl Device {
    /// Major 0 is for filesystems without a block device.
    fn of_block_device(device: Dev) -> Option<Self> {
        (major(device) != 0).then_some(Self(device))
    }
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(super) id: u64,
    /// `None`: this mount has no block device.
    pub(crate) device: Option<Device>,
    pub(crate) path: PathBuf,
    pub(crate) fs_type: String,
    /// The filesystem itself, and not only this mount of it.
    pub(super) read_only: bool,
}

/// A filesystem that can be frozen, at the first place where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) device: Device,
    pub(crate) path: PathBuf,
    pub(crate) fs_type: String,
    /// It cannot be written to.
    pub(crate) read_only: bool,
}

/// The mount table at one moment, in mount order.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(super) all: Vec<Mount>,
}

impl Mounts {
    /// Reads the table of the agent's own mount namespace.
    pub(crate) fn read() -> io::Result<Self> {
        let table = std::fs::read("/proc/self/mountinfo")?;
        Ok(Self::parse(&table, |source| stat(source).ok().map(|stat| stat.st_rdev)))
    }

    /// `device_of` gives the number of the block device at a path.
    pub(super) fn parse(table: &[u8], device_of: impl Fn(&Path) -> Option<Dev>) -> Self {
        let lines = table.split(|&byte| byte == b'\n');
        Self { all: lines.filter_map(|line| parse_line(line, &device_of)).collect() }
    }

    /// What qemu-ga freezes, thaws and trims, in mount order.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let of = |(device, mount): (Device, &Mount)| Target {
            device,
            path: mount.path.clone(),
            fs_type: mount.fs_type.clone(),
            read_only: mount.read_only,
        };
        self.on_devices().into_iter().map(of).collect()
    }

    /// The first mount of each block device, in mount order.
    pub(crate) fn on_devices(&self) -> Vec<(Device, &Mount)> {
        let mut first: Vec<(Device, &Mount)> = Vec::new();
        for mount in &self.all {
            let Some(device) = mount.device else { continue };
            if first.iter().all(|(known, _)| *known != device) {
                first.push((device, mount));
            }
        }
        first
    }

    /// The mount that `path`, which must be free of links, lies on.
    pub(crate) fn holder(&self, path: &Path) -> Option<&Mount> {
        if let Some(id) = mount_id(path)
            && let Some(mount) = self.all.iter().find(|mount| mount.id == id)
        {
            return Some(mount);
        }
        // Kernels before 5.8: the longest mount point above it; the last one covers the others.
        let above = self.all.iter().filter(|mount| path.starts_with(&mount.path));
        above.max_by_key(|mount| mount.path.as_os_str().len())
    }
}

fn mount_id(path: &Path) -> Option<u64> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// `id parent major:minor root path options [tags…] - type source options`
fn parse_line(line: &[u8], device_of: &impl Fn(&Path) -> Option<Dev>) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let numbers = std::str::from_utf8(fields.next()?).ok()?;
    let _root = fields.next()?;
    let path = unescape(fields.next()?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = fields.next().map(unescape);
    let read_only = fields
        .next()
        .is_some_and(|options| options.split(|byte| *byte == b',').any(|o| o == b"ro"));

    let (major, minor) = numbers.split_once(':')?;
    let mut device = makedev(major.parse().ok()?, minor.parse().ok()?);
    if rustix::fs::major(device) == 0 && fs_type == "btrfs" {
        device = device_of(&source?).unwrap_or(device);
    }
    Some(Mount { id, device: Device::of_block_device(device), path, fs_type, read_only })
}

/// The kernel writes space, tab, newline, backslash and `#` as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                path.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&path))
}

/// As it is displayed.
impl std::str::FromStr for Device {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |part: &str| part.parse().map_err(|_| ());
        let (major, minor) = text.split_once(':').ok_or(())?;
        Self::of_block_device(makedev(number(major)?, number(minor)?)).ok_or(())
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", major(self.0), minor(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 27 0:50 / /run rw - tmpfs tmpfs rw
31 27 8:1 / /mnt/a\\040b rw,relatime shared:2 master:1 - xfs /dev/sda1 rw
32 27 254:0 /home /bind rw - ext4 /dev/vda rw
33 27 0:40 /@ /mnt/btr rw - btrfs /dev/sdb rw,subvol=/@
34 27 0:40 /@home /mnt/btr2 rw - btrfs /dev/sdb rw,subvol=/@home
35 27 0:41 / /mnt/gone rw - btrfs /dev/gone rw
36 27 8:1 / /again rw - xfs /dev/sda1 rw
37 27 7:0 / /snap ro - squashfs /dev/loop0 ro
not a mount line
";

    fn table() -> Mounts {
        Mounts::parse(TABLE.as_bytes(), |source| {
            (source == Path::new("/dev/sdb")).then(|| makedev(8, 16))
        })
    }

    #[test]
    fn targets_are_the_first_mounts_of_block_devices() {
        let targets: Vec<_> = table()
            .targets()
            .into_iter()
            .map(|target| (target.device.to_string(), target.path.display().to_string()))
            .collect();
        let expected =
            [("254:0", "/"), ("8:1", "/mnt/a b"), ("8:16", "/mnt/btr"), ("7:0", "/snap")];
        assert_eq!(targets, expected.map(|(device, path)| (device.into(), path.into())));
        let read_only = table().targets().into_iter().map(|target| target.read_only);
        assert!(read_only.eq([false, false, false, true]));
    }

    #[test]
    fn a_device_reads_as_it_is_written() {
        let target = table().targets().remove(1);
        assert_eq!(target.device.to_string().parse(), Ok(target.device));
        for text in ["", "8", "8:x", "-1:0", "0:5", "99999999999:0"] {
            assert_eq!(text.parse::<Device>(), Err(()), "{text}");
        }
    }

    #[test]
    fn escapes_are_octal_and_anything_else_is_literal() {
        assert_eq!(unescape(br"/a\134\040\011b\9\04"), Path::new("/a\\ \tb\\9\\04"));
    }

    #[test]
    fn a_path_lies_on_the_longest_mount_point_above_it() {
        // Nothing here exists, so the kernel knows no mount id.
        let mounts = table();
        assert_eq!(mounts.holder(Path::new("/mnt/btr/none")).unwrap().id, 33);
        assert_eq!(mounts.holder(Path::new("/nonexistent")).unwrap().id, 27);
    }

    #[test]
    fn no_line_of_any_kind_panics() {
        for line in TABLE.lines() {
            for end in 0..=line.len() {
                Mounts::parse(&line.as_bytes()[..end], |_| None);
            }
        }
    }

    #[test]
    fn this_systems_own_table_has_a_root() {
        let mounts = Mounts::read().unwrap();
        assert_eq!(mounts.holder(Path::new("/")).unwrap().path, Path::new("/"));
    }
}
