//! Freezes that have ended: why, how well, and after how long.

use std::time::Duration;

use super::{Counter, Histogram};
use crate::vm::{ThawCause, Verdict};

/// For all VMs together, since the gateway started.
#[derive(Debug)]
pub(crate) struct FreezeFigures {
    thaws: [Counter; ThawCause::ALL.len()],
    verdicts: [Counter; Verdict::ALL.len()],
    pub(crate) held: Histogram,
}

impl Default for FreezeFigures {
    fn default() -> Self {
        let (thaws, verdicts) = Default::default();
        Self { thaws, verdicts, held: Histogram::hold() }
    }
}

impl FreezeFigures {
    /// Notes one VM of a lease that has ended with a verdict.
    pub(crate) fn note(&self, cause: Option<ThawCause>, verdict: Verdict, held: Option<Duration>) {
        if let Some(cause) = cause {
            self.thaws[cause as usize].add(1);
        }
        self.verdicts[verdict as usize].add(1);
        if let Some(held) = held {
            self.held.observe(held);
        }
    }

    pub(crate) fn thaws(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ThawCause::ALL.iter().map(|cause| (cause.as_str(), self.thaws[*cause as usize].get()))
    }

    pub(crate) fn verdicts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Verdict::ALL
            .iter()
            .map(|verdict| (verdict.as_str(), self.verdicts[*verdict as usize].get()))
    }
}
