//! The ways to a host: byte streams that come and go.
//!
//! All descriptors are non-blocking and registered edge-triggered: an event says that something
//! changed, and the session reads and writes until it is told [`Blocked`](Read::Blocked). So a
//! port without a host causes no wake-ups, although the kernel reports it as hung up all the time.

mod unix_listen;
mod virtio_serial;

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{self, Errno};

use self::unix_listen::UnixListen;
use self::virtio_serial::VirtioSerial;

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now; an event will follow.
    Blocked,
    /// No peer is there to read from; what is to be done depends on the channel.
    End,
    /// The channel is lost.
    Lost(Errno),
}

/// What a write did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// So many bytes were taken.
    Bytes(usize),
    /// The host does not read; an event will follow once writing is asked for.
    Blocked,
    /// Nobody will ever read this.
    Gone,
}

/// Why a channel cannot be opened: what qemu-ga logs, line by line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("unsupported channel method/type: {0}")]
    Method(String),
    #[error("must specify a path for this channel")]
    NoPath,
    #[error("error opening channel '{path}': {error}")]
    Device { path: String, error: String },
    #[error("Failed to bind socket to {path}: {error}")]
    Bind { path: String, error: String },
}

/// One way to a host.
#[derive(Debug)]
pub(crate) enum Channel {
    VirtioSerial(VirtioSerial),
    UnixListen(UnixListen),
}

impl Channel {
    /// Opens the channel of a method as qemu-ga's `-m` and `-p` name it.
    pub(crate) fn open(method: &str, path: Option<PathBuf>) -> Result<Self, OpenError> {
        match method {
            "virtio-serial" => VirtioSerial::open(path).map(Self::VirtioSerial),
            "unix-listen" => UnixListen::bind(path).map(Self::UnixListen),
            _ => Err(OpenError::Method(method.to_owned())),
        }
    }

    /// Takes the next peer, if there is none and one waits, and registers for the events of
    /// whatever is there to be waited for. `token` tells the events of one peer from those of
    /// another.
    pub(crate) fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<bool> {
        match self {
            Self::VirtioSerial(port) => port.attach(epoll, token),
            Self::UnixListen(socket) => socket.attach(epoll, token),
        }
    }

    /// Drops the peer, where the channel can.
    pub(crate) fn detach(&mut self) {
        if let Self::UnixListen(socket) = self {
            socket.detach();
        }
    }

    /// Whether the end of input is the end of this peer, with another one to come through
    /// [`attach`](Self::attach). Otherwise the same descriptor goes on when a host comes back.
    pub(crate) fn has_clients(&self) -> bool {
        matches!(self, Self::UnixListen(_))
    }

    /// Appends to `buffer` at most what fits into its capacity.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>) -> Read {
        let Some(stream) = self.stream() else { return Read::Blocked };
        loop {
            return match io::read(stream, spare_capacity(buffer)) {
                Ok(0) => Read::End,
                Ok(n) => Read::Bytes(n),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Read::Blocked,
                Err(Errno::CONNRESET) if self.has_clients() => Read::End,
                Err(errno) => Read::Lost(errno),
            };
        }
    }

    /// Writes as much as the channel takes at once.
    pub(crate) fn write<const N: usize>(&self, pieces: [&[u8]; N]) -> Write {
        let Some(stream) = self.stream() else { return Write::Gone };
        let pieces = pieces.map(IoSlice::new);
        // A reply is mostly one piece, and that costs less to write by itself.
        let single = pieces.iter().skip(1).all(|piece| piece.is_empty());
        loop {
            let written =
                if single { io::write(stream, &pieces[0]) } else { io::writev(stream, &pieces) };
            return match written {
                Ok(n) => Write::Bytes(n),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Write::Blocked,
                Err(_) => Write::Gone,
            };
        }
    }

    /// Asks for an event when writing becomes possible again, or no longer asks for it: each read
    /// of the host would cause one.
    pub(crate) fn watch_writing(
        &self,
        epoll: BorrowedFd<'_>,
        token: u64,
        watch: bool,
    ) -> io::Result<()> {
        let Some(stream) = self.stream() else { return Ok(()) };
        let flags = if watch { READING | EventFlags::OUT } else { READING };
        epoll::modify(epoll, stream, EventData::new_u64(token), flags)
    }

    fn stream(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::VirtioSerial(port) => Some(port.stream()),
            Self::UnixListen(socket) => socket.stream(),
        }
    }
}

/// What is always watched. Hang-ups and errors are reported unasked.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
