//! A descriptor in the exec thread's epoll.

use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::{errno, log};

/// The agent's end of a pipe or terminal, and what is waited for on it.
///
/// When nothing is, it is not in the epoll at all: a pipe whose other end is closed is reported
/// however little one asked for, and again at once.
#[derive(Debug)]
pub(super) struct Source {
    fd: OwnedFd,
    token: u64,
    watched: EventFlags,
}

impl Source {
    /// Not watched yet. Its events will have this token.
    pub(super) fn new(fd: OwnedFd, token: u64) -> Self {
        Self { fd, token, watched: EventFlags::empty() }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn watch(&mut self, epoll: &OwnedFd, flags: EventFlags) {
        if flags == self.watched {
            return;
        }
        let data = EventData::new_u64(self.token);
        let result = match (self.watched.is_empty(), flags.is_empty()) {
            (true, _) => epoll::add(epoll, &self.fd, data, flags),
            (false, false) => epoll::modify(epoll, &self.fd, data, flags),
            (false, true) => epoll::delete(epoll, &self.fd),
        };
        match result {
            Ok(()) => self.watched = flags,
            Err(e) => log::critical(format_args!("epoll: {}", errno::text(e))),
        }
    }

    /// A process that is just being started has copies of all descriptors until it executes, and an
    /// epoll watches a descriptor until its last copy is closed: so it is taken out first.
    pub(super) fn close(mut self, epoll: &OwnedFd) {
        self.watch(epoll, EventFlags::empty());
    }
}
