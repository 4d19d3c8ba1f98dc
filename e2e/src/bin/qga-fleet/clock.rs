//! Freezes while the wall clock jumps. Only for a VM that nobody minds: this sets its clock.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qga_e2e::sim::{Blueprint, Fleet, Machine, Mode};
use qga_e2e::{Rest, until};
use rustix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::{Value, json};

const BOUND: Duration = Duration::from_secs(120);
const TTL: u64 = 2;
/// What a deadline may be missed by where everything is emulated.
const SLACK: Duration = Duration::from_secs(8);
const DAY: i64 = 86_400;
/// Forwards, back, far back, and far forwards: seconds.
const JUMPS: [i64; 4] = [DAY, -DAY, -3650 * DAY, 3650 * DAY];

/// The gateway, ended with this.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only if it has gone.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Prints a line per jump; an error if a freeze was not as long as it should be.
pub(crate) fn run(gateway: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let fleet = Fleet::new(dir)?;
    let machines = [Mode::Stock, Mode::Qga]
        .map(|mode| fleet.machine(mode.as_str(), &Blueprint::new(mode)).map(|m| (mode, m)));
    let machines: Vec<(Mode, Machine)> = machines.into_iter().collect::<Result<_>>()?;
    let (_process, rest) = start(gateway, dir, &machines)?;
    for (mode, machine) in &machines {
        let vm = format!("/vms/{}", mode.as_str());
        until("the link", BOUND, || {
            let state = rest.get(&vm)?.expect(200)?;
            Ok((state["link"]["state"] == "ready" && !state["agent"].is_null()).then_some(()))
        })?;
        for seconds in JUMPS {
            let expired = expires(&rest, &vm, machine, seconds)?;
            let thawed = thaws(&rest, &vm, machine, seconds)?;
            say(&format!("{} {seconds}: {expired}; {thawed}", mode.as_str()))?;
        }
    }
    say("no jump moved a deadline")
}

/// The gateway thaws when it should, not when the wall clock says so.
fn expires(rest: &Rest, vm: &str, machine: &Machine, seconds: i64) -> Result<String> {
    let body = json!({ "ttl_seconds": TTL });
    let lease = rest.post(&format!("{vm}/fsfreeze"), &body)?.expect(201)?;
    let begun = machine.truth().frozen.context("not frozen")?;
    jump(seconds)?;
    let id = lease["id"].as_str().context("no id")?.to_owned();
    machine.until("thawed", BOUND, |truth| truth.frozen.is_none().then_some(()))?;
    let past = machine.truth().past;
    let episode = past.iter().find(|past| past.since == begun.since).context("no freeze")?;
    let lasted = episode.until.context("no end")?.saturating_sub(episode.since);
    let least = Duration::from_secs(TTL) - Duration::from_millis(100);
    let most = Duration::from_secs(TTL) + SLACK;
    ensure!(least <= lasted && lasted <= most, "after {seconds} s: frozen for {lasted:?}");
    let ended = until("the lease to end", BOUND, || {
        let lease = rest.get(&format!("/freezes/{id}"))?.expect(200)?;
        Ok((!lease["verdict"].is_null()).then_some(lease))
    })?;
    word(&ended)
}

/// A thaw that somebody asks for.
fn thaws(rest: &Rest, vm: &str, machine: &Machine, seconds: i64) -> Result<String> {
    rest.post(&format!("{vm}/fsfreeze"), &json!({ "ttl_seconds": 600 }))?.expect(201)?;
    jump(seconds)?;
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
    ensure!(machine.truth().frozen.is_some(), "after {seconds} s: thawed too early");
    word(&rest.delete(&format!("{vm}/fsfreeze"))?.expect(200)?)
}

fn word(lease: &Value) -> Result<String> {
    let word = |name: &str| lease[name].as_str().unwrap_or("none").to_owned();
    let (verdict, cause) = (word("verdict"), word("thaw_cause"));
    if !["held", "counts_agree"].contains(&verdict.as_str()) {
        bail!("the verdict is wrong: {lease}");
    }
    Ok(format!("{verdict}, {cause}"))
}

fn jump(seconds: i64) -> Result<()> {
    let mut now = clock_gettime(ClockId::Realtime);
    now.tv_sec += seconds;
    clock_settime(ClockId::Realtime, now).context("setting the clock")
}

fn start(program: &Path, dir: &Path, machines: &[(Mode, Machine)]) -> Result<(Gateway, Rest)> {
    let socket = dir.join("api.sock");
    let mut config = format!("state_dir = {:?}\n[listen]\nunix = {socket:?}\n", dir.join("state"));
    for (mode, machine) in machines {
        let (id, path) = (mode.as_str(), machine.socket());
        config += &format!("[[vm]]\nid = {id:?}\nsocket = {path:?}\n");
    }
    let file = dir.join("gateway.toml");
    fs::write(&file, config)?;
    let log = File::create(dir.join("gateway.log"))?;
    let process = Command::new(program)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let gateway = Gateway(process);
    let rest = Rest::new(&socket);
    until("the gateway", BOUND, || {
        Ok(rest.get("/readyz").ok().filter(|reply| reply.status == 200).map(drop))
    })
    .with_context(|| fs::read_to_string(dir.join("gateway.log")).unwrap_or_default())?;
    Ok((gateway, rest))
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
