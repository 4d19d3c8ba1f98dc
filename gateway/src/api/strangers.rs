//! Requests of nobody: how many of them leave a line each. Somebody without credentials may ask as
//! fast as the host can answer, and must not be able to fill its disk with that.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in a row.
const BURST: u32 = 200;
/// One more is for each of these.
const PAUSE: Duration = Duration::from_millis(100);

/// Shared by all connections.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    /// Moves on by a pause with each line; it may be a burst ahead.
    paid: Option<Instant>,
    left_out: u64,
}

impl Strangers {
    /// Whether this request leaves its line; if so, how many before it have left none.
    pub(super) fn leave_a_line(&self) -> Option<u64> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = lines.paid.unwrap_or(now).max(now) + PAUSE;
        if next > now + PAUSE * BURST {
            lines.left_out += 1;
            return None;
        }
        lines.paid = Some(next);
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_ten_a_second_and_none_goes_uncounted() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        assert!((0..BURST).all(|_| strangers.at(now) == Some(0)));
        assert!((0..1000).all(|_| strangers.at(now).is_none()));
        assert_eq!(strangers.at(now + PAUSE), Some(1000));
        assert_eq!(strangers.at(now + PAUSE), None);
        assert_eq!(strangers.at(now + 2 * PAUSE), Some(1));
    }
}
