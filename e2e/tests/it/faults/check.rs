//! What must be true after any fault. Reads the simulator's truth; of the gateway only what it
//! promises: its leases and their verdicts.

use std::collections::BTreeSet;
use std::time::Duration;

use qga_e2e::sim::{By, Ended, Episode, Machine, Truth};
use qga_e2e::until;
use serde_json::Value;

use super::bed::{Bed, FREEZE_TIMEOUT, GUEST_MARGIN, TTL};
use super::orchestrator::Seen;
use crate::fleet::id;

/// For a loaded machine: what a deadline may be missed by.
pub(super) const SLACK: Duration = Duration::from_secs(6);
/// Until everything must be over.
const SETTLED: Duration = Duration::from_secs(60);

/// What became of a case.
#[derive(Debug)]
pub(super) struct Fate {
    /// Everything that must not be.
    pub(super) wrong: Vec<String>,
    /// A word for the table.
    pub(super) outcome: String,
    /// How each lease ended.
    pub(super) ends: Vec<String>,
}

/// Waits until all is over, and looks whether it came out right.
pub(super) fn fate(bed: &Bed, seen: &Seen) -> Fate {
    let mut wrong = Vec::new();
    let most = Duration::from_secs(FREEZE_TIMEOUT + 2 * TTL + GUEST_MARGIN) + SLACK;
    let most = most + *bed.down.lock().unwrap();
    for machine in &bed.machines {
        let name = id(machine);
        // What somebody inside has frozen is theirs.
        let theirs = |episode: &Episode| episode.by == By::Inside;
        let thawed = machine.until("thawed", SETTLED, |truth| {
            truth.frozen.as_ref().is_none_or(theirs).then_some(())
        });
        if thawed.is_err() {
            wrong.push(format!("{name} stays frozen"));
        }
    }
    let leases = until("all leases to end", SETTLED, || {
        let leases = leases(&bed.rest().get("/freezes")?.expect(200)?);
        Ok(leases.iter().all(over).then_some(leases))
    });
    bed.free_disk();
    let leases = leases.unwrap_or_else(|e| {
        wrong.push(format!("a lease does not end: {e}"));
        Vec::new()
    });
    let known: BTreeSet<&str> = leases.iter().filter_map(|lease| lease["id"].as_str()).collect();
    if let Some(lease) = seen.lease()
        && !known.contains(lease.as_str())
    {
        wrong.push(format!("lease {lease}, which was answered, is lost"));
    }
    for (number, machine) in bed.machines.iter().enumerate() {
        let truth = machine.truth();
        wrong.extend(too_long(&truth, most).map(|why| format!("{}: {why}", id(machine))));
        wrong.extend(lost_leases(&truth, &known));
        for lease in &leases {
            let member = member(lease, &id(machine));
            wrong.extend(false_verdict(&truth, lease, member, seen, number));
        }
        if !truth.blind.is_empty() {
            wrong.push(format!("{}: sent before a sync: {:?}", id(machine), truth.blind));
        }
    }
    for stranger in bed.strangers.lock().unwrap().iter() {
        wrong.extend(touched(stranger));
    }
    Fate { wrong, outcome: outcome(&leases, seen), ends: leases.iter().map(end).collect() }
}

fn leases(list: &Value) -> Vec<Value> {
    list["freezes"].as_array().cloned().unwrap_or_default()
}

fn over(lease: &Value) -> bool {
    let ended = |lease: &Value| {
        matches!(lease["state"].as_str(), Some("thawed" | "failed")) || !lease["verdict"].is_null()
    };
    ended(lease)
}

/// The lease's word on one VM.
fn member<'a>(lease: &'a Value, vm: &str) -> Option<&'a Value> {
    match lease["members"].as_array() {
        Some(members) => members.iter().find(|member| member["vm_id"] == vm),
        None => (lease["vm_id"] == vm).then_some(lease),
    }
}

/// Freezes through the gateway that lasted longer than any of its deadlines.
fn too_long(truth: &Truth, most: Duration) -> impl Iterator<Item = String> + use<> {
    let gone_by = truth.now;
    let all: Vec<Episode> = truth.past.iter().chain(&truth.frozen).cloned().collect();
    all.into_iter().filter(|episode| matches!(episode.by, By::Command { .. })).filter_map(
        move |episode| {
            let lasted = episode.until.unwrap_or(gone_by).saturating_sub(episode.since);
            (lasted > most).then(|| format!("frozen for {lasted:?}, at most {most:?}: {episode:?}"))
        },
    )
}

/// Leases that a guest has been frozen for and the gateway does not know.
fn lost_leases(truth: &Truth, known: &BTreeSet<&str>) -> Vec<String> {
    let of = |episode: &Episode| match &episode.by {
        By::Command { lease, .. } => lease.clone(),
        By::Inside => None,
    };
    let frozen_for = truth.past.iter().chain(&truth.frozen).filter_map(of);
    frozen_for
        .filter(|lease| !known.contains(lease.as_str()))
        .map(|lease| format!("a guest was frozen for lease {lease}, which nobody knows"))
        .collect()
}

/// `held` although the guest was not frozen all the time between the answers to freeze and thaw.
fn false_verdict(
    truth: &Truth,
    lease: &Value,
    member: Option<&Value>,
    seen: &Seen,
    number: usize,
) -> Option<String> {
    let member = member?;
    if member["verdict"] != "held" {
        return None;
    }
    if truth.generation == 0 {
        return Some(format!("held, which a stock agent cannot show: {lease}"));
    }
    let id = lease["id"].as_str().unwrap_or_default();
    let lie = |why: &str| Some(format!("held, but {why}: {lease}; {:?}", truth.past));
    let of_lease = |episode: &&Episode| matches!(&episode.by, By::Command { lease: Some(lease), .. } if lease == id);
    let mut episodes = truth.past.iter().chain(&truth.frozen).filter(of_lease);
    let (Some(episode), None) = (episodes.next(), episodes.next()) else {
        return lie("the guest was not frozen for it just once");
    };
    if !matches!(episode.ended, Some(Ended::Command { .. })) {
        return lie("nobody from outside thawed it");
    }
    // The orchestrator's own window, where it has seen one.
    let at_frozen = seen.at_frozen.get(number)?;
    let Some(begun) = at_frozen.frozen.as_ref() else {
        return lie("the guest was thawed when the freeze was answered");
    };
    if begun.since != episode.since {
        return lie("it was another freeze that was answered");
    }
    if let Some(at_thaw) = seen.at_thaw.get(number)
        && at_thaw.writes(&[]) != at_frozen.writes(&[])
    {
        return lie("there were writes");
    }
    None
}

/// A freeze of somebody else's that the gateway has ended.
fn touched(stranger: &Machine) -> Option<String> {
    let truth = stranger.truth();
    let frozen = truth.frozen.as_ref().is_some_and(|episode| episode.by == By::Inside);
    (!frozen).then(|| format!("somebody else's freeze was thawed: {:?}", truth.past))
}

/// What the table says.
fn outcome(leases: &[Value], seen: &Seen) -> String {
    let Some(lease) = leases.last() else {
        let code = seen.frozen.as_ref().map_or("no answer", |reply| reply.code());
        return format!("no lease: {code}");
    };
    end(lease)
}

fn end(lease: &Value) -> String {
    let word = |name: &str| lease[name].as_str().unwrap_or("none").to_owned();
    format!("{}, {}", word("verdict"), word("thaw_cause"))
}
