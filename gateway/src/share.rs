//! What all callers share is shared out by who takes it, so that nobody uses up what others need.
//!
//! A principal may have as much as half of what the others leave. One alone comes up to half of all;
//! the next finds half of the rest, and so on: whoever takes all that they get, something is left for
//! who comes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::principal::Principal;

/// Something that there is a bounded amount of. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Principal, usize>,
}

/// A part of it, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    of: Shared,
    who: Principal,
    size: usize,
}

impl Shared {
    /// So much of it for that principal, of which there is `most` in all. What is larger than any share
    /// is given out alone.
    pub(crate) fn take(&self, who: &Principal, size: usize, most: usize) -> Option<Part> {
        let mut taken = self.taken();
        let mine = taken.by.get(who).copied().unwrap_or_default();
        let fits = fits(mine.saturating_add(size), taken.all - mine, most);
        if !fits && (taken.all > 0 || most == 0) {
            return None;
        }
        taken.all += size;
        *taken.by.entry(who.clone()).or_default() += size;
        Some(Part { of: self.clone(), who: who.clone(), size })
    }

    /// How much of it is taken.
    pub(crate) fn all(&self) -> usize {
        self.taken().all
    }

    /// Nothing panics under this lock.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a principal may have `mine` of `most` in all while the others have that much.
pub(crate) fn fits(mine: usize, others: usize, most: usize) -> bool {
    mine <= most.saturating_sub(others).div_ceil(2)
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all -= self.size;
        if let Some(mine) = taken.by.get_mut(&self.who) {
            *mine -= self.size;
            if *mine == 0 {
                taken.by.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Principal {
        Principal::new(name)
    }

    #[test]
    fn who_takes_all_that_it_gets_leaves_something_to_each_that_comes() {
        let shared = Shared::default();
        let mut held = Vec::new();
        for (name, share) in [("a", 50), ("b", 25), ("c", 13), ("d", 6), ("e", 3), ("f", 2)] {
            let got: Vec<_> = std::iter::from_fn(|| shared.take(&who(name), 1, 100)).collect();
            assert_eq!(got.len(), share, "{name}");
            held.extend(got);
        }
        assert_eq!(shared.all(), 99);
        held.clear();
        assert_eq!(shared.all(), 0);
        assert!(shared.taken().by.is_empty());
    }

    #[test]
    fn what_is_larger_than_any_share_is_given_out_alone() {
        let shared = Shared::default();
        let large = shared.take(&who("a"), 300, 100).expect("nobody has anything");
        assert!(shared.take(&who("b"), 1, 100).is_none());
        drop(large);
        let small = shared.take(&who("b"), 1, 100).expect("room");
        assert!(shared.take(&who("a"), 300, 100).is_none());
        drop(small);
        assert!(shared.take(&who("a"), 1, 0).is_none(), "there is none of it");
        assert!(shared.take(&who("a"), 1, 1).is_some(), "of one, half is one");
    }
}
