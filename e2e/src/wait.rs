//! Waiting for something to become true, never longer than a bound.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest pause between two looks at a predicate.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait of this process fail soon, so that a program told to end can unwind from
/// wherever it is and clean up on the way.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Fails once [`interrupt`] was called.
pub(crate) fn check_interrupted() -> Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted");
    Ok(())
}

/// Calls `look` until it gives a value, and fails with `what` once `bound` has passed.
///
/// # Errors
/// `look` failed, or gave nothing within `bound`, or [`interrupt`] was called.
pub fn until<T>(
    what: impl Display,
    bound: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    until_even_interrupted(what, bound, || {
        check_interrupted()?;
        look()
    })
}

/// As [`until`], for cleaning up.
pub(crate) fn until_even_interrupted<T>(
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
