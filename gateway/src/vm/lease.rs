//! A freeze lease: who froze what, until when, and how it ended. A freeze of one VM is a group of
//! one.
//!
//! Of the lease:
//!
//! ```text
//!              all frozen          DELETE, deadline, stop       all say thawed
//!   freezing ------------> frozen -----------------------> thawing ---------> thawed
//!      |                                                      ^
//!      | reply lost, or less frozen than required             | (one VM, cause rollback)
//!      +--> thawing, of several VMs rolling_back -------------+-------------> failed
//!      |                                                                        ^
//!      +--- nothing was frozen -------------------------------------------------+
//! ```
//!
//! Of each VM in it, the same without `rolling_back`; and `orphaned` while it is gone. It becomes
//! final when the VM stays away for longer than the configured bound; if it comes back thawed, it
//! ends as `thawed` and `lost`.

mod bounds;
mod id;
mod member;
mod record;
mod words;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::VmId;
use super::boottime::BootTime;
use crate::principal::Principal;

pub(crate) use bounds::{cut, few};
pub use id::{InvalidLeaseId, LeaseId};
pub(crate) use member::AgentFreeze;
pub use member::Member;
pub(crate) use record::{read, write};
pub use words::{Guard, LeaseState, Order, Policy, ThawCause, Verdict};

/// A freeze of one VM or several, present or past.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Who asked for it.
    pub owner: Principal,
    /// The name of the answer that is kept to the request that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reply_key: Option<String>,
    /// The caller's own note.
    pub label: Option<String>,
    /// What happens when not everything of a VM freezes.
    pub policy: Policy,
    /// In which order its VMs freeze.
    pub order: Order,
    /// Whether all are thawed again if one does not freeze.
    pub all_or_nothing: bool,
    /// Which mount points; all if none are named. Forgotten when it has ended.
    pub mountpoints: Option<Vec<String>>,
    /// How long freezing may take.
    pub freeze_timeout: Duration,
    /// How long the freeze may hold from its last beginning or renewal.
    pub ttl: Duration,
    /// Where it stands.
    pub state: LeaseState,
    /// When it was asked for; wall clock, as all times here.
    #[serde(with = "record::wall")]
    pub created_at: SystemTime,
    /// When the last filesystem of the last VM was frozen.
    #[serde(with = "record::wall::option", default)]
    pub frozen_at: Option<SystemTime>,
    /// When the gateway thaws by itself.
    #[serde(with = "record::wall::option", default)]
    pub expires_at: Option<SystemTime>,
    /// When the last guest said that it has thawed.
    #[serde(with = "record::wall::option", default)]
    pub thawed_at: Option<SystemTime>,
    /// Why it was thawed.
    pub thaw_cause: Option<ThawCause>,
    /// Whether the filesystems stood still all the time: the worst of its VMs'. `None` until the
    /// lease ends, and for one that never held.
    pub verdict: Option<Verdict>,
    /// The time between the first VM's freeze and the last one's.
    pub spread: Option<Duration>,
    /// Its VMs, in their order; at least one.
    pub members: Vec<Member>,
    /// When it was over.
    #[serde(with = "record::wall::option", default)]
    pub ended_at: Option<SystemTime>,
    /// The boot of the host that the times below are of.
    pub(crate) host_boot: String,
    /// When the gateway thaws by itself.
    pub(crate) deadline: Option<BootTime>,
    /// Beyond which it cannot be renewed.
    pub(crate) hold_until: Option<BootTime>,
}

impl Lease {
    /// Whether it was asked for by the request whose answer is kept under that name.
    pub(crate) fn is_under(&self, reply_key: &str) -> bool {
        self.reply_key.as_deref() == Some(reply_key)
    }

    /// Whether it is over: its guests need nothing any more.
    pub fn ended(&self) -> bool {
        self.ended_at.is_some()
    }

    /// The VM of a lease of one.
    pub fn sole(&self) -> Option<&Member> {
        match self.members.as_slice() {
            [sole] => Some(sole),
            _ => None,
        }
    }

    /// The VM of that id in it.
    pub fn member(&self, vm: &VmId) -> Option<&Member> {
        self.members.iter().find(|member| member.vm == *vm)
    }

    /// How many filesystems the kernels froze, all VMs together.
    pub fn filesystems(&self) -> Option<u64> {
        let counts = self.members.iter().filter_map(|member| member.filesystems);
        counts.reduce(u64::saturating_add)
    }

    /// Who thaws when its time is over: of several VMs, who does of all.
    pub fn guard(&self) -> Guard {
        let both = self.members.iter().all(|member| member.guard == Guard::GatewayAndAgent);
        if both { Guard::GatewayAndAgent } else { Guard::Gateway }
    }

    /// How long its guests can hold at all.
    pub fn max_hold_seconds(&self) -> Option<u64> {
        self.members.iter().filter_map(|member| member.max_hold_seconds).min()
    }

    /// The state as it is shown: a lease whose VMs are all gone is orphaned.
    pub fn shown_state(&self) -> LeaseState {
        let mut waiting = self.members.iter().filter(|member| !member.ended()).peekable();
        let gone =
            waiting.peek().is_some() && waiting.all(|member| member.state == LeaseState::Orphaned);
        if gone && !self.ended() { LeaseState::Orphaned } else { self.state }
    }

    /// Draws the sum over its VMs, all of which have ended.
    pub(crate) fn end(&mut self, cause: ThawCause) {
        let held = self.members.iter().filter(|member| member.verdict.is_some());
        let causes: Vec<_> = held.filter_map(|member| member.thaw_cause).collect();
        // What all VMs say; else what the lease was ended for.
        let same = causes.first().filter(|first| causes.iter().all(|cause| cause == *first));
        self.thaw_cause = Some(same.copied().unwrap_or(cause));
        self.thawed_at = self.members.iter().filter_map(|member| member.thawed_at).max();
        let verdicts = self.members.iter().map(|member| match member.verdict {
            Some(verdict) => verdict,
            // It never froze, the others did.
            None => Verdict::Partial,
        });
        self.verdict = (!causes.is_empty()).then(|| verdicts.reduce(Verdict::worse)).flatten();
        let all = |state| self.members.iter().all(|member| member.state == state);
        self.state = if all(LeaseState::Orphaned) {
            LeaseState::Orphaned
        } else if cause == ThawCause::Rollback || all(LeaseState::Failed) {
            LeaseState::Failed
        } else {
            LeaseState::Thawed
        };
        self.ended_at = Some(SystemTime::now());
        self.mountpoints = None;
    }

    /// What it takes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.members.iter().map(Member::bytes).sum::<usize>()
    }
}
