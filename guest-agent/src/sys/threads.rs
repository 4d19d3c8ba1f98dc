//! A thread that can be left behind.
//!
//! FIFREEZE and FITHAW may sleep uninterruptibly, and a thread that does so outlives even a
//! SIGKILL of its process. It then must not keep the channel open: a virtio port can be opened
//! only once, and the agent that is started next could not get it.

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io;
use rustix::thread::UnshareFlags;

/// Gives the calling thread a descriptor table of its own in which only `keep` is open.
pub(crate) fn keep_only(keep: impl AsFd) -> io::Result<()> {
    // SAFETY: from here on this thread must not use descriptors of other threads; it is the
    // callers' contract, and they only use `keep`. Descriptors that the other threads own stay
    // open in their table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES)? };
    let keep = keep.as_fd().as_raw_fd().cast_unsigned();
    if keep > 0 {
        close_range(0, keep - 1);
    }
    close_range(keep + 1, libc::c_uint::MAX);
    Ok(())
}

/// Gives the calling thread a descriptor table of its own, with nothing open in it.
pub(crate) fn keep_none() -> io::Result<()> {
    // SAFETY: as for `keep_only`; what the callers use, they open afterwards.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES)? };
    close_range(0, libc::c_uint::MAX);
    Ok(())
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
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
    fn the_thread_keeps_one_descriptor_and_the_others_keep_all() {
        let kept = std::fs::File::open("/").unwrap();
        let other = std::fs::File::open("/").unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    keep_only(&kept).unwrap();
                    assert!(fcntl_getfd(&kept).is_ok());
                    assert_eq!(fcntl_getfd(&other).unwrap_err(), io::Errno::BADF);
                    keep_none().unwrap();
                    assert_eq!(fcntl_getfd(&kept).unwrap_err(), io::Errno::BADF);
                })
                .join()
                .unwrap();
        });
        assert!(fcntl_getfd(&other).is_ok());
    }
}
