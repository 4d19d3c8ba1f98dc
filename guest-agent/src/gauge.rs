//! How full filesystems are.
//!
//! statvfs(2) may never return, when a disk has gone away. So each call is on a thread of its own,
//! at most one per filesystem, and a filesystem that does not answer has no sizes for now: the
//! others are not waited for in vain.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use rustix::fs::statvfs;

use crate::sys;

/// How long a filesystem may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of stack of a thread that makes one call.
const STACK: usize = 64 << 10;

/// Asks filesystems, and remembers which ones have not answered yet.
#[derive(Debug)]
pub(crate) struct Gauge {
    patience: Duration,
    measure: fn(&Path) -> Option<Sizes>,
    unanswered: BTreeMap<String, Receiver<Option<Sizes>>>,
}

/// Bytes, as `df` shows them. What is kept for root counts only as privileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) used: u64,
    pub(crate) total: u64,
    pub(crate) privileged: u64,
}

impl Gauge {
    pub(crate) fn new() -> Self {
        Self { patience: PATIENCE, measure: Sizes::of, unanswered: BTreeMap::new() }
    }

    /// The sizes of the filesystem with this device number, mounted here.
    pub(crate) fn measure(&mut self, device: &str, mount_point: &Path) -> Option<Sizes> {
        if let Some(answer) = self.unanswered.remove(device)
            && answer.try_recv() == Err(TryRecvError::Empty)
        {
            self.unanswered.insert(device.to_owned(), answer);
            return None;
        }
        let (send, answer) = sync_channel(1);
        let (measure, path) = (self.measure, mount_point.to_owned());
        std::thread::Builder::new()
            .name(format!("df:{device}"))
            .stack_size(STACK)
            .spawn(move || {
                // Nobody waits for it any more if it fails.
                let _ = send.send(measure(&path));
            })
            .ok()?;
        let sizes = answer.recv_timeout(self.patience);
        if sizes.is_err() {
            self.unanswered.insert(device.to_owned(), answer);
        }
        sizes.ok()?
    }
}

impl Sizes {
    /// Only for a thread that ends with it.
    fn of(mount_point: &Path) -> Option<Self> {
        // A call that hangs outlives a SIGKILL of the agent, and must not keep its channel open.
        sys::threads::leave_descriptors().ok()?;
        let stat = statvfs(mount_point).ok()?;
        Some(Self::new(stat.f_frsize, stat.f_blocks, stat.f_bfree, stat.f_bavail))
    }

    /// A filesystem may say anything, so nothing here may overflow.
    fn new(block: u64, blocks: u64, free: u64, available: u64) -> Self {
        let used = blocks.saturating_sub(free);
        Self {
            used: used.saturating_mul(block),
            total: used.saturating_add(available).saturating_mul(block),
            privileged: blocks.saturating_mul(block),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn sizes_follow_df_and_never_overflow() {
        let sizes = Sizes::new(1024, 100, 40, 30);
        assert_eq!(sizes, Sizes { used: 61440, total: 92160, privileged: 102_400 });
        let odd = Sizes::new(u64::MAX, u64::MAX, 0, u64::MAX);
        assert_eq!(odd, Sizes { used: u64::MAX, total: u64::MAX, privileged: u64::MAX });
        assert_eq!(Sizes::new(1, 5, 9, 0), Sizes { used: 0, total: 0, privileged: 5 });
    }

    #[test]
    fn who_does_not_answer_is_waited_for_once_and_asked_again_when_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let mut gauge = Gauge::new();
        gauge.patience = Duration::from_millis(200);
        // Opening a pipe without a writer hangs as a dead disk does.
        gauge.measure = |path| {
            std::fs::read(path).ok()?;
            Sizes::of(Path::new("/"))
        };
        assert_eq!(gauge.measure("8:1", &fifo), None);
        let begun = Instant::now();
        for _ in 0..100 {
            assert_eq!(gauge.measure("8:1", &fifo), None);
        }
        assert!(begun.elapsed() < Duration::from_millis(150), "nobody waits for it again");
        assert!(gauge.measure("8:2", Path::new("/proc/version")).is_some());
        drop(std::fs::File::options().write(true).open(&fifo).unwrap());
        while gauge.measure("8:1", Path::new("/proc/version")).is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert!(gauge.unanswered.is_empty());
    }
}
