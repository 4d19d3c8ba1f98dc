//! Where the agent stands between thawed and frozen, for all threads to see.

use std::sync::atomic::{AtomicU8, Ordering};

/// One of four. What each means for commands is up to [`crate::dispatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Nothing is frozen through this agent.
    Thawed,
    /// A freeze is under way.
    Freezing,
    /// Filesystems are frozen, or one of them could not be thawed yet.
    Frozen,
    /// A thaw is under way.
    Thawing,
}

/// The phase. Only the poll thread moves it from `Thawed` to `Freezing`, and only the engine
/// moves it otherwise, always before the reply that reports it.
#[derive(Debug)]
pub(crate) struct SharedPhase(AtomicU8);

impl SharedPhase {
    pub(super) fn new(phase: Phase) -> Self {
        Self(AtomicU8::new(phase as u8))
    }

    pub(crate) fn now(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Thawed,
            1 => Phase::Freezing,
            2 => Phase::Frozen,
            _ => Phase::Thawing,
        }
    }

    /// From `Thawed` to `Freezing`; whether it was `Thawed`.
    pub(super) fn begin_freezing(&self) -> bool {
        let (from, to) = (Phase::Thawed as u8, Phase::Freezing as u8);
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }
}
