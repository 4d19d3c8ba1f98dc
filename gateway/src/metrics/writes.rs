//! Writes of the gateway's state.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Counter, Histogram};

/// What the store's thread notes.
#[derive(Debug)]
pub(crate) struct WriteFigures {
    /// How long transactions took, fsync included; failed ones too.
    pub(crate) latency: Histogram,
    pub(crate) failures: Counter,
    failing: AtomicBool,
}

impl Default for WriteFigures {
    fn default() -> Self {
        let (failures, failing) = Default::default();
        Self { latency: Histogram::latency(), failures, failing }
    }
}

impl WriteFigures {
    /// Notes how a write came out.
    pub(crate) fn came_out(&self, well: bool) {
        if !well {
            self.failures.add(1);
        }
        self.failing.store(!well, Ordering::Relaxed);
    }

    /// Whether the last write came out well.
    pub(crate) fn writable(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }
}
