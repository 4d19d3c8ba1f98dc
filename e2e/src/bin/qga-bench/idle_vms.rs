//! Many idle VMs: what each costs the gateway in memory, what all cost in time, and how long the
//! gateway takes to know them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qga_e2e::{Process, Rest, until};
use serde_json::json;

use crate::footprint;
use crate::round::Effort;
use crate::samples::Samples;
use crate::table::{Cell, Row, Table};
use crate::target::{Bound, Target};

/// Sockets and connections of so many machines fit into one process's descriptors.
const MACHINES_PER_PROCESS: usize = 4_000;
const READY_BOUND: Duration = Duration::from_secs(120);
/// A read of so much is a reply of 1 MiB.
const READ: usize = 768 << 10;
/// Callers at a time while each VM gives its large reply.
const CALLERS: usize = 4;

/// Scrapes of which the middle one counts.
const SCRAPES: usize = 9;

const ROWS: [(&str, &str, Target); 7] = [
    ("until all are ready, from the start", "s", Target::Open),
    ("memory per VM, after one sync", "KiB", Target::Open),
    ("memory per VM, after one 1 MiB reply each", "KiB", Target::Value(Bound::AtMost(8.0))),
    ("processor time while idle, of one core", "%", Target::Value(Bound::AtMost(2.0))),
    ("a scrape of /metrics", "ms", Target::Open),
    ("its size per VM", "bytes", Target::Open),
    ("memory per VM, after the scrapes", "KiB", Target::Value(Bound::AtMost(8.0))),
];

/// Measures a gateway with many VMs once.
pub(crate) fn table(program: &Result<PathBuf, String>, dir: &Path, effort: Effort) -> Table {
    let vms = effort.idle_vms;
    let mut notes = vec![
        "Memory is the private memory of the process, less that of a gateway without VMs.".into(),
    ];
    let measured = program.as_ref().ok().map(|program| measure(program, dir, vms, effort.idle));
    if let Err(reason) = program {
        notes.push(format!("gateway: skipped: {reason}"));
    }
    let rows = ROWS.into_iter().enumerate().map(|(n, (name, unit, target))| {
        let cell = match &measured {
            None => Cell::Skipped,
            Some(Err(error)) => Cell::Failed(format!("{error:#}")),
            Some(Ok(figures)) => {
                let mut samples = Samples::default();
                samples.push(figures[n]);
                Cell::Measured(samples)
            }
        };
        Row { name: name.into(), unit, cells: vec![cell], target }
    });
    let title = format!("Gateway: {vms} idle VMs");
    Table { title, columns: vec!["gateway".into()], rows: rows.collect(), notes }
}

fn measure(program: &Path, dir: &Path, vms: usize, idle: Duration) -> Result<[f64; 7]> {
    let sockets = dir.join("vms");
    fs::create_dir_all(&sockets)?;
    let fleet = env::current_exe()?.with_file_name("qga-fleet");
    ensure!(fleet.is_file(), "no {}; build all of qga-e2e", fleet.display());
    let mut machines = Vec::new();
    for first in (0..vms).step_by(MACHINES_PER_PROCESS) {
        let count = MACHINES_PER_PROCESS.min(vms - first);
        let args = ["--vms".into(), count.to_string(), "--first".into(), first.to_string()];
        let args = [OsString::from("--dir"), sockets.clone().into()]
            .into_iter()
            .chain(args.map(OsString::from));
        machines.push(Process::spawn(&fleet, args, &dir.join("fleet.log"))?);
    }
    until("the machines", READY_BOUND, || {
        Ok((fs::read_dir(&sockets)?.count() >= vms).then_some(()))
    })?;

    let empty = start(program, &dir.join("empty"), None)?;
    let alone = private_kib(&empty)?;
    drop(empty);
    let started = Instant::now();
    let gateway = start(program, &dir.join("all"), Some(&sockets))?;
    let rest = Rest::new(&dir.join("all/api.sock"));
    let ids = until("all VMs ready", READY_BOUND, || {
        let ready = ready(&rest)?;
        Ok((ready.len() >= vms).then_some(ready))
    })?;
    let until_ready = started.elapsed().as_secs_f64();
    let per_vm = |kib: f64| (kib - alone) / real(vms);
    let synced = per_vm(private_kib(&gateway)?);

    thread::scope(|scope| {
        let part = ids.len().div_ceil(CALLERS);
        let callers: Vec<_> = ids
            .chunks(part)
            .map(|ids| scope.spawn(|| ids.iter().try_for_each(|id| large_reply(&rest, id))))
            .collect();
        callers.into_iter().try_for_each(|caller| {
            caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?
        })
    })?;
    let after = per_vm(private_kib(&gateway)?);
    let (before, since) = (processor_seconds(&gateway)?, Instant::now());
    footprint::rest(idle);
    let busy = processor_seconds(&gateway)? - before;
    let busy = 100.0 * busy / since.elapsed().as_secs_f64();
    let (scrape, size) = scrape(&rest)?;
    let scraped = per_vm(private_kib(&gateway)?);
    Ok([until_ready, synced, after, busy, scrape, real(size) / real(vms), scraped])
}

