//! Looks at the guests' truth, and at what becomes of leases, all the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qga_e2e::sim::{By, Ended, Episode, Mode, Truth};
use serde_json::Value;

use crate::Run;
use crate::client::Ask;
use crate::host::GUEST_MARGIN;

/// What a deadline may be missed by on a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(8);
/// A lease that should be over is looked at again until then.
const ENDS: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// No guest is frozen for longer than it may be.
pub(crate) async fn guests(run: Arc<Run>) {
    // The freeze of each VM that was told of already.
    let mut told = vec![None; run.guests.count()];
    loop {
        let going_on = run.pause(PAUSE).await;
        for (number, told) in told.iter_mut().enumerate() {
            look(&run, number, told);
            // A thousand looks are not to keep the callers waiting.
            if number % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        if !going_on {
            return;
        }
    }
}

fn look(run: &Run, number: usize, told: &mut Option<Duration>) {
    // Before the truth: what comes later can only allow more.
    let truth = run.guests.machine(number).truth();
    let bounds = run.book.bounds(number);
    let id = run.guests.id(number);
    if !truth.blind.is_empty() {
        run.book.wrong(format!("{id}: sent before a sync: {:?}", truth.blind));
    }
    if let Some(episode) = &truth.frozen
        && episode.by != By::Inside
        && bounds.under_way == 0
        && *told != Some(episode.since)
    {
        let until = bounds.until.max(bounds.excused) + SLACK;
        if truth.now > until {
            *told = Some(episode.since);
            let over = (truth.now - bounds.until).as_secs_f64();
            run.book.wrong(format!("{id} is frozen {over:.1} s past its time: {episode:?}"));
        }
    }
    for episode in truth.past.iter().chain(&truth.frozen) {
        let lasted = episode.until.unwrap_or(truth.now).saturating_sub(episode.since);
        run.book.lasted(lasted);
        overdue(run, number, &truth, episode, told);
    }
}

/// A guest with our agent thaws by itself, whatever becomes of the gateway: no fault excuses it.
fn overdue(
    run: &Run,
    number: usize,
    truth: &Truth,
    episode: &Episode,
    told: &mut Option<Duration>,
) {
    let By::Command { lease: Some(lease), .. } = &episode.by else { return };
    let Some(given) = run.book.given(lease) else { return };
    let most = given.until + GUEST_MARGIN + SLACK;
    let until = episode.until.unwrap_or(truth.now);
    let asked = run.book.bounds(number).under_way > 0 && episode.until.is_none();
    if until > most && !asked && *told != Some(episode.since) {
        *told = Some(episode.since);
        let id = run.guests.id(number);
        run.book.wrong(format!("{id} was frozen past its guest's own deadline: {episode:?}"));
    }
}

/// No lease is lost, and none ends with a verdict that is not true.
pub(crate) async fn leases(run: Arc<Run>) {
    while run.pause(PAUSE).await {
        for (since, lease) in run.book.due(Some(Instant::now())) {
            look_up(&run, since, &lease).await;
        }
    }
}

/// Looks at a lease that should be over; one that is not is looked at again.
pub(crate) async fn look_up(run: &Run, since: Instant, lease: &str) {
    let answer = run.send(&Ask::lease("GET", lease)).await;
    let again = || run.book.look_up(lease, Instant::now().max(since) + AGAIN);
    let Some(answer) = answer else { return again() };
    if answer.status != 200 {
        run.book.wrong(format!("lease {lease} is lost: {}", answer.json));
        return;
    }
    let json = &answer.json;
    let over =
        matches!(json["state"].as_str(), Some("thawed" | "failed")) || !json["verdict"].is_null();
    let given = run.book.given(lease);
    if !over {
        let most = given.map_or(Duration::ZERO, |given| given.until) + ENDS;
        if run.guests.now() > most {
            run.book.wrong(format!("lease {lease} does not end: {json}"));
            return;
        }
        return again();
    }
    let word = |name: &str| json[name].as_str().unwrap_or("none").to_owned();
    run.book.ended(format!("{}, {}", word("verdict"), word("thaw_cause")));
    for vm in given.map(|given| given.vms).unwrap_or_default() {
        if let Some(lie) = lie(run, json, vm) {
            run.book.wrong(lie);
        }
    }
}

/// `held` means: this guest was frozen once for this lease, and thawed from outside.
fn lie(run: &Run, lease: &Value, number: usize) -> Option<String> {
    let id = run.guests.id(number);
    let member = lease["members"].as_array()?.iter().find(|member| member["vm_id"] == *id)?;
    // Of another VM that was there before, nothing is known any more.
    if member["verdict"] != "held" || run.book.bounds(number).places > 0 {
        return None;
    }
    if run.guests.mode(number) != Mode::Qga {
        return Some(format!("{id}: held, which a stock agent cannot show: {lease}"));
    }
    let truth = run.guests.machine(number).truth();
    let name = lease["id"].as_str().unwrap_or_default();
    let of_lease = |episode: &&Episode| matches!(&episode.by, By::Command { lease: Some(lease), .. } if lease == name);
    let episodes: Vec<_> = truth.past.iter().chain(&truth.frozen).filter(of_lease).collect();
    match episodes[..] {
        [Episode { ended: Some(Ended::Command { .. }), .. }] => None,
        _ => Some(format!("{id}: held, but: {episodes:?}: {lease}")),
    }
}
