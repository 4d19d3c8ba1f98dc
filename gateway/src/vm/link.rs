//! Where a VM's link stands, why, and since when.
//!
//! ```text
//!            socket appears            connected
//!   absent ----------------> (connect) ----------> (first sync)
//!     ^  \                      |  |                  |   |
//!     |   nobody listens,       |  | queue full       |   | no answer, not accepted yet
//!     |   or not allowed        |  +----------------> | --+--> busy --- accepted ---> silent
//!     |        v                |                     |
//!     |     refused <-----------+                     | no answer, accepted
//!     |                                               +----------------> silent
//!     |                                               | answered
//!     +--- socket gone (from every state)             v
//!                                    status thawed: ready <--> frozen :status frozen
//! ```
//!
//! * `silent` → `ready`: the outstanding or the next sync was answered.
//! * `ready` → `silent`: a command timed out and the sync after it was not answered either.
//! * any → `absent`/`refused`: the connection closed, and connecting again said so.
//! * any → `paused`: QMP says that the guest's CPUs do not run; and back to what it is beneath, which
//!   goes on being noted, when they do. No silence is held against a paused guest.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

/// What the gateway last found out about the way to a VM's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// There is no socket.
    Absent,
    /// There is something, but it takes no connection from us.
    Refused,
    /// Another client holds the socket.
    Busy,
    /// Connected, and no sync was answered.
    Silent,
    /// A sync was answered.
    Ready,
    /// The agent says that filesystems are frozen.
    Frozen,
    /// The VM does not run.
    Paused,
}

impl LinkState {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Absent,
        Self::Refused,
        Self::Busy,
        Self::Silent,
        Self::Ready,
        Self::Frozen,
        Self::Paused,
    ];

    /// The state as it is written in the API, in logs and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Silent => "silent",
            Self::Ready => "ready",
            Self::Frozen => "frozen",
            Self::Paused => "paused",
        }
    }

    /// Whether the agent answers: `ready` or `frozen`.
    pub const fn answers(self) -> bool {
        matches!(self, Self::Ready | Self::Frozen)
    }
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A [`LinkState`] with its reason and its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The state.
    pub state: LinkState,
    /// Why, as a sentence for a person.
    pub reason: Option<String>,
    /// When the state (not the reason) was entered; wall clock, for display.
    pub since: SystemTime,
}

impl fmt::Display for LinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{} ({reason})", self.state),
            None => self.state.fmt(f),
        }
    }
}

/// The writing end: the VM's actor says where the link stands, QMP whether the VM runs.
#[derive(Debug)]
pub(crate) struct Link {
    shown: watch::Sender<LinkStatus>,
    /// Where the link stands while `paused` is shown.
    beneath: Mutex<Option<Box<LinkStatus>>>,
}

impl Link {
    pub(crate) fn new(state: LinkState, reason: Option<String>) -> Self {
        let status = LinkStatus { state, reason, since: SystemTime::now() };
        Self { shown: watch::Sender::new(status), beneath: Mutex::default() }
    }

    /// Enters a state. `since` moves only when the state changes, and watchers wake only when
    /// something changed. Returns whether the state shown changed.
    pub(crate) fn set(&self, state: LinkState, reason: Option<String>) -> bool {
        let mut beneath = self.beneath();
        if let Some(status) = beneath.as_deref_mut() {
            status.enter(state, reason);
            return false;
        }
        let mut entered = false;
        self.shown.send_if_modified(|status| {
            entered = status.state != state;
            status.enter(state, reason)
        });
        entered
    }

    /// Shows `paused` from now on. Returns whether that, or the reason, is new.
    pub(crate) fn pause(&self, reason: String) -> bool {
        let mut beneath = self.beneath();
        if beneath.is_none() {
            *beneath = Some(Box::new(self.status()));
        }
        let mut changed = false;
        self.shown.send_if_modified(|status| {
            changed = status.enter(LinkState::Paused, Some(reason));
            changed
        });
        changed
    }

    /// Shows again where the link stands. Returns whether it was paused.
    pub(crate) fn resume(&self) -> bool {
        let mut beneath = self.beneath();
        let Some(status) = beneath.take() else { return false };
        self.shown.send_replace(*status);
        true
    }

    /// What is shown.
    pub(crate) fn status(&self) -> LinkStatus {
        self.shown.borrow().clone()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.shown.borrow().state == LinkState::Paused
    }

    /// Where the link stands, paused or not.
    pub(crate) fn state(&self) -> LinkState {
        match self.beneath().as_deref() {
            Some(status) => status.state,
            None => self.shown.borrow().state,
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<LinkStatus> {
        self.shown.subscribe()
    }

    /// Held while the state shown is changed, so that the two agree.
    fn beneath(&self) -> MutexGuard<'_, Option<Box<LinkStatus>>> {
        // Nothing panics while it holds the lock.
        self.beneath.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkStatus {
    /// Returns whether anything changed.
    fn enter(&mut self, state: LinkState, reason: Option<String>) -> bool {
        if self.state != state {
            self.since = SystemTime::now();
        } else if self.reason == reason {
            return false;
        }
        self.state = state;
        self.reason = reason;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_hides_the_link_and_gives_it_back_as_it_is_by_then() {
        let link = Link::new(LinkState::Ready, None);
        assert!(link.pause("stopped".into()) && !link.pause("stopped".into()));
        assert!(link.pause("an I/O error".into()), "the reason is news");
        assert_eq!(link.status().to_string(), "paused (an I/O error)");
        assert!(!link.set(LinkState::Frozen, None), "nothing shown has changed");
        assert!(link.is_paused());
        assert_eq!(link.state(), LinkState::Frozen);
        assert!(link.resume() && !link.resume());
        assert_eq!((link.status().state, link.state()), (LinkState::Frozen, LinkState::Frozen));
    }

    #[test]
    fn since_moves_with_the_state_and_watchers_wake_on_change() {
        let link = Link::new(LinkState::Absent, None);
        let mut watcher = link.subscribe();
        watcher.mark_unchanged();
        let before = link.status().since;
        assert!(!link.set(LinkState::Absent, None));
        assert!(!watcher.has_changed().expect("open"));
        assert!(!link.set(LinkState::Absent, Some("no socket".into())));
        assert!(watcher.has_changed().expect("open"));
        assert_eq!(link.status().since, before);
        assert!(link.set(LinkState::Ready, None));
        assert!(link.status().since >= before);
        assert_eq!(link.status().to_string(), "ready");
    }
}
