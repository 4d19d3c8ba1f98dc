//! The guests' clock: time since boot, which a test may move ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A clock of this machine, and how far a test has moved it ahead. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    of: ClockId,
    added: Arc<AtomicU64>,
}

impl Default for Clock {
    /// `CLOCK_BOOTTIME`.
    fn default() -> Self {
        Self::of(ClockId::Boottime)
    }
}

impl Clock {
    /// One that stands still while this machine is suspended, as do those of the guests of a
    /// suspended host.
    pub fn still_in_sleep() -> Self {
        Self::of(ClockId::Monotonic)
    }

    fn of(of: ClockId) -> Self {
        Self { of, added: Arc::default() }
    }

    /// Time since the boot of this machine, and what was added.
    pub fn now(&self) -> Duration {
        let now = clock_gettime(self.of);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
        let added = Duration::from_nanos(self.added.load(Ordering::Relaxed));
        Duration::new(seconds, nanoseconds) + added
    }

    /// Moves it ahead: deadlines pass without anybody waiting for them.
    pub fn advance(&self, by: Duration) {
        let nanoseconds = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.added.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}
