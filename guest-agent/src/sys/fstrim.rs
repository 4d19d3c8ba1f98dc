//! The ioctl that tells a filesystem's disk what is unused.

use std::os::fd::AsFd;

use rustix::io;
use rustix::ioctl::{Opcode, Updater, ioctl};

/// `FITRIM` of `linux/fs.h`: `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: Opcode = 0xC018_5879;

/// `struct fstrim_range`.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
    minlen: u64,
}

/// What was trimmed, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trimmed {
    pub(crate) bytes: u64,
    /// The smallest stretch that the filesystem told, which may be more than was asked for.
    pub(crate) minimum: u64,
}

/// Trims all of the filesystem that `directory` lies on, but no stretch shorter than `minimum`
/// bytes. May take minutes.
pub(crate) fn trim(directory: impl AsFd, minimum: u64) -> io::Result<Trimmed> {
    let mut range = Range { start: 0, len: u64::MAX, minlen: minimum };
    // SAFETY: the kernel reads and writes a `struct fstrim_range` and nothing else.
    unsafe { ioctl(directory, Updater::<FITRIM, Range>::new(&mut range)) }?;
    Ok(Trimmed { bytes: range.len, minimum: range.minlen })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::ioctl::opcode;

    #[test]
    fn the_opcode_is_that_of_linux_fs_h() {
        assert_eq!(size_of::<Range>(), 24);
        assert_eq!(FITRIM, opcode::read_write::<Range>(b'X', 121));
    }

    #[test]
    fn a_filesystem_that_cannot_trim_says_so() {
        let proc = std::fs::File::open("/proc").unwrap();
        let refused = trim(&proc, 0).unwrap_err();
        assert!([io::Errno::NOTTY, io::Errno::PERM].contains(&refused), "{refused}");
    }
}
