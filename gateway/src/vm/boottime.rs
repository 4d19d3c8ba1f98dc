//! The clock of deadlines: `CLOCK_BOOTTIME`, which goes on while the host is suspended.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time since the host's boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct BootTime(Duration);

impl BootTime {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanoseconds))
    }

    /// How long from now until then; nothing if it has passed.
    pub(crate) fn remaining(self) -> Duration {
        self - Self::now()
    }

    /// Returns at that time, or at most a second late after the host was suspended: tokio's timers
    /// stand still meanwhile.
    pub(crate) async fn reached(self) {
        const SLICE: Duration = Duration::from_secs(1);
        loop {
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            tokio::time::sleep(remaining.min(SLICE)).await;
        }
    }
}

/// Which boot of the host this is: points in time of another one mean nothing.
pub(crate) fn host_boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    // Without one, two boots cannot be told apart, and times are taken for those of this boot.
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub for BootTime {
    type Output = Duration;

    /// The time from `earlier` to `self`; nothing if they stand the other way.
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_a_point_and_not_for_the_past() {
        let start = BootTime::now();
        let then = start + Duration::from_millis(20);
        then.reached().await;
        assert!(BootTime::now() >= then);
        start.reached().await;
        assert_eq!(start - then, Duration::ZERO);
        assert_eq!(then - start, Duration::from_millis(20));
    }
}
