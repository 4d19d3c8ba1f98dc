//! The guest's data disks, and looking into their images without mounting them.

use std::fmt::{self, Display};
use std::fs::File;
use std::hash::Hasher;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A data disk, named after its filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disk {
    /// ext4, built into the guest's kernel.
    Ext4,
    /// xfs.
    Xfs,
    /// btrfs, whose device number in the mount list is not the disk's.
    Btrfs,
}

impl Disk {
    /// All data disks.
    pub const DATA: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Name of the filesystem, of the disk's serial and of its directory under `/data`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Where the guest mounts it.
    pub fn mount_point(self) -> PathBuf {
        Path::new("/data").join(self.name())
    }

    /// Bytes of the image: about the least that each mkfs agrees to.
    pub(crate) const fn size(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 320 << 20,
            Self::Btrfs => 128 << 20,
        }
    }

    /// Makes the filesystem in the image at `path`.
    pub(crate) fn format(self, path: &Path) -> Result<()> {
        File::create(path)?.set_len(self.size())?;
        let mut mkfs = match self {
            Self::Ext4 => tool("mke2fs", &["-q", "-F", "-t", "ext4"]),
            Self::Xfs => tool("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => tool("mkfs.btrfs", &["-q", "-f"]),
        };
        run(mkfs.arg(path)).map(drop)
    }
}

impl Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number that tells whether an image's bytes have changed.
///
/// # Errors
/// The image cannot be read.
pub fn fingerprint(image: &Path) -> Result<u64> {
    let mut file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    // Not cryptographic, but nobody attacks here, and it is fast in an unoptimised build.
    let mut hasher = std::hash::DefaultHasher::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finish()),
            count => hasher.write(&chunk[..count]),
        }
    }
}

/// Whether an ext4 image would need its journal replayed before it is consistent.
///
/// # Errors
/// `dumpe2fs` cannot read the image.
pub fn needs_recovery(image: &Path) -> Result<bool> {
    let header = run(tool("dumpe2fs", &["-h"]).arg(image))?;
    let header = String::from_utf8_lossy(&header);
    let features = header
        .lines()
        .find_map(|line| line.strip_prefix("Filesystem features:"))
        .context("dumpe2fs names no features")?;
    Ok(features.split_whitespace().any(|feature| feature == "needs_recovery"))
}

/// A file's bytes out of an ext4 image, without its journal and without root's rights.
///
/// # Errors
/// `debugfs` fails.
pub fn cat_from_ext4(image: &Path, path: &str) -> Result<Vec<u8>> {
    run(tool("debugfs", &["-R", &format!("cat {path}")]).arg(image))
}

/// A program of the administrator, whose directories are not in everybody's `PATH`.
pub(crate) fn tool(name: &str, args: &[&str]) -> Command {
    let path =
        ["/usr/sbin", "/sbin"].iter().map(|dir| Path::new(dir).join(name)).find(|p| p.exists());
    let mut command = Command::new(path.unwrap_or_else(|| name.into()));
    command.args(args);
    command
}

/// Output of a program that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let done = command.output().with_context(|| format!("running {command:?}"))?;
    if !done.status.success() {
        bail!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(done.stdout)
}
