//! A freeze lease as it is shown: who froze what, until when, and how it ended.
//!
//! ```text
//!              frozen            DELETE, deadline, stop        guest says thawed
//!   freezing ---------> frozen ------------------------> thawing ---------> thawed
//!      |                                                  |   ^
//!      | reply lost, or fewer frozen than required        |   | the VM is back, and frozen
//!      |   (cause rollback)                               v   |
//!      +---------> thawing                              orphaned   VM gone
//!      |
//!      +---------> failed      nothing was frozen, or a rollback has ended
//! ```
//!
//! `thawed` and `failed` are final. `orphaned` becomes final when the VM stays away for longer
//! than the configured bound; if it comes back thawed, the lease ends as `thawed` and `lost`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::VmId;
use crate::principal::Principal;

/// A lease's id: `frz_` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(Arc<str>);

/// A text that is no [`LeaseId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a lease id (frz_ and 32 hexadecimal digits)")]
pub struct InvalidLeaseId;

impl LeaseId {
    /// A new id that nobody can guess.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("frz_{:032x}", u128::from_be_bytes(bytes)).into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeaseId {
    type Err = InvalidLeaseId;

    fn from_str(text: &str) -> Result<Self, InvalidLeaseId> {
        let digits = text.strip_prefix("frz_").ok_or(InvalidLeaseId)?;
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() == 32 && digits.bytes().all(hex) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidLeaseId)
        }
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A freeze of one VM, present or past.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// The VM.
    pub vm: VmId,
    /// Who asked for it.
    pub owner: Principal,
    /// The caller's own note.
    pub label: Option<String>,
    /// What happens when not everything freezes.
    pub policy: Policy,
    /// Where it stands.
    pub state: LeaseState,
    /// How many filesystems the kernel froze.
    pub filesystems: Option<u64>,
    /// Named mount points that were not frozen, as far as the agent tells.
    pub skipped: Vec<String>,
    /// How long the freeze may hold from its last beginning or renewal.
    pub ttl: Duration,
    /// When it was asked for; wall clock, as all times here.
    pub created_at: SystemTime,
    /// When the last filesystem was frozen.
    pub frozen_at: Option<SystemTime>,
    /// When the gateway thaws by itself.
    pub expires_at: Option<SystemTime>,
    /// When the guest said that it has thawed.
    pub thawed_at: Option<SystemTime>,
    /// Why it was thawed.
    pub thaw_cause: Option<ThawCause>,
    /// Whether the filesystems stood still all the time; `None` until the lease ends.
    pub verdict: Option<Verdict>,
    /// What the verdict rests on, as sentences.
    pub evidence: Vec<String>,
    /// What the guest's thaw complained of, although it thawed.
    pub thaw_error: Option<String>,
    /// How long this guest can hold at all: 10 s on Windows.
    pub max_hold_seconds: Option<u64>,
    /// Who thaws if the caller does not.
    pub guard: Guard,
}

impl Lease {
    /// Whether it is over: its guest needs nothing any more.
    pub fn ended(&self) -> bool {
        self.verdict.is_some()
    }
}

/// Writes each enum's name table once.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The name as it is written in the API, in logs and in metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}

names! {
    /// What happens when not everything freezes.
    Policy {
        /// Everything asked for is frozen, or the freeze fails and everything is thawed.
        Required = "required",
        /// What could be frozen is, and the rest is named.
        BestEffort = "best_effort",
    }

    /// Where a lease stands.
    LeaseState {
        /// The freeze is under way.
        Freezing = "freezing",
        /// The guest said that it is frozen.
        Frozen = "frozen",
        /// The thaw is under way, or being retried.
        Thawing = "thawing",
        /// Over: the guest said that it is thawed.
        Thawed = "thawed",
        /// Over: it never held.
        Failed = "failed",
        /// The VM is gone.
        Orphaned = "orphaned",
    }

    /// Why a lease was thawed.
    ThawCause {
        /// Somebody asked.
        Requested = "requested",
        /// Its time was over.
        Expired = "expired",
        /// The freeze did not come out as asked for.
        Rollback = "rollback",
        /// Somebody else thawed, or the guest did by itself.
        External = "external",
        /// The gateway was stopped.
        Shutdown = "shutdown",
        /// Somebody asked to thaw what was not frozen through this gateway.
        Forced = "forced",
    }

    /// Whether the filesystems stood still from freeze to thaw.
    Verdict {
        /// The agent proves it.
        Held = "held",
        /// The counts agree and no reset or reconnect was seen: the best a stock agent can show.
        CountsAgree = "counts_agree",
        /// They did not.
        Lost = "lost",
        /// Some were never frozen.
        Partial = "partial",
        /// There is no telling.
        Unknown = "unknown",
    }

    /// Who thaws when a lease's time is over.
    Guard {
        /// The gateway alone.
        Gateway = "gateway",
        /// The gateway, and the agent by itself a little later.
        GatewayAndAgent = "gateway+agent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_and_parse_back() {
        let id = LeaseId::random().expect("random");
        assert_eq!(id.as_str().parse::<LeaseId>(), Ok(id.clone()));
        assert_ne!(id, LeaseId::random().expect("random"));
        for bad in ["", "frz_", "frz_0", "frz_ZZ", &id.as_str().to_uppercase(), &format!("{id}0")] {
            assert!(bad.parse::<LeaseId>().is_err(), "{bad}");
        }
    }
}
