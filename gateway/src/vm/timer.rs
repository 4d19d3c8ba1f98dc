//! One timer per actor that costs nothing while nothing is due.

use std::future::pending;
use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that may fire early, so that moving a deadline back does not touch the wheel.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Sees to it that [`fired`](Self::fired) returns at `due` at the latest.
    pub(super) fn arm(&mut self, due: Option<Instant>) {
        match (&mut self.0, due) {
            (Some(sleep), Some(due)) if sleep.is_elapsed() || due < sleep.deadline() => {
                sleep.as_mut().reset(due);
            }
            (None, Some(due)) => self.0 = Some(Box::pin(sleep_until(due))),
            (Some(sleep), None) if sleep.is_elapsed() => self.0 = None,
            _ => {}
        }
    }

    /// Returns when the timer fires; never if it is not armed.
    pub(super) async fn fired(&mut self) {
        match &mut self.0 {
            Some(sleep) => sleep.await,
            None => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn fires_when_due_or_early_and_is_given_back_when_idle() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        timer.arm(at(10));
        timer.arm(at(5));
        timer.arm(at(20));
        timer.fired().await;
        assert_eq!(Some(Instant::now()), at(5), "early for what is due at 20");
        timer.arm(at(20));
        timer.fired().await;
        assert_eq!(Some(Instant::now()), at(20));
        timer.arm(None);
        assert!(timer.0.is_none());
    }
}
