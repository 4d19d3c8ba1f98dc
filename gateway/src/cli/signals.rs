//! Signals that tell this program to end, so that it can leave things in order.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// The four that users, terminals and service managers send.
#[derive(Debug)]
pub(super) struct Signals {
    term: unix::Signal,
    hup: unix::Signal,
    int: unix::Signal,
    quit: unix::Signal,
}

impl Signals {
    /// From now on they end nothing by themselves.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one that comes.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::TERM,
            _ = self.hup.recv() => Signal::HUP,
            _ = self.int.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
        }
    }
}

/// What a process exits with that such a signal ended.
pub(super) fn code(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).unwrap_or(0).wrapping_add(128)
}
