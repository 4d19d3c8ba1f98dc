//! Signals as a file descriptor, so that they are one more event of the poll thread.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use rustix::io;

/// The signals that end the agent.
const ENDING: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// Blocks the ending signals in this thread, and so in all threads that it starts from here on,
/// and returns a non-blocking descriptor that becomes readable when one arrives.
pub(crate) fn ending_signals() -> std::io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything reads it; the other calls get
    // valid pointers to it, and `signalfd` returns a new descriptor that nobody else owns.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        let failure = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        if failure != 0 {
            return Err(std::io::Error::from_raw_os_error(failure));
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Takes one signal off the descriptor; `false` when there is none.
pub(crate) fn take(signals: &OwnedFd) -> bool {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    loop {
        match io::read(signals, &mut info) {
            Ok(n) => return n == info.len(),
            Err(io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Has every signal do what it does by default, and unblocks all: for a child before it executes a
/// program, which would inherit what whoever started the agent ignores, and what the agent blocks.
pub(super) fn reset_all() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: as above; the default actions run no code, and all three functions are
    // async-signal-safe. What cannot be reset (SIGKILL, the C library's own two) fails harmlessly.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

/// Lets children that have ended be waited for, even if whoever started the agent ignored them.
pub(crate) fn notice_children() {
    // SAFETY: the default action runs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siginfo_has_the_size_that_the_kernel_writes() {
        assert_eq!(size_of::<libc::signalfd_siginfo>(), 128);
    }

    #[test]
    fn a_blocked_signal_is_read_once() {
        let signals = ending_signals().unwrap();
        assert!(!take(&signals));
        // SAFETY: raises a signal in this thread, where it is blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
        assert!(take(&signals));
        assert!(!take(&signals));
    }
}
