//! How fast a principal may ask: so many requests per second, some of them at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{Method, Request};

use super::error::{Code, Outcome, Problem};
use crate::principal::Principal;
use crate::vm::Registry;

/// Principals that are remembered. Each has proved who it is, so that nobody fills it by lies.
const MOST: usize = 4096;

/// Counts requests by principal, as the limits are now. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pace {
    registry: Registry,
    /// When each may ask as if it had not asked before.
    times: Arc<Mutex<HashMap<Principal, Instant>>>,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").finish_non_exhaustive()
    }
}

impl Pace {
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry, times: Arc::default() }
    }

    /// Refuses a request that comes too soon. A thaw never does: whoever asks too often must not
    /// leave a guest frozen for it.
    pub(super) fn check<B>(
        &self,
        principal: &Principal,
        request: &Request<B>,
    ) -> Result<(), Problem> {
        let limits = self.registry.limits();
        let Some(pause) = Duration::from_secs(1).checked_div(limits.requests_per_second) else {
            return Ok(());
        };
        let path = request.uri().path();
        let thaws = path.ends_with("/fsfreeze") || path.starts_with("/freezes/");
        if request.method() == Method::DELETE && thaws {
            return Ok(());
        }
        let burst = limits.requests_burst.max(1);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wait) = note(&mut times, principal, pause, burst, Instant::now()) else {
            return Ok(());
        };
        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
        Err(Problem::new(
            Code::TooManyRequests,
            format!(
                "{principal} asks more often than limits.requests_per_second ({}) and \
                 limits.requests_burst ({burst}) allow. Nothing was done; try again in {seconds} s.",
                limits.requests_per_second
            ),
        )
        .outcome(Outcome::NotSent, true)
        .retry_after(seconds))
    }
}

/// Each request moves the principal's time on by a pause; it may be a burst ahead. How long to wait,
/// if it is.
fn note(
    times: &mut HashMap<Principal, Instant>,
    who: &Principal,
    pause: Duration,
    burst: u32,
    now: Instant,
) -> Option<Duration> {
    if times.len() >= MOST && !times.contains_key(who) {
        times.retain(|_, time| *time > now);
        if times.len() >= MOST {
            return Some(pause);
        }
    }
    let time = times.get(who).copied().unwrap_or(now).max(now);
    let ahead = time + pause - now;
    let most = pause * burst;
    if ahead > most {
        return Some(ahead - most);
    }
    times.insert(who.clone(), time + pause);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_after_the_other_by_principal() {
        let (mut times, now) = (HashMap::new(), Instant::now());
        let (one, other) = (Principal::new("token:a"), Principal::new("token:b"));
        let pause = Duration::from_millis(500);
        let mut note = |who, after| note(&mut times, who, pause, 3, now + after);
        assert!((0..3).all(|_| note(&one, Duration::ZERO).is_none()));
        assert_eq!(note(&one, Duration::ZERO), Some(pause));
        assert_eq!(note(&other, Duration::ZERO), None);
        assert_eq!(note(&one, pause / 2), Some(pause / 2));
        assert_eq!(note(&one, pause), None);
        assert!(note(&one, pause).is_some());
        assert!((0..3).all(|_| note(&one, 10 * pause).is_none()));
        assert!(note(&one, 10 * pause).is_some(), "it does not save up more than the burst");
    }

    #[test]
    fn principals_are_bounded_and_forgotten() {
        let (mut times, now) = (HashMap::new(), Instant::now());
        let pause = Duration::from_secs(1);
        for n in 0..MOST {
            let who = Principal::new(format!("unix:uid={n}"));
            assert_eq!(note(&mut times, &who, pause, 1, now), None);
        }
        let more = Principal::new("token:a");
        assert_eq!(note(&mut times, &more, pause, 1, now), Some(pause));
        assert_eq!(note(&mut times, &more, pause, 1, now + 2 * pause), None);
        assert_eq!(times.len(), 1);
    }
}
