//! The gateway with many simulated VMs: memory, start-up, groups, and hostile ones among them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qga_e2e::sim::{self, Blueprint, Commands, Fleet, Latency, Machine, Mode};
use qga_e2e::{Gateway, KeepAlive, Process, Rest, until};
use serde_json::{Value, json};

use crate::footprint::rest;
use crate::hostile;
use crate::round::Effort;
use crate::samples::Samples;
use crate::table::{Cell, Row, Table};
use crate::target::{Bound, Target};

/// What a file's read brings in base64 is 1 MiB.
const CHUNK: usize = (1 << 20) / 4 * 3;
/// One process has descriptors for so many at least.
const PER_PROCESS: usize = 5_000;
pub(crate) const BOUND: Duration = Duration::from_secs(120);
const CLIENTS: usize = 8;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    idle: usize,
    pub(crate) group: usize,
    pub(crate) rounds: usize,
    pub(crate) watch: Duration,
}

impl Scale {
    fn of(effort: Effort) -> Self {
        if effort.rounds == Effort::QUICK.rounds {
            Self { idle: 100, group: 20, rounds: 1, watch: Duration::from_millis(300) }
        } else {
            Self { idle: 10_000, group: 1_000, rounds: 5, watch: Duration::from_secs(10) }
        }
    }
}

/// Measures the gateway with a fleet.
pub(crate) fn table(program: &Result<PathBuf, String>, dir: &Path, effort: Effort) -> Table {
    let scale = Scale::of(effort);
    let Scale { idle, group, .. } = scale;
    let mut notes = vec![
        "The VMs are simulated: agents on Unix sockets, all of them on this machine, which they \
         share with the gateway."
            .to_owned(),
        hostile::NOTE.to_owned(),
    ];
    let value = Target::Value;
    let figures = [
        (format!("start-up, until {idle} VMs are reported ready"), "s", Target::Open),
        (
            "memory per idle VM, after a sync and a 1 MiB reply".into(),
            "KiB",
            value(Bound::AtMost(8.0)),
        ),
        (format!("processor while {idle} VMs idle"), "% of a core", value(Bound::AtMost(1.0))),
        (format!("group freeze of {group}, guests at once"), "ms", value(Bound::AtMost(100.0))),
        (
            format!("group freeze of {group}, guests 0–300 ms: beyond the slowest"),
            "ms",
            value(Bound::AtMost(100.0)),
        ),
        (format!("ping p99, {group} VMs"), "µs", Target::Open),
        ("… nine hostile guests elsewhere on the machine".into(), "µs", Target::Open),
        ("… by that without them".into(), "", Target::Open),
        ("… nine hostile guests among the gateway's".into(), "µs", Target::Open),
        ("… by that with them elsewhere".into(), "", value(Bound::AtMost(1.25))),
        (
            "… processor that they cost the gateway as they begin".into(),
            "% of a core",
            Target::Open,
        ),
        ("… and from then on".into(), "% of a core", value(Bound::AtMost(10.0))),
        ("… memory that they cost it".into(), "MiB", value(Bound::AtMost(24.0))),
    ];
    let mut cells: Vec<Cell> = Vec::new();
    match program {
        Ok(program) => {
            cells.extend(measured(idling(program, &dir.join("idle"), scale)));
            cells.extend(measured(groups(program, &dir.join("group"), scale)));
            cells.extend(measured(hostile::figures(program, &dir.join("hostile"), scale)));
        }
        Err(reason) => {
            notes.push(format!("gateway: skipped: {reason}"));
            cells.resize(figures.len(), Cell::Skipped);
        }
    }
    let rows = figures
        .into_iter()
        .zip(cells)
        .map(|((name, unit, target), cell)| Row { name, unit, cells: vec![cell], target })
        .collect();
    Table { title: "Gateway: many VMs".into(), columns: vec!["gateway".into()], rows, notes }
}

fn measured<const N: usize>(figures: Result<[Samples; N]>) -> Vec<Cell> {
    match figures {
        Ok(samples) => samples.into_iter().map(Cell::Measured).collect(),
        Err(error) => vec![Cell::Failed(format!("{error:#}")); N],
    }
}

