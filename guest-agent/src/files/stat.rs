//! What the kernel says of files, as it goes over the wire, and what clients expect of it.

use qga_proto::command::{Expected, FileKind, FileStat};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::failure::Failure;
use super::place::kind;

pub(super) fn describe(stat: &Stat, target: Option<String>) -> FileStat {
    FileStat {
        kind: match kind(stat) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::Unknown => FileKind::Unknown,
        },
        size: size(stat),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: wide(stat.st_nlink),
        ino: stat.st_ino,
        dev: stat.st_dev,
        mtime_ns: nanoseconds(stat.st_mtime, wide(stat.st_mtime_nsec)),
        ctime_ns: nanoseconds(stat.st_ctime, wide(stat.st_ctime_nsec)),
        target,
    }
}

/// Whether what stands there is what a client expects.
pub(super) fn check(expected: &Expected, found: Option<&Stat>) -> Result<(), Failure> {
    let differs = Failure::new(Errno::STALE, "what is there is not what was expected");
    let of_a_file =
        expected.ino.is_some() || expected.size.is_some() || expected.mtime_ns.is_some();
    let Some(found) = found else {
        let nothing = Failure::new(Errno::NOENT, "what was expected there is not there");
        return if of_a_file { Err(nothing) } else { Ok(()) };
    };
    if expected.absent {
        return Err(Errno::EXIST.into());
    }
    let mtime_ns = nanoseconds(found.st_mtime, wide(found.st_mtime_nsec));
    let same = expected.ino.is_none_or(|ino| ino == found.st_ino)
        && expected.size.is_none_or(|expected| expected == size(found))
        && expected.mtime_ns.is_none_or(|expected| expected == mtime_ns);
    if same { Ok(()) } else { Err(differs) }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The kernel's types differ between architectures.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

fn nanoseconds(seconds: i64, nanoseconds: u64) -> i64 {
    // Below a thousand million.
    seconds.saturating_mul(1_000_000_000).saturating_add_unsigned(nanoseconds)
}
