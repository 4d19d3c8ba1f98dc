//! What a change of a lease means for whoever follows the events: drawn from how it stood before
//! and stands now, so that no place that changes one can forget to tell. What callers rely on, that
//! it is frozen ([`frozen`]) or renewed ([`renewed`]), is told apart: by then it is on disk.

use crate::vm::events::{Event, EventKind};
use crate::vm::lease::{Lease, LeaseState, Member, ThawCause};

/// How a lease stood.
pub(super) struct Standing {
    cause: Option<ThawCause>,
    members: Vec<MemberStanding>,
}

/// A freeze that came to be.
pub(super) fn frozen(lease: &Lease) -> Vec<Event> {
    let guard = lease.guard().as_str();
    each(lease, |ttl| Event::new(EventKind::FreezeFrozen).with("guard", guard).with(TTL, ttl))
}

/// A lease that holds for longer.
pub(super) fn renewed(lease: &Lease) -> Vec<Event> {
    each(lease, |ttl| Event::new(EventKind::FreezeRenewed).with(TTL, ttl))
}

const TTL: &str = "ttl_seconds";

/// The event of each VM that is held.
fn each(lease: &Lease, event: impl Fn(u64) -> Event) -> Vec<Event> {
    let held = lease.members.iter().filter(|member| !member.ended());
    held.map(|member| told(event(lease.ttl.as_secs()), member).lease(&lease.id)).collect()
}

/// How one VM of it stood.
pub(super) struct MemberStanding {
    state: LeaseState,
    ended: bool,
    judged: bool,
}

impl Standing {
    pub(super) fn of(lease: &Lease) -> Self {
        Self {
            cause: lease.thaw_cause,
            members: lease.members.iter().map(MemberStanding::of).collect(),
        }
    }

    /// The VMs that have got their verdict since.
    pub(super) fn judged<'a>(&self, lease: &'a Lease) -> impl Iterator<Item = &'a Member> {
        let pairs = self.members.iter().zip(&lease.members);
        pairs.filter(|(before, member)| before.is_news(member)).map(|(_, member)| member)
    }

    /// What has happened since, VM by VM: that is how events are followed.
    pub(super) fn events(&self, lease: &Lease) -> Vec<Event> {
        let mut events = Vec::new();
        for (before, member) in self.members.iter().zip(&lease.members) {
            if let Some(event) = self.of_lease(lease).filter(|_| !member.ended()) {
                events.push(told(event, member).lease(&lease.id));
            }
            if let Some(event) = before.event(member) {
                events.push(event.lease(&lease.id));
            }
        }
        events
    }

    fn of_lease(&self, lease: &Lease) -> Option<Event> {
        match lease.thaw_cause.filter(|_| self.cause != lease.thaw_cause && !lease.ended())? {
            ThawCause::Expired => Some(Event::new(EventKind::FreezeExpired)),
            ThawCause::Rollback => Some(Event::new(EventKind::FreezeRollback)),
            _ => None,
        }
    }
}

impl MemberStanding {
    pub(super) fn of(member: &Member) -> Self {
        let judged = member.verdict.is_some();
        Self { state: member.state, ended: member.ended(), judged }
    }

    /// Whether the VM has got its verdict since.
    pub(super) fn is_news(&self, member: &Member) -> bool {
        member.verdict.is_some() && !self.judged
    }

    /// What has happened to the VM since.
    pub(super) fn event(&self, member: &Member) -> Option<Event> {
        let orphaned = member.state == LeaseState::Orphaned;
        if orphaned && (self.state != LeaseState::Orphaned || self.ended != member.ended()) {
            let event = Event::new(EventKind::FreezeOrphaned).with("given_up", member.ended());
            return Some(event.vm(&member.vm));
        }
        let verdict = member.verdict.filter(|_| !self.judged && !orphaned)?;
        let cause = member.thaw_cause.map(ThawCause::as_str);
        let event = Event::new(EventKind::FreezeThawed).vm(&member.vm);
        Some(event.with("cause", cause).with("verdict", verdict.as_str()))
    }
}

fn told(event: Event, member: &Member) -> Event {
    let event = event.vm(&member.vm);
    match member.filesystems {
        Some(count) => event.with("filesystems", count),
        None => event,
    }
}
