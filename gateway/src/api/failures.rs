//! How often somebody has failed to prove who they are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that are merely answered.
const BURST: u32 = 20;
/// One more is for each of these.
const PAUSE: Duration = Duration::from_secs(1);
/// Addresses that are remembered.
const MOST: usize = 4096;

/// Failures by address. A right token is never held up: with 256 bits nobody guesses one, and
/// whoever fails must not be able to keep others out.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, Instant>>);

impl Failures {
    /// Takes note of one. How long to wait, if there were too many.
    pub(crate) fn note(&self, from: IpAddr) -> Option<Duration> {
        self.note_at(from, Instant::now())
    }

    /// Each failure moves an address's time on by a pause; it may be a burst ahead.
    fn note_at(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() >= MOST && !times.contains_key(&from) {
            times.retain(|_, time| *time > now);
            // So many at once: whoever is new counts as having failed often.
            if times.len() >= MOST {
                return Some(PAUSE);
            }
        }
        let time = times.entry(from).or_insert(now);
        let next = (*time).max(now) + PAUSE;
        if next > now + PAUSE * BURST {
            return Some(next - (now + PAUSE * BURST));
        }
        *time = next;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_per_second_by_address() {
        let (failures, now) = (Failures::default(), Instant::now());
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert!((0..BURST).all(|_| failures.note_at(one, now).is_none()));
        assert_eq!(failures.note_at(one, now), Some(PAUSE));
        assert!(failures.note_at(other, now).is_none());
        assert!(failures.note_at(one, now + PAUSE).is_none());
        assert!(failures.note_at(one, now + PAUSE).is_some());
    }

    #[test]
    fn addresses_are_bounded_and_forgotten() {
        let (failures, now) = (Failures::default(), Instant::now());
        for n in 0..u32::try_from(MOST).unwrap() {
            assert!(failures.note_at(IpAddr::from(n.to_be_bytes()), now).is_none());
        }
        let more = IpAddr::from([255, 0, 0, 1]);
        assert!(failures.note_at(more, now).is_some());
        assert!(failures.note_at(more, now + 2 * PAUSE).is_none());
        assert_eq!(failures.0.lock().unwrap().len(), 1);
    }
}