/// Milliseconds and bytes of a scrape.
fn scrape(rest: &Rest) -> Result<(f64, usize)> {
    let mut times = Samples::default();
    let mut size = 0;
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        let reply = rest.get("/metrics")?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        ensure!(reply.status == 200, "a scrape is answered with {}", reply.status);
        size = reply.body.len();
    }
    Ok((times.median(), size))
}

fn start(program: &Path, dir: &Path, sockets: Option<&Path>) -> Result<Process> {
    fs::create_dir_all(dir)?;
    let mut config = format!("[listen]\nunix = {:?}\n", dir.join("api.sock"));
    if let Some(sockets) = sockets {
        config += &format!("[[discover]]\nglob = \"{}/*.sock\"\n", sockets.display());
    }
    fs::write(dir.join("gateway.toml"), config)?;
    let args = ["RUST_LOG=off".into(), program.as_os_str().to_owned(), "--config".into()];
    let args = args.into_iter().chain([dir.join("gateway.toml").into_os_string()]);
    let process = Process::spawn(Path::new("env"), args, &dir.join("gateway.log"))?;
    let rest = Rest::new(&dir.join("api.sock"));
    until("the gateway", READY_BOUND, || {
        Ok(rest.get("/readyz").ok().filter(|reply| reply.status == 200).map(drop))
    })?;
    Ok(process)
}

/// The ids of all VMs that are ready.
fn ready(rest: &Rest) -> Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::new();
    let mut path = "/vms?state=ready&limit=1000".to_owned();
    loop {
        let page = rest.get(&path)?.expect(200)?;
        let vms = page["vms"].as_array().context("no list of VMs")?;
        ids.extend(vms.iter().filter_map(|vm| vm["id"].as_str()).map(str::to_owned));
        let Some(next) = page["next"].as_str() else { return Ok(ids) };
        path = format!("/vms?state=ready&limit=1000&after={next}");
    }
}

fn large_reply(rest: &Rest, id: &str) -> Result<()> {
    let handles = format!("/vms/{id}/file-handles");
    let opened = rest.post(&handles, &json!({ "path": "/x", "mode": "r" }))?;
    let handle = format!("{handles}/{}", opened.expect(201)?["handle"]);
    let read = rest.post(&format!("{handle}/read"), &json!({ "count": READ }))?;
    let whole = read.expect(200)?["count"] == READ;
    ensure!(whole, "{id}: the read is too short");
    // A VM with an open file is not idle.
    rest.delete(&handle)?.expect(200).map(drop)
}

fn private_kib(process: &Process) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// User and system time; the kernel counts in hundredths of a second.
fn processor_seconds(process: &Process) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks: Vec<f64> =
        fields.split_ascii_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "a count of VMs")]
fn real(count: usize) -> f64 {
    count as f64
}
