//! Signals that tell this program to end, so that it can leave things in order.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// The four that users, terminals and service managers send; less those that whoever started this
/// program ignores, as nohup does.
#[derive(Debug)]
pub(super) struct Signals {
    term: Option<unix::Signal>,
    hup: Option<unix::Signal>,
    int: Option<unix::Signal>,
    quit: Option<unix::Signal>,
}

impl Signals {
    /// From now on they end nothing by themselves.
    pub(super) fn catch() -> io::Result<Self> {
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let caught = |which: SignalKind, number: Signal| {
            let is_ignored = ignored >> (number.as_raw() - 1) & 1 == 1;
            if is_ignored { Ok(None) } else { signal(which).map(Some) }
        };
        Ok(Self {
            term: caught(SignalKind::terminate(), Signal::TERM)?,
            hup: caught(SignalKind::hangup(), Signal::HUP)?,
            int: caught(SignalKind::interrupt(), Signal::INT)?,
            quit: caught(SignalKind::quit(), Signal::QUIT)?,
        })
    }

    /// The next one that comes.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = one(&mut self.term) => Signal::TERM,
            () = one(&mut self.hup) => Signal::HUP,
            () = one(&mut self.int) => Signal::INT,
            () = one(&mut self.quit) => Signal::QUIT,
        }
    }
}

async fn one(signal: &mut Option<unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Those that this process ignores, a bit each, by what the kernel says of it; none if it does not.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What a process exits with that such a signal ended.
pub(super) fn code(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).unwrap_or(0).wrapping_add(128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_kernels_words() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t00\nSigIgn:\t0000000000001003\n"), 0x1003);
        assert_eq!(ignored("SigIgn:\tno number\n") | ignored(""), 0);
    }
}
