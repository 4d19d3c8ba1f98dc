//! The two ioctls that freeze and thaw a filesystem.

use std::os::fd::AsFd;

use rustix::io;
use rustix::ioctl::{NoArg, Opcode, ioctl};

/// `FIFREEZE` of `linux/fs.h`: `_IOWR('X', 119, int)`. The argument is not looked at.
const FIFREEZE: Opcode = 0xC004_5877;
/// `FITHAW` of `linux/fs.h`: `_IOWR('X', 120, int)`. The argument is not looked at.
const FITHAW: Opcode = 0xC004_5878;

/// Freezes the filesystem that `directory` lies on. Sleeps, uninterruptibly, until everything
/// dirty has reached the disk: for ever when the disk does not answer.
pub(crate) fn freeze(directory: impl AsFd) -> io::Result<()> {
    // SAFETY: the opcode is a valid one, and the kernel neither reads nor writes the argument.
    unsafe { ioctl(directory, NoArg::<FIFREEZE>::new()) }
}

/// Thaws the filesystem that `directory` lies on; `EINVAL` when it is not frozen.
pub(crate) fn thaw(directory: impl AsFd) -> io::Result<()> {
    // SAFETY: as for `freeze`.
    unsafe { ioctl(directory, NoArg::<FITHAW>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::ioctl::opcode;

    #[test]
    fn opcodes_are_those_of_linux_fs_h() {
        assert_eq!(FIFREEZE, opcode::read_write::<libc::c_int>(b'X', 119));
        assert_eq!(FITHAW, opcode::read_write::<libc::c_int>(b'X', 120));
    }

    #[test]
    fn a_filesystem_that_cannot_freeze_says_so() {
        let proc = std::fs::File::open("/proc").unwrap();
        let refused = freeze(&proc).unwrap_err();
        assert!([io::Errno::OPNOTSUPP, io::Errno::PERM].contains(&refused), "{refused}");
    }
}
