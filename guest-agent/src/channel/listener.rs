//! A listening socket with one client at a time; the others wait in its backlog.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{self, Errno};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{accept_with, bind, listen, socket_with};

use super::{OpenError, READING, vsock_address};
use crate::{errno, sys};

/// Clients that may wait for their turn.
const BACKLOG: i32 = 16;

/// The socket, and its client.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    listening: bool,
    client: Option<OwnedFd>,
}

impl Listener {
    /// `unix-listen`: removes what stands at `path`, and listens there. The socket stays behind
    /// when the agent ends, as that of qemu-ga does.
    pub(super) fn unix(path: Option<PathBuf>) -> Result<Self, OpenError> {
        let path = path.ok_or(OpenError::NoPath)?;
        let open = || {
            let address = SocketAddrUnix::new(&path)?;
            let socket = new_socket(AddressFamily::UNIX)?;
            match rustix::fs::unlink(&path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
            bind(&socket, &address)?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        };
        let failed =
            |e| OpenError::Bind { path: path.display().to_string(), error: errno::text(e) };
        open().map(Self::adopt).map_err(failed)
    }

    /// `vsock-listen`: `path` is `CID:PORT`.
    pub(super) fn vsock(path: Option<PathBuf>) -> Result<Self, OpenError> {
        let path = path.ok_or(OpenError::NoPath)?;
        let (cid, port) = vsock_address::parse(&path.to_string_lossy())?;
        let open = || {
            let socket = new_socket(AddressFamily::VSOCK)?;
            sys::vsock::bind(&socket, cid, port)?;
            listen(&socket, 1)?;
            Ok(socket)
        };
        open().map(Self::adopt).map_err(|e: Errno| OpenError::BindVsock(errno::text(e)))
    }

    /// A socket that listens already, and does not block.
    pub(super) fn adopt(socket: OwnedFd) -> Self {
        Self { socket, listening: false, client: None }
    }

    pub(super) fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<bool> {
        if !self.listening {
            let flags = EventFlags::IN | EventFlags::ET;
            epoll::add(epoll, &self.socket, EventData::new_u64(token), flags)?;
            self.listening = true;
        }
        if self.client.is_some() {
            return Ok(false);
        }
        loop {
            match accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
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

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(family, SocketType::STREAM, flags, None)
}
