//! Freezes while the wall clock jumps. Only for a VM that nobody minds: this sets its clock.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qga_e2e::Rest;
use qga_e2e::sim::{Act, Blueprint, Commands, Episode, Fleet, Machine, Mode, Moment};
use rustix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::{Value, json};

use super::inside::{BOUND, ended, good, say, start};

const TTL: u64 = 2;
/// What a deadline may be missed by where everything is emulated.
const SLACK: Duration = Duration::from_secs(8);
const DAY: i64 = 86_400;
/// Forwards, back, far back, and far forwards: seconds.
const JUMPS: [i64; 4] = [DAY, -DAY, -3650 * DAY, 3650 * DAY];

/// Prints a line per jump; an error if a freeze was not as long as it should be.
pub(crate) fn run(gateway: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let fleet = Fleet::new(dir)?;
    let machines = [Mode::Stock, Mode::Qga].map(|mode| {
        let name = mode.as_str().to_owned();
        fleet.machine(&name, &Blueprint::new(mode)).map(|machine| (name, machine))
    });
    let machines: Vec<(String, Machine)> = machines.into_iter().collect::<Result<_>>()?;
    let (_process, rest) = start(gateway, dir, &machines)?;
    for (name, machine) in &machines {
        let vm = format!("/vms/{name}");
        for seconds in JUMPS {
            let expired = while_held(&rest, &vm, machine, seconds)?;
            let thawed = before_a_thaw(&rest, &vm, machine, seconds)?;
            say(&format!("{name} {seconds}: {expired}; {thawed}"))?;
        }
        for seconds in [-3650 * DAY, 3650 * DAY] {
            let frozen = in_a_freeze(&rest, &vm, machine, seconds)?;
            let renewed = in_a_renewal(&rest, &vm, machine, seconds)?;
            let thawed = in_a_thaw(&rest, &vm, machine, seconds)?;
            say(&format!("{name} {seconds} in flight: {frozen}; {renewed}; {thawed}"))?;
        }
    }
    for seconds in [-3650 * DAY, 3650 * DAY] {
        let group = in_a_group(&rest, &machines, seconds)?;
        say(&format!("group {seconds} in flight: {group}"))?;
    }
    say("no jump moved a deadline")
}

/// The gateway thaws when it should, not when the wall clock says so.
fn while_held(rest: &Rest, vm: &str, machine: &Machine, seconds: i64) -> Result<String> {
    let body = json!({ "ttl_seconds": TTL });
    let lease = rest.post(&format!("{vm}/fsfreeze"), &body)?.expect(201)?;
    let begun = frozen(machine)?;
    jump(seconds)?;
    lasts(machine, &begun, begun.since, seconds)?;
    good(&ended(rest, &lease)?)
}

/// A thaw that somebody asks for.
fn before_a_thaw(rest: &Rest, vm: &str, machine: &Machine, seconds: i64) -> Result<String> {
    rest.post(&format!("{vm}/fsfreeze"), &json!({ "ttl_seconds": 600 }))?.expect(201)?;
    jump(seconds)?;
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
    ensure!(machine.truth().frozen.is_some(), "after {seconds} s: thawed too early");
    good(&rest.delete(&format!("{vm}/fsfreeze"))?.expect(200)?)
}

fn in_a_freeze(rest: &Rest, vm: &str, machine: &Machine, seconds: i64) -> Result<String> {
    let ask = || rest.post(&format!("{vm}/fsfreeze"), &json!({ "ttl_seconds": TTL }));
    let lease = at(machine, Commands::Freezes, seconds, ask)?.expect(201)?;
    let begun = frozen(machine)?;
    lasts(machine, &begun, begun.since, seconds)?;
    good(&ended(rest, &lease)?)
}

/// A stock agent is told of no renewal; then it is enough that the clock jumps before and after.
fn in_a_renewal(rest: &Rest, vm: &str, machine: &Machine, seconds: i64) -> Result<String> {
    let path = format!("{vm}/fsfreeze");
    let lease = rest.post(&path, &json!({ "ttl_seconds": 600 }))?.expect(201)?;
    let begun = frozen(machine)?;
    let ask = || rest.patch(&path, &json!({ "ttl_seconds": TTL }));
    let since = machine.truth().now;
    if vm.ends_with(Mode::Qga.as_str()) {
        at(machine, Commands::Named("x-guest-fsfreeze-renew"), seconds, ask)?.expect(200)?;
    } else {
        jump(seconds)?;
        ask()?.expect(200)?;
        jump(-seconds)?;
    }
    lasts(machine, &begun, since, seconds)?;
    good(&ended(rest, &lease)?)
}

fn in_a_thaw(rest: &Rest, vm: &str, machine: &Machine, seconds: i64) -> Result<String> {
    let path = format!("{vm}/fsfreeze");
    rest.post(&path, &json!({ "ttl_seconds": 600 }))?.expect(201)?;
    let ended = at(machine, Commands::Thaws, seconds, || rest.delete(&path))?.expect(200)?;
    ensure!(machine.truth().frozen.is_none(), "after {seconds} s: not thawed");
    good(&ended)
}

fn in_a_group(rest: &Rest, machines: &[(String, Machine)], seconds: i64) -> Result<String> {
    let vms: Vec<&str> = machines.iter().map(|(name, _)| name.as_str()).collect();
    let body = json!({ "vms": vms, "ttl_seconds": TTL });
    let last = &machines.last().context("no machines")?.1;
    let ask = || rest.post("/freezes", &body);
    let lease: Value = at(last, Commands::Freezes, seconds, ask)?.expect(201)?;
    // The time of all begins when the last one is frozen.
    let since = frozen(last)?.since;
    let begun = machines.iter().map(|(_, machine)| frozen(machine));
    let begun: Vec<Episode> = begun.collect::<Result<_>>()?;
    for ((_, machine), begun) in machines.iter().zip(&begun) {
        lasts(machine, begun, since, seconds)?;
    }
    good(&ended(rest, &lease)?)
}

/// Lets the clock jump while what is asked for waits in the guest.
fn at<T: Send>(
    machine: &Machine,
    commands: Commands,
    seconds: i64,
    ask: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let stop = machine.stop_at(commands, Moment::Received);
    thread::scope(|scope| {
        let asking = scope.spawn(ask);
        stop.reached(BOUND)?;
        jump(seconds)?;
        stop.release(Act::Pass);
        asking.join().expect("nothing here panics")
    })
}

fn frozen(machine: &Machine) -> Result<Episode> {
    machine.truth().frozen.context("not frozen")
}

/// The freeze ends by its time, counted from `since`.
fn lasts(machine: &Machine, begun: &Episode, since: Duration, seconds: i64) -> Result<()> {
    machine.until("thawed", BOUND, |truth| truth.frozen.is_none().then_some(()))?;
    let past = machine.truth().past;
    let episode = past.iter().find(|past| past.since == begun.since).context("no freeze")?;
    let lasted = episode.until.context("no end")?.saturating_sub(since);
    let least = Duration::from_secs(TTL) - Duration::from_millis(100);
    let most = Duration::from_secs(TTL) + SLACK;
    ensure!(least <= lasted && lasted <= most, "after {seconds} s: frozen for {lasted:?}");
    Ok(())
}

fn jump(seconds: i64) -> Result<()> {
    let mut now = clock_gettime(ClockId::Realtime);
    now.tv_sec += seconds;
    clock_settime(ClockId::Realtime, now).context("setting the clock")
}
