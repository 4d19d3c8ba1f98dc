//! A socket that systemd listens on for the agent (`sd_listen_fds(3)`).

use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, getsockname};

use super::Channel;
use super::listener::Listener;
use crate::sys;

/// Why the sockets that were handed over are of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ActivationError {
    #[error("qemu-ga only supports listening on one socket")]
    TooMany,
    #[error("unsupported listen fd type")]
    Type,
}

/// A socket that was handed over.
#[derive(Debug)]
pub(crate) struct Activated {
    /// What a channel of this kind is called.
    pub(crate) method: &'static str,
    pub(crate) channel: Channel,
}

/// Takes what was handed over to this process, if anything was, and clears the variables that say
/// so, so that no program that it starts takes it for its own.
pub(crate) fn take() -> Result<Option<Activated>, ActivationError> {
    let (count, first) = sys::activation::take();
    match (count, first) {
        (0, _) => Ok(None),
        (1, Some(socket)) => adopt(socket).map(Some),
        (1, None) => Err(ActivationError::Type),
        _ => Err(ActivationError::TooMany),
    }
}

fn adopt(socket: OwnedFd) -> Result<Activated, ActivationError> {
    let address = getsockname(&socket).map_err(|_| ActivationError::Type)?;
    let method = match address.address_family() {
        AddressFamily::UNIX => "unix-listen",
        AddressFamily::VSOCK => "vsock-listen",
        _ => return Err(ActivationError::Type),
    };
    let prepare = || {
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)
    };
    prepare().map_err(|_| ActivationError::Type)?;
    Ok(Activated { method, channel: Channel::Listener(Listener::adopt(socket)) })
}
