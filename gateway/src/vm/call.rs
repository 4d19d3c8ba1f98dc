//! One call to a guest: how long it may take, how much it may bring, and why it has no answer.

use std::time::Duration;

use qga_proto::QgaError;
use qga_proto::command::CommandInfo;

use super::link::LinkStatus;
use crate::config::{Limits, Timeouts};
use crate::printable::printable;

/// How long a call may take and how much it may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// From the call to its reply, waiting in the queue included.
    pub timeout: Duration,
    /// Longest reply line in bytes.
    pub reply_cap: usize,
    /// Sent only while the link's count of disruptions is still this one: what was found out about
    /// the guest then must hold when the command leaves, and behind a broken connection another VM
    /// may listen. `None`: whenever it can be sent.
    pub unless_disrupted: Option<u64>,
}

impl CallOptions {
    /// The defaults for a command. [`VmHandle::options`](super::VmHandle::options) knows the configured ones.
    pub fn for_command(info: &CommandInfo) -> Self {
        Self::from_config(info, &Timeouts::default(), Limits::default().reply_cap_bytes)
    }

    pub(super) fn from_config(info: &CommandInfo, timeouts: &Timeouts, most: usize) -> Self {
        let (timeout, reply_cap) = match info.name {
            "guest-sync" | "guest-sync-delimited" | "guest-ping" => (timeouts.session, 4 << 10),
            "guest-info" => (timeouts.session, 256 << 10),
            "guest-fsfreeze-status" => (timeouts.session, 64 << 10),
            "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" => (timeouts.freeze, 256 << 10),
            "guest-fsfreeze-thaw" | "x-guest-fsfreeze-thaw" => (timeouts.thaw, 256 << 10),
            // As above: a line for each of a thousand filesystems.
            name if name.starts_with("x-guest-fsfreeze-") => (timeouts.other, 256 << 10),
            "guest-shutdown"
            | "guest-suspend-disk"
            | "guest-suspend-ram"
            | "guest-suspend-hybrid" => (timeouts.shutdown, 64 << 10),
            "guest-fstrim" => (timeouts.trim, 16 << 20),
            "guest-file-read" => (timeouts.file, most),
            "x-guest-file-commit" => (timeouts.commit, 64 << 10),
            name if name.starts_with("guest-file-") => (timeouts.file, 64 << 10),
            _ => (timeouts.other, 16 << 20),
        };
        Self { timeout, reply_cap: reply_cap.min(most), unless_disrupted: None }
    }
}

/// Why a call has no answer, and whether the guest may have acted all the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// There is no way to the agent. Nothing was sent.
    #[error("the agent cannot be reached: {link}")]
    Unavailable {
        /// Where the link stands.
        link: LinkStatus,
    },
    /// Too many calls wait for this VM. Nothing was sent.
    #[error("too many calls wait for this VM")]
    QueueFull,
    /// No answer in time.
    #[error("no answer within {} s", after.as_secs_f64())]
    TimedOut {
        /// Whether the command had left: then its outcome is unknown.
        sent: bool,
        /// How long the call had.
        after: Duration,
    },
    /// The link broke, or fell out of step, after the command had left: its outcome is unknown.
    #[error("interrupted: {}", printable(reason))]
    Interrupted {
        /// What happened.
        reason: String,
    },
    /// The answer makes no sense: what the command did is unknown.
    #[error("unintelligible answer: {}", printable(reason))]
    BadReply {
        /// What is wrong with it.
        reason: String,
    },
    /// The agent answered with an error.
    #[error("the agent says: {}", printable(&.0.to_string()))]
    Agent(QgaError),
    /// The agent does not have that command.
    #[error("the agent does not have that command")]
    Unsupported,
}

impl CallError {
    /// Whether the guest may have acted although there is no good answer.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::TimedOut { sent, .. } => *sent,
            Self::Interrupted { .. } | Self::BadReply { .. } => true,
            Self::Unavailable { .. } | Self::QueueFull | Self::Agent(_) | Self::Unsupported => {
                false
            }
        }
    }
}
