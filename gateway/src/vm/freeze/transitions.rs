//! What a change of a lease means for whoever follows the events: drawn from how it stood before
//! and stands now, so that no place that changes one can forget to tell.

use crate::vm::boottime::BootTime;
use crate::vm::events::{Event, EventKind};
use crate::vm::lease::{Lease, LeaseState, Member, ThawCause};

/// How a lease stood.
pub(super) struct Standing {
    state: LeaseState,
    deadline: Option<BootTime>,
    cause: Option<ThawCause>,
    members: Vec<MemberStanding>,
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
            state: lease.state,
            deadline: lease.deadline,
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
        let ttl = lease.ttl.as_secs();
        match (self.state, lease.state) {
            (LeaseState::Freezing, LeaseState::Frozen) => {
                let guard = lease.guard().as_str();
                let event = Event::new(EventKind::FreezeFrozen).with("guard", guard);
                return Some(event.with("ttl_seconds", ttl));
            }
            (LeaseState::Frozen, LeaseState::Frozen) if self.deadline != lease.deadline => {
                return Some(Event::new(EventKind::FreezeRenewed).with("ttl_seconds", ttl));
            }
            _ => {}
        }
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
