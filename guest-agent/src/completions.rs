//! What other threads have finished, on its way back to the poll thread.
//!
//! ```text
//!   worker ──▶ list ──▶ poll thread
//!      └─────▶ eventfd ────▲   only while it sleeps
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qga_proto::{Outcome, Ticket};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// A finished command.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) channel: usize,
    pub(crate) ticket: Ticket,
    pub(crate) outcome: Outcome,
}

/// What workers have finished and the poll thread has not yet seen.
#[derive(Debug)]
pub(crate) struct Completions {
    state: Mutex<State>,
    /// There is something to take; as the state says, but without its lock.
    news: AtomicBool,
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    finished: Vec<Completion>,
    news: bool,
    /// The poll thread sleeps, or is about to, and nobody has woken it yet.
    asleep: bool,
    /// The descriptor is to be reset.
    woken: bool,
}

impl Completions {
    /// With a poll thread that sleeps until it says otherwise.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = State { finished: Vec::new(), news: false, asleep: true, woken: false };
        Ok(Arc::new(Self { state: Mutex::new(state), news: AtomicBool::new(false), wake }))
    }

    /// Adds a completion, or only wakes the poll thread.
    pub(crate) fn add(&self, completion: Option<Completion>) {
        let mut state = self.state();
        state.finished.extend(completion);
        state.news = true;
        self.news.store(true, Ordering::Release);
        if std::mem::take(&mut state.asleep) {
            state.woken = true;
            drop(state);
            // It fails only when 2^64 wake-ups are pending.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Takes all of them; the poll thread is awake. `None` if nobody has added anything.
    pub(crate) fn take(&self) -> Option<Vec<Completion>> {
        let mut state = self.state();
        state.asleep = false;
        if std::mem::take(&mut state.woken) {
            // It fails only when the waker has not come to write yet. Then the poll thread wakes
            // up once in vain; its next wake-up is another edge.
            let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        }
        self.news.store(false, Ordering::Relaxed);
        std::mem::take(&mut state.news).then(|| std::mem::take(&mut state.finished))
    }

    /// Whether the poll thread may go to sleep: from now on its descriptor becomes readable when
    /// something is added. If something has been added, it must not.
    pub(crate) fn may_sleep(&self) -> bool {
        let mut state = self.state();
        state.asleep = !state.news;
        state.asleep
    }

    /// Waits for something to be added, for no longer than this, and lets other threads run
    /// meanwhile. Cheaper than to sleep and be woken, if it comes soon. Returns whether it came.
    pub(crate) fn linger(&self, at_most: Duration) -> bool {
        // Where the clock is slow, asking it each time would take longer than what is waited for.
        const YIELDS: usize = 8;
        let since = Instant::now();
        loop {
            for _ in 0..YIELDS {
                if self.news.load(Ordering::Acquire) {
                    return true;
                }
                thread::yield_now();
            }
            if since.elapsed() >= at_most {
                return self.news.load(Ordering::Acquire);
            }
        }
    }

    /// Sleeps until something is added, for no longer than `limit`, and takes it.
    pub(crate) fn wait(&self, limit: Duration) -> Vec<Completion> {
        let until = Instant::now() + limit;
        loop {
            if let Some(all) = self.take() {
                return all;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            if self.may_sleep() {
                // Only far-off times do not convert, and those are not waited for.
                let left = Timespec::try_from(left).ok();
                let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], left.as_ref());
                // A waker may have come to write only after its addition was taken.
                let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The descriptor that becomes readable when the poll thread is to wake up.
impl AsFd for Completions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_readable(completions: &Completions) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(completions, PollFlags::IN)], Some(&now)).unwrap() > 0
    }

    #[test]
    fn the_descriptor_wakes_who_sleeps_and_leaves_alone_who_does_not() {
        let completions = Completions::new().unwrap();
        assert!(completions.take().is_none(), "it is awake from here on");
        completions.add(None);
        assert!(!is_readable(&completions));
        assert!(!completions.may_sleep(), "there is something to take");
        assert!(completions.linger(Duration::ZERO));
        assert!(completions.take().is_some_and(|all| all.is_empty()));
        assert!(!completions.linger(Duration::ZERO));
        assert!(completions.may_sleep());
        completions.add(None);
        completions.add(None);
        assert!(is_readable(&completions));
        assert!(completions.take().is_some());
        assert!(!is_readable(&completions) && completions.take().is_none());
    }

    #[test]
    fn none_is_lost_between_threads() {
        const MANY: usize = 10_000;
        let completions = Completions::new().unwrap();
        let other = Arc::clone(&completions);
        let adder = thread::spawn(move || (0..MANY).for_each(|_| other.add(Some(some()))));
        let mut came = 0;
        while came < MANY {
            let now = completions.wait(Duration::from_secs(10)).len();
            assert!(now > 0, "nothing came in 10 s after {came}");
            came += now;
        }
        adder.join().unwrap();
    }

    fn some() -> Completion {
        let mut server = qga_proto::Server::new();
        server.feed(b"{'execute':'guest-ping'}");
        let job = server.poll(Instant::now(), &mut |_| true).unwrap();
        Completion { channel: 0, ticket: job.ticket, outcome: Outcome::empty() }
    }
}
