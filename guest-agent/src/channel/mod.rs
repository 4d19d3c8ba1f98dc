//! The ways to a host: byte streams that come and go.
//!
//! All descriptors are non-blocking and registered edge-triggered: an event says that something
//! changed, and the session reads and writes until it is told [`Blocked`](Read::Blocked). So a
//! port without a host causes no wake-ups, although the kernel reports it as hung up all the time.

pub(crate) mod activation;
mod isa_serial;
mod listener;
pub(crate) mod reopen;
mod virtio_serial;
mod vsock_address;

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::{self, Errno};

use crate::log;

use self::isa_serial::IsaSerial;
use self::listener::Listener;
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
    #[error("Failed to bind socket: {0}")]
    BindVsock(String),
    #[error("{0}")]
    Address(String),
}

impl OpenError {
    /// Logs qemu-ga's lines.
    pub(crate) fn log(&self) {
        log::critical(format_args!("{self}"));
        if !matches!(self, Self::Method(_) | Self::NoPath) {
            log::critical(format_args!("failed to create guest agent channel"));
        }
        log::critical(format_args!("failed to initialize guest agent channel"));
    }
}

/// One way to a host.
#[derive(Debug)]
pub(crate) enum Channel {
    VirtioSerial(VirtioSerial),
    IsaSerial(IsaSerial),
    Listener(Listener),
    /// Could not be opened, or was lost.
    Closed,
}

impl Channel {
    /// Opens the channel of a method as qemu-ga's `-m` and `-p` name it.
    pub(crate) fn open(method: &str, path: Option<PathBuf>) -> Result<Self, OpenError> {
        match method {
            "virtio-serial" => VirtioSerial::open(path).map(Self::VirtioSerial),
            "isa-serial" => IsaSerial::open(path).map(Self::IsaSerial),
            "unix-listen" => Listener::unix(path).map(Self::Listener),
            "vsock-listen" => Listener::vsock(path).map(Self::Listener),
            _ => Err(OpenError::Method(method.to_owned())),
        }
    }

    /// Takes the next peer, if there is none and one waits, and registers for the events of
    /// whatever is there to be waited for. `token` tells the events of one peer from those of
    /// another.
    pub(crate) fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<bool> {
        match self {
            Self::VirtioSerial(port) => port.attach(epoll, token),
            Self::IsaSerial(line) => line.attach(epoll, token),
            Self::Listener(socket) => socket.attach(epoll, token),
            Self::Closed => Ok(false),
        }
    }

    /// Drops the peer, where the channel can.
    pub(crate) fn detach(&mut self) {
        if let Self::Listener(socket) = self {
            socket.detach();
        }
    }

    /// Whether the end of input is the end of this peer, with another one to come through
    /// [`attach`](Self::attach). Otherwise the same descriptor goes on when a host comes back.
    pub(crate) fn has_clients(&self) -> bool {
        matches!(self, Self::Listener(_))
    }

    /// Appends to `buffer` at most what fits into its capacity.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>) -> Read {
        let Some(stream) = self.stream() else { return Read::Blocked };
        loop {
            return match io::read(stream, spare_capacity(buffer)) {
                Ok(0) if matches!(self, Self::IsaSerial(_)) => Read::Lost(Errno::IO),
                Ok(0) => Read::End,
                Ok(n) => Read::Bytes(n),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Read::Blocked,
                Err(_) if self.has_clients() => Read::End,
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
            Self::IsaSerial(line) => Some(line.stream()),
            Self::Listener(socket) => socket.stream(),
            Self::Closed => None,
        }
    }
}

/// What is always watched. Hang-ups and errors are reported unasked.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
