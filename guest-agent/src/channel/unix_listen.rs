//! A listening Unix socket with one client at a time; the others wait in its backlog.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{self, Errno};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{accept_with, bind, listen, socket_with};

use super::{OpenError, READING};
use crate::errno;

/// Clients that may wait for their turn.
const BACKLOG: i32 = 16;

/// The socket, and its client.
#[derive(Debug)]
pub(crate) struct UnixListen {
    listener: OwnedFd,
    listening: bool,
    client: Option<OwnedFd>,
}

impl UnixListen {
    /// Removes what stands at `path`, and listens there. The socket stays behind when the agent
    /// ends, as that of qemu-ga does.
    pub(super) fn bind(path: Option<PathBuf>) -> Result<Self, OpenError> {
        let path = path.ok_or(OpenError::NoPath)?;
        let open = || {
            let address = SocketAddrUnix::new(&path)?;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            match rustix::fs::unlink(&path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
            bind(&listener, &address)?;
            listen(&listener, BACKLOG)?;
            Ok(listener)
        };
        let listener = open().map_err(|e| OpenError::Bind {
            path: path.display().to_string(),
            error: errno::text(e),
        })?;
        Ok(Self { listener, listening: false, client: None })
    }

    pub(super) fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<bool> {
        if !self.listening {
            let flags = EventFlags::IN | EventFlags::ET;
            epoll::add(epoll, &self.listener, EventData::new_u64(token), flags)?;
            self.listening = true;
        }
        if self.client.is_some() {
            return Ok(false);
        }
        loop {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(client) => {
                    epoll::add(epoll, &client, EventData::new_u64(token), READING)?;
                    self.client = Some(client);
                    return Ok(true);
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn detach(&mut self) {
        self.client = None;
    }

    pub(super) fn stream(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(|client| client.as_fd())
    }
}
