//! A host that is suspended while leases hold. Only for a VM: this suspends it, and somebody outside
//! has to wake it up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qga_e2e::sim::{Blueprint, Clock, Fleet, Machine, Mode};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::inside::{BOUND, ended, good, say, start};

/// Of the leases whose time is over when the host wakes up: much longer than [`AT_ONCE`], which
/// would not be enough if the sleep had not counted.
const BRIEF: u64 = 24;
/// Of the others.
const LONG: u64 = 3600;
/// Until what is overdue at the wake-up is thawed, where everything is emulated.
const AT_ONCE: Duration = Duration::from_secs(12);

/// Says when it is about to sleep; an error if a freeze did not end when it should.
pub(crate) fn run(gateway: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let fleet = Fleet::new(dir)?;
    let mut machines = Vec::new();
    for mode in [Mode::Stock, Mode::Qga] {
        for (name, ttl) in [("brief", BRIEF), ("long", LONG)] {
            // The guests of a suspended host stand still with it.
            let blueprint = Blueprint { clock: Clock::still_in_sleep(), ..Blueprint::new(mode) };
            let name = format!("{name}-{}", mode.as_str());
            machines.push((ttl, (name.clone(), fleet.machine(&name, &blueprint)?)));
        }
    }
    let (ttls, machines): (Vec<u64>, Vec<(String, Machine)>) = machines.into_iter().unzip();
    let (_process, rest) = start(gateway, dir, &machines)?;
    let mut leases: Vec<Value> = Vec::new();
    for (ttl, (name, machine)) in ttls.iter().zip(&machines) {
        let body = json!({ "ttl_seconds": ttl });
        leases.push(rest.post(&format!("/vms/{name}/fsfreeze"), &body)?.expect(201)?);
        ensure!(machine.truth().frozen.is_some(), "{name} is not frozen");
    }
    let (asleep, awake) = (now(ClockId::Boottime), now(ClockId::Monotonic));
    say("asleep")?;
    fs::write("/sys/power/state", "mem").context("suspending")?;
    let woken = now(ClockId::Boottime);
    let (slept, awake) = (woken - asleep, now(ClockId::Monotonic) - awake);
    say(&format!("slept for {slept:?}, of which {awake:?} awake"))?;
    ensure!(slept > Duration::from_secs(BRIEF), "not long enough");
    ensure!(awake + AT_ONCE < Duration::from_secs(BRIEF), "awake for too long");

    let all = || ttls.iter().zip(&machines).zip(&leases);
    for ((_, (name, machine)), lease) in all().filter(|((ttl, _), _)| **ttl == BRIEF) {
        machine.until("thawed", BOUND, |truth| truth.frozen.is_none().then_some(()))?;
        let after = now(ClockId::Boottime) - woken;
        ensure!(after < AT_ONCE, "{name} was thawed {after:?} after the wake-up");
        let ended = good(&ended(&rest, lease)?)?;
        say(&format!("{name}: thawed {after:?} after the wake-up: {ended}"))?;
    }
    for ((_, (name, machine)), lease) in all().filter(|((ttl, _), _)| **ttl == LONG) {
        ensure!(machine.truth().frozen.is_some(), "{name} is not frozen any more");
        let id = lease["id"].as_str().context("no id")?;
        let ended = good(&rest.delete(&format!("/freezes/{id}"))?.expect(200)?)?;
        ensure!(machine.truth().frozen.is_none(), "{name} is not thawed");
        say(&format!("{name}: held, and thawed when asked: {ended}"))?;
    }
    say("the sleep counted")
}

fn now(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}
