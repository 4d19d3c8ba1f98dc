//! A port of a virtio-serial device, open all the time: QEMU tells the host's management by it
//! that an agent is there.
//!
//! Without a host at the other end a read returns 0 and a write `EAGAIN`. A host's coming and going
//! each cause one event, but a quick succession of both may cause a single one.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::epoll::{self, EventData};
use rustix::fs::{Mode, OFlags, open};
use rustix::io;

use super::{OpenError, READING};
use crate::errno;

/// The open port.
#[derive(Debug)]
pub(crate) struct VirtioSerial {
    port: OwnedFd,
    attached: bool,
}

impl VirtioSerial {
    pub(super) fn open(path: Option<PathBuf>) -> Result<Self, OpenError> {
        let path = path.ok_or(OpenError::NoPath)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let port = open(&path, flags, Mode::empty()).map_err(|e| OpenError::Device {
            path: path.display().to_string(),
            error: errno::text(e),
        })?;
        Ok(Self { port, attached: false })
    }

    pub(super) fn attach(&mut self, epoll: BorrowedFd<'_>, token: u64) -> io::Result<bool> {
        let first = !self.attached;
        if first {
            epoll::add(epoll, &self.port, EventData::new_u64(token), READING)?;
            self.attached = true;
        }
        Ok(first)
    }

    pub(super) fn stream(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}