/// Start-up, memory and processor time of a gateway with idle VMs.
fn idling(program: &Path, dir: &Path, scale: Scale) -> Result<[Samples; 3]> {
    fs::create_dir_all(dir)?;
    let empty = {
        let dir = dir.join("empty");
        fs::create_dir_all(&dir)?;
        let gateway = start(program, &dir, &[])?;
        memory(&gateway)?
    };
    let fleets = processes(dir, scale.idle)?;
    let vms: Vec<_> = (0..scale.idle)
        .map(|number| (sim::name(number), dir.join(format!("{}.sock", sim::name(number)))))
        .collect();
    let begun = Instant::now();
    let gateway = start(program, dir, &vms)?;
    wait_ready(&gateway.rest(), scale.idle)?;
    let ready = begun.elapsed().as_secs_f64();
    each(&gateway.socket(), scale.idle, |link, number| {
        let path = format!("/vms/{}/file-handles", sim::name(number));
        let (status, body) = link.request("POST", &path, "{\"path\": \"/f\"}")?;
        let opened: Value = serde_json::from_slice(body)?;
        ensure!(status == 201, "opening: {status}: {opened}");
        let path = format!("{path}/{}", opened["handle"]);
        let read = json!({ "count": CHUNK }).to_string();
        let (status, body) = link.request("POST", &format!("{path}/read"), &read)?;
        ensure!(status == 200 && body.len() > 1 << 20, "reading: {status}, {}", body.len());
        // A VM with an open file is not idle.
        let (status, _) = link.request("DELETE", &path, "")?;
        ensure!(status == 200, "closing: {status}");
        Ok(())
    })?;
    // What is given back late is given back too.
    let settled = until("memory to settle", BOUND, || {
        let before = memory(&gateway)?;
        rest(Duration::from_secs(1).min(scale.watch));
        let after = memory(&gateway)?;
        Ok((after.abs_diff(before) < 1 << 20).then_some(after))
    })?;
    let cost = settled.saturating_sub(empty);
    let before = processor(&gateway)?;
    rest(scale.watch);
    let busy = processor(&gateway)?.saturating_sub(before);
    drop(fleets);
    let per_vm = real(cost) / 1024.0 / real(scale.idle as u64);
    let share = busy.as_secs_f64() / scale.watch.as_secs_f64() * 100.0;
    Ok([ready, per_vm, share].map(|value| samples([value])))
}

