//! What a guest sends without being asked, and when it is too much.

use tokio::time::Instant;

/// How much a guest may send that nobody asked for, and how fast it is forgiven.
const SURPLUS_BYTES: usize = 4 << 20;
const FORGIVEN_PER_SECOND: usize = 256 << 10;

/// Bytes that nobody asked for.
#[derive(Debug)]
pub(super) struct Surplus {
    bytes: usize,
    at: Instant,
    /// Room for one late reply to a call that has been given up.
    pub(super) late: usize,
}

impl Surplus {
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: 0, at: now, late: 0 }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        let now = Instant::now();
        let seconds = usize::try_from((now - self.at).as_secs()).unwrap_or(usize::MAX);
        if seconds > 0 {
            self.at = now;
            self.bytes = self.bytes.saturating_sub(seconds.saturating_mul(FORGIVEN_PER_SECOND));
        }
        self.bytes += bytes;
    }

    pub(super) fn verdict(&self) -> Option<String> {
        (self.bytes > SURPLUS_BYTES + self.late)
            .then(|| "the guest sends more than anybody asked for".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_too_much_and_a_trickle_is_forgiven() {
        let mut surplus = Surplus::new(Instant::now());
        for _ in 0..100 {
            surplus.add(FORGIVEN_PER_SECOND);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(surplus.verdict(), None);
        surplus.late = 1 << 20;
        surplus.add(SURPLUS_BYTES);
        assert_eq!(surplus.verdict(), None, "a late reply may have been among it");
        surplus.add(2 << 20);
        assert!(surplus.verdict().is_some());
    }
}
