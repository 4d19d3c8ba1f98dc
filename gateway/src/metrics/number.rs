//! Numbers that may be written by all threads at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper end of a histogram's bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// As it is written: a number of seconds with a point, the same in both formats.
    pub(crate) le: &'static str,
    nanos: u64,
}

const fn bound(le: &'static str, nanos: u64) -> Bound {
    Bound { le, nanos }
}

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// From a ping's round trip to a freeze that hangs.
const LATENCY: &[Bound] = &[
    bound("0.0001", MS / 10),
    bound("0.0005", MS / 2),
    bound("0.001", MS),
    bound("0.005", 5 * MS),
    bound("0.025", 25 * MS),
    bound("0.1", 100 * MS),
    bound("0.5", 500 * MS),
    bound("2.5", 2_500 * MS),
    bound("10.0", 10 * S),
    bound("60.0", 60 * S),
    bound("300.0", 300 * S),
];

/// From a snapshot of one disk to a lease that was renewed for hours.
const HOLD: &[Bound] = &[
    bound("0.1", 100 * MS),
    bound("0.5", 500 * MS),
    bound("1.0", S),
    bound("2.0", 2 * S),
    bound("5.0", 5 * S),
    bound("10.0", 10 * S),
    bound("30.0", 30 * S),
    bound("60.0", 60 * S),
    bound("300.0", 300 * S),
    bound("1800.0", 1_800 * S),
    bound("7200.0", 7_200 * S),
];

/// How long something took, how often.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [Bound],
    /// One per bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

/// A [`Histogram`] at one moment.
#[derive(Debug)]
pub(crate) struct Distribution {
    /// Each bound with the number of all that took no longer.
    pub(crate) buckets: Vec<(&'static str, u64)>,
    pub(crate) count: u64,
    pub(crate) sum: Duration,
}

impl Histogram {
    pub(crate) fn latency() -> Self {
        Self::new(LATENCY)
    }

    pub(crate) fn hold() -> Self {
        Self::new(HOLD)
    }

    fn new(bounds: &'static [Bound]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, nanos: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = self.bounds.partition_point(|bound| bound.nanos < nanos);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The count is the sum of the buckets, so that they agree while others go on observing.
    pub(crate) fn distribution(&self) -> Distribution {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (n, here) in self.counts.iter().enumerate() {
            count += here.load(Ordering::Relaxed);
            if let Some(bound) = self.bounds.get(n) {
                buckets.push((bound.le, count));
            }
        }
        Distribution {
            buckets,
            count,
            sum: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_in_order_and_say_what_they_are() {
        for bounds in [LATENCY, HOLD] {
            assert!(bounds.is_sorted_by(|a, b| a.nanos < b.nanos));
            for bound in bounds {
                let seconds: f64 = bound.le.parse().expect("a number");
                let nanos = Duration::from_secs_f64(seconds).as_nanos();
                assert_eq!(nanos, u128::from(bound.nanos), "{}", bound.le);
            }
        }
    }

    #[test]
    fn what_took_as_long_as_a_bound_is_within_it() {
        let histogram = Histogram::latency();
        for took in [0, MS / 10, MS / 10 + 1, 400 * S] {
            histogram.observe(Duration::from_nanos(took));
        }
        let Distribution { buckets, count, sum } = histogram.distribution();
        assert_eq!(buckets[..2], [("0.0001", 2), ("0.0005", 3)]);
        assert_eq!((buckets.last(), count), (Some(&("300.0", 3)), 4));
        assert_eq!(sum, Duration::from_nanos(400 * S + MS / 5 + 1));
    }
}
