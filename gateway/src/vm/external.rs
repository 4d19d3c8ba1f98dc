//! VMs that somebody else has frozen: told once, and thawed after a while where that is configured.
//!
//! ```text
//!   frozen, no lease ──▶ seen: freeze.external ──(thaw-after)──▶ still frozen? ──▶ forced thaw
//!        ▲                │  thawed, or a lease holds it
//!        └── forgotten ◀──┘
//! ```

use std::collections::HashMap;
use std::time::SystemTime;

use qga_proto::command::{Command as _, FsfreezeStatus, GuestFsfreezeStatus};
use tokio::time::{Instant, sleep_until};

use super::VmId;
use super::events::{Delivery, Event, EventKind};
use super::freeze::Leases;
use super::handle::VmHandle;
use super::lease::ThawCause;
use super::link::LinkState;
use super::registry::Registry;
use crate::config::ExternalFreeze;
use crate::principal::Principal;

/// A freeze that is not ours.
struct Seen {
    /// When the link entered `frozen`; another time is another sighting.
    link_since: SystemTime,
    /// When the VM is thawed.
    due: Option<Instant>,
}

/// Looks after VMs that are frozen and have no lease, until the registry is closed.
pub async fn watch_external(registry: Registry, leases: Leases) {
    let closed = registry.closed().clone();
    closed.run_until_cancelled(Watch { registry, leases, seen: HashMap::new() }.run()).await;
}

struct Watch {
    registry: Registry,
    leases: Leases,
    seen: HashMap<VmId, Seen>,
}

impl Watch {
    async fn run(mut self) {
        let mut events = self.registry.events().follow();
        let concerns = |event: &super::Published| {
            event.vm.is_some() && event.kind != EventKind::FreezeExternal
        };
        // Before the first event, after events were missed, and to be sure.
        let mut scan = Instant::now();
        loop {
            let now = Instant::now();
            if now >= scan {
                self.seen.retain(|id, _| self.registry.get(id).is_some());
                for vm in self.registry.list() {
                    self.look(&vm);
                }
                scan = now + self.registry.limits().rescan;
            }
            self.thaw_what_is_due();
            let due = self.seen.values().filter_map(|seen| seen.due).min();
            tokio::select! {
                delivery = events.next(concerns) => match delivery {
                    Delivery::Event(event) => self.look_at(event.vm.as_ref()),
                    Delivery::Gap { .. } => scan = Instant::now(),
                },
                () = sleep_until(due.map_or(scan, |due| due.min(scan))) => {}
            }
        }
    }

    fn look_at(&mut self, id: Option<&VmId>) {
        let Some(id) = id else { return };
        match self.registry.get(id) {
            Some(vm) => self.look(&vm),
            None => drop(self.seen.remove(id)),
        }
    }

    fn look(&mut self, vm: &VmHandle) {
        let link = vm.link();
        if link.state == LinkState::Ready || self.leases.is_held(vm.id()) {
            self.seen.remove(vm.id());
            return;
        }
        // Whether a guest that does not answer is still frozen nobody knows: no clock runs.
        if link.state != LinkState::Frozen {
            if let Some(seen) = self.seen.get_mut(vm.id()) {
                seen.due = None;
            }
            return;
        }
        let after = vm.external_freeze();
        let due = || after.thaw_after().map(|after| Instant::now() + after);
        if let Some(seen) = self.seen.get_mut(vm.id()) {
            if seen.link_since != link.since || seen.due.is_some() != after.thaw_after().is_some() {
                *seen = Seen { link_since: link.since, due: due() };
            }
            return;
        }
        self.seen.insert(vm.id().clone(), Seen { link_since: link.since, due: due() });
        let what = match after {
            ExternalFreeze::Report => {
                "the gateway leaves it so; DELETE /vms/{id}/fsfreeze?force=true thaws it".to_owned()
            }
            ExternalFreeze::ThawAfter(after) => {
                format!("if it stays so, the gateway thaws it in {} s", after.as_secs_f64())
            }
        };
        tracing::warn!(
            vm.id = %vm.id(),
            "{}: frozen, and not through this gateway, or before it lost its leases; {what}",
            vm.id()
        );
        let event = Event::new(EventKind::FreezeExternal).vm(vm.id());
        let seconds = after.thaw_after().map(|after| after.as_secs_f64());
        self.registry.events().publish(event.with("thaw_after_seconds", seconds));
    }

    fn thaw_what_is_due(&mut self) {
        let now = Instant::now();
        let due = self.seen.iter().filter(|(_, seen)| seen.due.is_some_and(|due| due <= now));
        let due: Vec<VmId> = due.map(|(id, _)| id.clone()).collect();
        for id in due {
            self.look_at(Some(&id));
            let vm = self.registry.get(&id);
            let (Some(seen), Some(vm)) = (self.seen.get_mut(&id), vm) else { continue };
            // A link that was lost meanwhile has another time, or none.
            if seen.due.is_none_or(|due| due > now) {
                continue;
            }
            // If this one comes to nothing, there is another one as much later.
            seen.due = vm.external_freeze().thaw_after().map(|after| now + after);
            tokio::spawn(thaw(vm, self.leases.clone()));
        }
    }
}

async fn thaw(vm: VmHandle, leases: Leases) {
    let id = vm.id();
    // An on-demand link may not have heard of a thaw. What it hears now, the link shows.
    let status = vm.call(GuestFsfreezeStatus {}, vm.options(&GuestFsfreezeStatus::INFO)).await;
    if !matches!(status, Ok(FsfreezeStatus::Frozen | FsfreezeStatus::Error)) {
        return;
    }
    // Refused if a lease holds the VM by now.
    match leases.force_thaw(&vm, Principal::new("gateway"), ThawCause::Forced).await {
        Ok(lease) => tracing::warn!(
            vm.id = %id, lease.id = %lease.id,
            "{id}: thawed, as external_freeze says: somebody else had it frozen for too long"
        ),
        Err(error) => tracing::error!(
            vm.id = %id,
            "{id}: somebody else has it frozen, and it could not be thawed: {error}"
        ),
    }
}
