//! A thread that can be left behind.
//!
//! FIFREEZE and FITHAW may sleep uninterruptibly, and a thread that does so outlives even a
//! SIGKILL of its process. It then must not keep the channel open: a virtio port can be opened
//! only once, and the agent that is started next could not get it.

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io;
use rustix::thread::UnshareFlags;

/// Gives the calling thread a descriptor table of its own, with nothing open in it. Descriptors
/// that the thread opens afterwards are its own, and closed with it.
pub(crate) fn leave_descriptors() -> io::Result<()> {
    // SAFETY: from here on this thread must not use descriptors of other threads; it is the
    // callers' contract. Descriptors that the other threads own stay open in their table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES)? };
    close_range(0, libc::c_uint::MAX);
    Ok(())
}

/// As [`leave_descriptors`], with the standard streams and `keep` left open under their numbers.
pub(crate) fn leave_descriptors_but(keep: impl AsFd) -> io::Result<()> {
    // SAFETY: as above; the callers go on to use only `keep`.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES)? };
    let keep = keep.as_fd().as_raw_fd().cast_unsigned();
    if keep > FIRST {
        close_range(FIRST, keep - 1);
    }
    close_range(FIRST.max(keep + 1), libc::c_uint::MAX);
    Ok(())
}

/// The first descriptor that is no standard stream.
const FIRST: libc::c_uint = 3;

pub(super) fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: closes descriptors in a table that only this thread uses.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 {
        return;
    }
    // Kernels before 5.9. The agent's descriptors are few and low.
    for fd in first..=last.min(4096) {
        // SAFETY: as above.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::fcntl_getfd;

    #[test]
    fn the_thread_keeps_what_it_is_told_to_and_the_others_keep_all() {
        let kept = std::fs::File::open("/").unwrap();
        let other = std::fs::File::open("/").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                leave_descriptors_but(&kept).unwrap();
                assert!(fcntl_getfd(&kept).is_ok());
                assert_eq!(fcntl_getfd(&other).unwrap_err(), io::Errno::BADF);
            });
            scope.spawn(|| {
                leave_descriptors().unwrap();
                assert_eq!(fcntl_getfd(&kept).unwrap_err(), io::Errno::BADF);
                assert!(std::fs::File::open("/").is_ok());
            });
        });
        assert!(fcntl_getfd(&other).is_ok());
    }
}
