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
//! * `paused` needs QMP and is not entered yet.

use std::fmt;
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

/// The writing end, owned by the VM's actor.
#[derive(Debug)]
pub(crate) struct Link(watch::Sender<LinkStatus>);

impl Link {
    pub(crate) fn new(state: LinkState, reason: Option<String>) -> Self {
        Self(watch::Sender::new(LinkStatus { state, reason, since: SystemTime::now() }))
    }

    /// Enters a state. `since` moves only when the state changes, and watchers wake only when
    /// something changed. Returns whether the state changed.
    pub(crate) fn set(&self, state: LinkState, reason: Option<String>) -> bool {
        let mut entered = false;
        self.0.send_if_modified(|status| {
            entered = status.state != state;
            if !entered && status.reason == reason {
                return false;
            }
            if entered {
                status.since = SystemTime::now();
            }
            status.state = state;
            status.reason = reason;
            true
        });
        entered
    }

    pub(crate) fn status(&self) -> LinkStatus {
        self.0.borrow().clone()
    }

    pub(crate) fn state(&self) -> LinkState {
        self.0.borrow().state
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<LinkStatus> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