/// Simulated machines in as many processes as it takes.
fn processes(dir: &Path, count: usize) -> Result<Vec<Process>> {
    let program = std::env::current_exe()?.with_file_name("qga-fleet");
    ensure!(program.is_file(), "no {}; build qga-e2e's programs", program.display());
    let mut fleets = Vec::new();
    for first in (0..count).step_by(PER_PROCESS) {
        let here = PER_PROCESS.min(count - first);
        let (first_text, here_text) = (first.to_string(), here.to_string());
        let dir_text = dir.display().to_string();
        let args = ["--dir", &dir_text, "--first", &first_text, "--vms", &here_text];
        let log = dir.join(format!("fleet-{first}.log"));
        fleets.push(Process::spawn(&program, args, &log)?);
        until("the fleet to listen", BOUND, || {
            Ok(fs::read_to_string(&log)?.contains("machines in").then_some(()))
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    }
    Ok(fleets)
}

/// Freezes of a whole group: with guests that take no time, and what they take beyond the slowest.
fn groups(program: &Path, dir: &Path, scale: Scale) -> Result<[Samples; 2]> {
    fs::create_dir_all(dir)?;
    let fleet = Fleet::new(dir)?;
    let machines = fleet.machines(0, scale.group, &Blueprint::new(Mode::Qga))?;
    let gateway = start(program, dir, &vms(&machines))?;
    wait_ready(&gateway.rest(), scale.group)?;
    let mut link = KeepAlive::connect(&gateway.socket(), BOUND)?;
    let mut at_once = Samples::default();
    let mut beyond = Samples::default();
    for _ in 0..scale.rounds {
        at_once.push(millis(group_freeze(&mut link, &machines)?));
    }
    let spread = Latency::Uniform(Duration::ZERO, Duration::from_millis(300));
    for machine in &machines {
        machine.latency(Commands::Freezes, spread);
    }
    for _ in 0..scale.rounds {
        for machine in &machines {
            machine.forget_slowest();
        }
        let took = group_freeze(&mut link, &machines)?;
        let slowest = machines.iter().map(Machine::slowest).max().unwrap_or_default();
        beyond.push(millis(took.saturating_sub(slowest)));
    }
    Ok([at_once, beyond])
}

/// How long it took until all are frozen, by the guests' own truth.
fn group_freeze(link: &mut KeepAlive, machines: &[Machine]) -> Result<Duration> {
    let names: Vec<String> = (0..machines.len()).map(sim::name).collect();
    let body = json!({ "vms": names, "ttl_seconds": 60, "freeze_timeout_seconds": 30 }).to_string();
    let begun = Instant::now();
    let (status, answer) = link.request("POST", "/freezes", &body)?;
    let took = begun.elapsed();
    ensure!(
        status == 201,
        "{status}: {}",
        String::from_utf8_lossy(&answer[..answer.len().min(500)])
    );
    let lease: Value = serde_json::from_slice(answer)?;
    ensure!(machines.iter().all(|machine| machine.truth().frozen.is_some()), "not all are frozen");
    let id = lease["id"].as_str().context("no id")?;
    let (status, answer) = link.request("DELETE", &format!("/freezes/{id}"), "")?;
    ensure!(
        status == 200,
        "{status}: {}",
        String::from_utf8_lossy(&answer[..answer.len().min(500)])
    );
    ensure!(machines.iter().all(|machine| machine.truth().frozen.is_none()), "not all are thawed");
    Ok(took)
}

/// Does something for each number, by a few clients at once.
pub(crate) fn each<T: Send>(
    socket: &Path,
    count: usize,
    work: impl Fn(&mut KeepAlive, usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let work = &work;
                scope.spawn(move || -> Result<Vec<T>> {
                    let mut link = KeepAlive::connect(socket, BOUND)?;
                    (client..count).step_by(CLIENTS).map(|n| work(&mut link, n)).collect()
                })
            })
            .collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(all)
    })
}

pub(crate) fn start(program: &Path, dir: &Path, vms: &[(String, PathBuf)]) -> Result<Gateway> {
    sim::raise_descriptors()?;
    let quiet = ["env", "RUST_LOG=warn"].map(Into::into).to_vec();
    Gateway::start_wrapped(program, dir, "", vms, quiet)
}

pub(crate) fn vms(machines: &[Machine]) -> Vec<(String, PathBuf)> {
    let named = |(n, machine): (usize, &Machine)| (sim::name(n), machine.socket().to_owned());
    machines.iter().enumerate().map(named).collect()
}

/// Until the gateway reports so many links ready.
pub(crate) fn wait_ready(rest: &Rest, count: usize) -> Result<()> {
    until("all VMs to be ready", BOUND, || {
        let mut ready = 0;
        let mut next = Some("/vms".to_owned());
        while let Some(path) = next {
            let page = rest.get(&path)?.expect(200)?;
            let vms = page["vms"].as_array().context("no VMs")?;
            ready += vms.iter().filter(|vm| vm["link"]["state"] == "ready").count();
            next = page["next"].as_str().map(|last| format!("/vms?after={last}"));
        }
        Ok((ready >= count).then_some(()))
    })
}

/// Resident memory, in bytes.
pub(crate) fn memory(gateway: &Gateway) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kibibytes << 10)
}

/// Processor time so far, to the nanosecond.
pub(crate) fn processor(gateway: &Gateway) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{}/task", gateway.pid()))? {
        let spent = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds = spent.split_whitespace().next().context("no time")?.parse()?;
        all += Duration::from_nanos(nanoseconds);
    }
    Ok(all)
}

pub(crate) fn samples<const N: usize>(values: [f64; N]) -> Samples {
    let mut samples = Samples::default();
    values.into_iter().for_each(|value| samples.push(value));
    samples
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}
