//! Backup tools: freezes that are renewed, thawed, thawed late, or forgotten.

use std::time::{Duration, Instant};

use qga_e2e::sim::Random;
use serde_json::{Value, json};

use crate::Run;
use crate::client::{Answer, Ask};

/// How long freezing may take.
pub(crate) const FREEZE_TIMEOUT: u64 = 4;
/// As it is configured.
const THAW_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that any of them asks for.
const TTL_MOST: u64 = 6;
/// When a lease must be over after its time, if nothing is wrong.
const AFTER: Duration = Duration::from_secs(3);

fn ttl(random: &mut Random) -> u64 {
    2 + random.below(TTL_MOST - 1)
}

/// One VM.
pub(super) async fn one(run: &Run, random: &mut Random, vm: usize) {
    let id = run.guests.id(vm);
    let route = "/vms/{id}/fsfreeze";
    let ttl = ttl(random);
    let mut body = json!({
        "ttl_seconds": ttl, "freeze_timeout_seconds": FREEZE_TIMEOUT, "label": "soak",
    });
    if random.once_in(6) {
        body["mountpoints"] = json!(["/srv"]);
    }
    if random.once_in(4) {
        body["policy"] = json!("best_effort");
    }
    let mut ask = Ask::vm("POST", route, &id).json(body);
    if random.once_in(10) {
        ask.path += "?dry_run=true";
        run.send(&ask).await;
        return;
    }
    let keyed = random.once_in(4);
    if keyed {
        ask = ask.header("idempotency-key", format!("soak-{:x}", random.number()));
    }
    let Some(lease) = freeze(run, &ask, &[vm], ttl).await else { return };
    if keyed {
        // The answer got lost on the way, so it is asked for again.
        let again = run.send(&ask).await;
        if let Some(again) = again.filter(|again| again.json["id"] != lease.as_str()) {
            run.book.wrong(format!("{lease}: its key gave something else: {}", again.json));
        }
    }
    hold(run, random, &lease, &[vm], Some(&id)).await;
}

/// Several, by name.
pub(super) async fn group(run: &Run, random: &mut Random) {
    let count = 2 + random.below(12);
    let mut vms: Vec<usize> = (0..count).map(|_| run.any(random)).collect();
    vms.sort_unstable();
    vms.dedup();
    let ids: Vec<_> = vms.iter().map(|vm| run.guests.id(*vm)).collect();
    let ttl = ttl(random);
    let order = *random.pick(&["parallel", "parallel", "sequential"]);
    let ask = Ask::new("POST", "/freezes", "/freezes".into()).json(json!({
        "vms": ids, "ttl_seconds": ttl, "freeze_timeout_seconds": FREEZE_TIMEOUT,
        "all_or_nothing": random.once_in(2),
        "order": order,
    }));
    let ask = if random.once_in(4) { ask.header("prefer", "respond-async") } else { ask };
    let Some(lease) = freeze(run, &ask, &vms, ttl).await else { return };
    if order == "sequential" {
        // Thawed one after the other, each waits for those before it that are in trouble.
        let most = THAW_TIMEOUT * u32::try_from(vms.len()).unwrap_or(1);
        let over = Duration::from_secs(4 * TTL_MOST) + most;
        vms.iter().for_each(|vm| run.book.excuse(*vm, run.guests.now() + over));
    }
    hold(run, random, &lease, &vms, None).await;
}

/// The lease, if there is one.
async fn freeze(run: &Run, ask: &Ask, vms: &[usize], ttl: u64) -> Option<String> {
    run.book.asks(vms);
    let answer = run.send(ask).await;
    let now = run.guests.now();
    let status = answer.as_ref().map(|answer| answer.status);
    // What is refused freezes nothing; what failed may have frozen, and is being thawed.
    let time = match status {
        Some(201) => ttl,
        Some(400..=421) => 0,
        _ => ttl + FREEZE_TIMEOUT * u64::try_from(vms.len()).unwrap_or(1),
    };
    let until = now + Duration::from_secs(time);
    run.book.asked(vms, until);
    let lease = answer
        .filter(|answer| matches!(answer.status, 201 | 202))
        .and_then(|answer| id(&answer))?;
    run.book.holds(&lease, vms, until);
    Some(lease)
}

fn id(answer: &Answer) -> Option<String> {
    answer.json["id"].as_str().map(str::to_owned)
}

/// What becomes of it.
async fn hold(run: &Run, random: &mut Random, lease: &str, vms: &[usize], vm: Option<&str>) {
    let moment = |random: &mut Random| Duration::from_millis(random.below(3000));
    match random.below(10) {
        // Forgotten: its time has to do it.
        0 | 1 => {}
        // Held on to, and thawed in time or after it.
        2..=5 => {
            for _ in 0..=random.below(2) {
                run.pause(moment(random)).await;
                renew(run, random, lease, vms).await;
            }
            run.pause(moment(random)).await;
            thaw(run, random, lease, vm).await;
        }
        6 => {
            run.pause(Duration::from_secs(TTL_MOST + 1)).await;
            thaw(run, random, lease, vm).await;
        }
        _ => {
            run.pause(moment(random)).await;
            thaw(run, random, lease, vm).await;
        }
    }
    let given = run.book.given(lease);
    let left = given.map_or(Duration::ZERO, |given| given.until.saturating_sub(run.guests.now()));
    run.book.look_up(lease, Instant::now() + left + AFTER);
}

async fn renew(run: &Run, random: &mut Random, lease: &str, vms: &[usize]) {
    let ttl = ttl(random);
    run.book.asks(vms);
    let answer = run.send(&Ask::lease("PATCH", lease).json(json!({ "ttl_seconds": ttl }))).await;
    let until = run.guests.now() + Duration::from_secs(ttl);
    // It may have been renewed even if nobody says so.
    let renewed = answer.is_none_or(|answer| !matches!(answer.status, 400..=421));
    run.book.asked(vms, if renewed { until } else { Duration::ZERO });
    if renewed {
        run.book.holds(lease, vms, until);
    }
}

async fn thaw(run: &Run, random: &mut Random, lease: &str, vm: Option<&str>) {
    let ask = match vm.filter(|_| random.once_in(2)) {
        Some(vm) => {
            Ask::vm("DELETE", "/vms/{id}/fsfreeze", vm).header("if-match", format!("\"{lease}\""))
        }
        None => Ask::lease("DELETE", lease),
    };
    let Some(answer) = run.send(&ask).await else { return };
    // A lease that was given is there until it is over, and long after that.
    if answer.status == 404 && answer.code() == "lease_not_found" && vm.is_none() {
        run.book.wrong(format!("{lease} is lost: {}", Value::to_string(&answer.json)));
    }
}
