//! Waiting for something to become true, never longer than a bound.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest pause between two looks at a predicate.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Calls `look` until it gives a value, and fails with `what` once `bound` has passed.
///
/// # Errors
/// `look` failed, or gave nothing within `bound`.
pub fn until<T>(
    what: impl Display,
    bound: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("not within {bound:?}: {what}");
        }
        thread::park_timeout(LOOK_AGAIN);
    }
}
