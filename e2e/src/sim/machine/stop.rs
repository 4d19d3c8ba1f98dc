//! A command that waits for the test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Shared;
use crate::sim::script::Act;

/// A place where a command stops. Dropping it lets the command pass.
#[derive(Debug)]
pub struct Stop {
    shared: Arc<Shared>,
    id: u64,
}

impl Stop {
    pub(super) fn new(shared: Arc<Shared>, id: u64) -> Self {
        Self { shared, id }
    }

    /// Waits until a command has come; its name.
    ///
    /// # Errors
    /// None has come within `bound`.
    pub fn reached(&self, bound: Duration) -> Result<&'static str> {
        let end = Instant::now() + bound;
        let mut state = self.shared.state();
        loop {
            if let Some(name) = state.script.reached(self.id) {
                return Ok(name);
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no such command came within {bound:?}: {:?}", state.truth());
            state = match self.shared.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Lets the command go on, so.
    pub fn release(self, act: Act) {
        self.let_go(act);
    }

    fn let_go(&self, act: Act) {
        self.shared.state().script.release(self.id, act);
        self.shared.notify();
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.let_go(Act::Pass);
    }
}
