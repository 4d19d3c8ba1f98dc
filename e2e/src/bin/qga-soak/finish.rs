//! The end: everything is mended, and then nothing may be left of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qga_e2e::sim::By;

use crate::Run;
use crate::client::Ask;
use crate::guests::Guests;
use crate::host::Restart;
use crate::load;
use crate::samples::{self, Sample};
use crate::watch;

/// Until everything is over and every VM is reachable again.
const SETTLED: Duration = Duration::from_secs(150);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Looks of which the last ones must be alike: then it is at rest.
const ALIKE: usize = 4;

/// How it ended.
#[derive(Debug)]
pub(crate) struct End {
    /// The process at rest afterwards.
    pub(crate) rested: Option<Sample>,
    /// Lines of the log that should not be there, each kind once with its number.
    pub(crate) log: Vec<String>,
}

/// Mends all guests, and waits until nothing is frozen, leased or unreachable.
pub(crate) async fn settle(run: &Run, before: &Sample) -> Result<End> {
    run.guests.mend()?;
    frozen_inside(run).await;
    thawed(run).await;
    leases_over(run).await;
    // The gateway keeps in mind whose each is, for as long as it is open.
    for handle in run.book.left_open() {
        load::is_closed(run, &handle).await;
    }
    let rested = match at_rest_like(run, Some(before)).await {
        Ok(rested) => Some(rested),
        Err(error) => {
            run.book.wrong(format!("the gateway does not come to rest: {error:#}"));
            None
        }
    };
    // A last upgrade: who comes next has nothing left to do.
    run.host.restart(Restart::HandOver).await?;
    for state in ["freezing", "frozen", "thawing", "rolling_back", "orphaned"] {
        let ask = Ask::new("GET", "/freezes", format!("/freezes?state={state}"));
        let answer = run.send(&ask).await.context("no answer after the last restart")?;
        if answer.json["freezes"].as_array().is_none_or(|leases| !leases.is_empty()) {
            run.book.wrong(format!("leases that are {state} at the end: {}", answer.json));
        }
    }
    run.host.stop().await?;
    Ok(End { rested, log: bad_lines(&run.host.log()) })
}

/// What somebody inside has frozen is theirs, and a reset ends it; or the gateway thaws it, once it
/// has heard of it, which it does when the VM is asked for something.
async fn frozen_inside(run: &Run) {
    for number in 0..run.guests.count() {
        let machine = run.guests.machine(number);
        let frozen = machine.truth().frozen;
        if frozen.is_none_or(|episode| episode.by != By::Inside) {
            continue;
        }
        if Guests::is_outsider(number) {
            run.send(&Ask::vm("GET", "/vms/{id}/fsfreeze", &run.guests.id(number))).await;
        } else {
            machine.reset();
        }
    }
}

async fn thawed(run: &Run) {
    let end = Instant::now() + SETTLED;
    for number in 0..run.guests.count() {
        while let Some(episode) = run.guests.machine(number).truth().frozen {
            if Instant::now() > end {
                let id = run.guests.id(number);
                run.book.wrong(format!("{id} stays frozen: {episode:?}"));
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

async fn leases_over(run: &Run) {
    let end = Instant::now() + SETTLED;
    loop {
        let due = run.book.due(None);
        if due.is_empty() {
            return;
        }
        if Instant::now() > end {
            run.book.wrong(format!("leases that do not end: {due:?}"));
            return;
        }
        for (since, lease) in due {
            watch::look_up(run, since, &lease).await;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The process once all VMs are reachable and nothing moves any more.
pub(crate) async fn at_rest(run: &Run) -> Result<Sample> {
    at_rest_like(run, None).await
}

/// The same, as small as it was `before` if that can be had in time.
async fn at_rest_like(run: &Run, before: Option<&Sample>) -> Result<Sample> {
    let end = Instant::now() + SETTLED;
    let mut last: Vec<Sample> = Vec::new();
    loop {
        tokio::time::sleep(4 * LOOK_AGAIN).await;
        let ready = unreachable(run).await;
        let sample = match samples::now(run).await {
            Ok(sample) => sample,
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => continue,
        };
        if ready.is_empty() {
            last.push(sample);
        } else {
            last.clear();
        }
        let alike = last.len() >= ALIKE
            && last.iter().rev().take(ALIKE).all(|other| (other.tasks - sample.tasks).abs() < 1.5);
        let as_before = before.is_none_or(|before| {
            sample.tasks <= before.tasks + 2.0 && sample.descriptors <= before.descriptors + 2.0
        });
        if alike && as_before {
            return Ok(sample);
        }
        if Instant::now() > end {
            if !ready.is_empty() {
                bail!("not reachable: {ready:?}");
            }
            return Ok(sample);
        }
    }
}

/// VMs that should be reachable and are not.
async fn unreachable(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    for state in ["absent", "refused", "busy", "silent", "frozen", "paused"] {
        let ask = Ask::new("GET", "/vms", format!("/vms?state={state}&limit=1000"));
        let Some(answer) = run.send(&ask).await else { return vec!["no gateway".into()] };
        let vms = answer.json["vms"].as_array().cloned().unwrap_or_default();
        let ids = vms.iter().filter_map(|vm| vm["id"].as_str());
        if state == "frozen" {
            // Without QMP, nobody tells of a guest that was reset or thawed inside: one has to ask.
            for id in ids.clone() {
                run.send(&Ask::vm("GET", "/vms/{id}/fsfreeze", id)).await;
            }
        }
        found.extend(ids.filter(|id| run.guests.has(id)).map(|id| format!("{id} {state}")));
    }
    found
}

/// Panics and errors, but for one: a thaw of somebody else's freeze that a fault has spoiled, which is
/// tried again.
fn bad_lines(log: &str) -> Vec<String> {
    let known =
        |line: &str| line.contains("somebody else has it frozen, and it could not be thawed");
    let bad = |line: &&str| line.contains("panicked") || (line.contains("ERROR") && !known(line));
    log.lines().filter(bad).take(20).map(str::to_owned).collect()
}
