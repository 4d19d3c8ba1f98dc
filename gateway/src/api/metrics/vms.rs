//! What is known of each VM.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::metrics::family::{self, Family};
use crate::metrics::page::Page;
use crate::metrics::process::timestamp;
use crate::printable::label;
use crate::vm::{CountersSnapshot, Lease, Leases, LinkState, LinkStatus, VmHandle, VmId};

/// A VM at the moment of the scrape. All of its figures are of that moment.
struct Row<'a> {
    vm: &'a VmHandle,
    link: LinkStatus,
    counters: CountersSnapshot,
    lease: Option<Active>,
    last: Option<Past>,
}

/// The lease that holds a VM.
struct Active {
    state: &'static str,
    guard: &'static str,
    frozen_at: Option<SystemTime>,
    expires_at: Option<SystemTime>,
}

/// The last lease of a VM that has ended.
struct Past {
    ended_at: SystemTime,
    cause: &'static str,
    verdict: &'static str,
}

pub(super) fn write(page: &mut Page, vms: &[VmHandle], leases: &Leases) {
    let (mut active, mut past) = of_leases(leases);
    let rows: Vec<Row<'_>> = vms
        .iter()
        .map(|vm| Row {
            vm,
            link: vm.link(),
            counters: vm.counters(),
            lease: active.remove(vm.id()),
            last: past.remove(vm.id()),
        })
        .collect();
    links(page, &rows);
    counters(page, &rows);
    freezes(page, &rows);
}

/// What holds each VM, and what held it last.
fn of_leases(leases: &Leases) -> (HashMap<VmId, Active>, HashMap<VmId, Past>) {
    let (mut active, mut past) = (HashMap::new(), HashMap::<VmId, Past>::new());
    leases.look(|lease: &Lease| {
        for member in &lease.members {
            if !member.ended() {
                let held = Active {
                    state: member.state.as_str(),
                    guard: member.guard.as_str(),
                    frozen_at: member.frozen_at,
                    expires_at: lease.expires_at,
                };
                active.insert(member.vm.clone(), held);
            } else if let Some(verdict) = member.verdict
                && let Some(ended_at) = member.thawed_at.or(lease.ended_at)
                && past.get(&member.vm).is_none_or(|known| known.ended_at < ended_at)
            {
                let cause = member.thaw_cause.map_or("none", crate::vm::ThawCause::as_str);
                let ended = Past { ended_at, cause, verdict: verdict.as_str() };
                past.insert(member.vm.clone(), ended);
            }
        }
    });
    (active, past)
}

fn links(page: &mut Page, rows: &[Row<'_>]) {
    let mut samples = page.family(&family::VMS);
    for state in LinkState::ALL {
        let count = rows.iter().filter(|row| row.link.state == state).count();
        samples.add(&[state.as_str()], count);
    }
    let mut samples = page.family(&family::LINK_STATE);
    for Row { vm, link, .. } in rows {
        samples.add(&[vm.id().as_str(), link.state.as_str()], 1);
    }
    let mut samples = page.family(&family::LINK_SINCE);
    for Row { vm, link, .. } in rows {
        samples.add(&[vm.id().as_str()], timestamp(link.since));
    }
    let mut samples = page.family(&family::AGENT_INFO);
    for Row { vm, .. } in rows {
        if let Some(agent) = vm.capabilities() {
            samples.add(&[vm.id().as_str(), &label(&agent.version)], 1);
        }
    }
    let mut samples = page.family(&family::QUEUE_DEPTH);
    for Row { vm, .. } in rows {
        samples.add(&[vm.id().as_str()], vm.queue_depth());
    }
}

fn counters(page: &mut Page, rows: &[Row<'_>]) {
    type Counted = (&'static Family, fn(&Row<'_>) -> u64);
    let families: [Counted; 10] = [
        (&family::CALLS, |row| row.counters.calls),
        (&family::TIMEOUTS, |row| row.counters.timeouts),
        (&family::BAD_REPLIES, |row| row.counters.bad_replies),
        (&family::DROPPED, |row| row.counters.dropped),
        (&family::RECEIVED, |row| row.counters.bytes_received),
        (&family::SENT, |row| row.counters.bytes_sent),
        (&family::CONNECTIONS, |row| row.counters.connections),
        (&family::SYNCS, |row| row.counters.syncs),
        (&family::SYNC_FAILURES, |row| row.counters.syncs_failed),
        (&family::DISRUPTIONS, |row| row.vm.disruptions()),
    ];
    for (family, count) in families {
        let mut samples = page.family(family);
        for row in rows {
            samples.add(&[row.vm.id().as_str()], count(row));
        }
    }
}

fn freezes(page: &mut Page, rows: &[Row<'_>]) {
    let held = || rows.iter().filter_map(|row| Some((row.vm.id().as_str(), row.lease.as_ref()?)));
    let mut samples = page.family(&family::LEASE_STATE);
    for (vm, lease) in held() {
        samples.add(&[vm, lease.state, lease.guard], 1);
    }
    let mut samples = page.family(&family::FROZEN_AT);
    for (vm, at) in held().filter_map(|(vm, lease)| Some((vm, lease.frozen_at?))) {
        samples.add(&[vm], timestamp(at));
    }
    let mut samples = page.family(&family::EXPIRES_AT);
    for (vm, at) in held().filter_map(|(vm, lease)| Some((vm, lease.expires_at?))) {
        samples.add(&[vm], timestamp(at));
    }
    let mut samples = page.family(&family::LAST_THAW);
    for row in rows {
        if let Some(last) = &row.last {
            let labels = [row.vm.id().as_str(), last.cause, last.verdict];
            samples.add(&labels, timestamp(last.ended_at));
        }
    }
}
