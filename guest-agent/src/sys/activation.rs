//! The descriptors that a service manager hands over.

use std::env;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::fcntl_getfd;

/// The first of them, `SD_LISTEN_FDS_START` of `systemd/sd-daemon.h`.
const FIRST: libc::c_int = 3;

/// How many descriptors are for this process, and the first of them, if it is open. Clears the
/// variables. Call it once, before any thread starts and any file is opened.
pub(crate) fn take() -> (u32, Option<OwnedFd>) {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return (0, None);
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        // SAFETY: there is only one thread, so nobody reads the environment meanwhile.
        unsafe { env::remove_var(name) };
    }
    if count == 0 {
        return (0, None);
    }
    // SAFETY: the service manager opened it for this process, and nobody else here knows of it.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST) };
    if fcntl_getfd(&socket).is_err() {
        // It says so, but there is none.
        std::mem::forget(socket);
        return (count, None);
    }
    (count, Some(socket))
}
