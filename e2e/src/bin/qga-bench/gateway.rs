//! Pings through the gateway, next to a bare client on the same agent and to bare axum.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use qga_e2e::bare::COUNT_PINGS;
use qga_e2e::{Process, until};

use crate::contestant::{Program, Running, daemon};
use crate::http::HttpLink;
use crate::link::{Link, PING};
use crate::ping;
use crate::round::{Effort, Entry, interleave};
use crate::samples::quantile;
use crate::table::{Cell, Row, Table};
use crate::target::{Bound, Target};

const DIRECT: usize = 0;
const AXUM: usize = 1;
const START_BOUND: Duration = Duration::from_secs(20);
const CLIENTS: usize = 16;

/// The gateway: the one named, else as built for release.
pub(crate) fn find(named: Option<PathBuf>, target: &Path) -> Result<PathBuf, String> {
    let built = ["x86_64-unknown-linux-gnu/release/qga-gateway", "release/qga-gateway"];
    let found = named
        .or_else(|| env::var_os("QGA_E2E_GATEWAY").map(PathBuf::from))
        .or_else(|| built.iter().map(|path| target.join(path)).find(|path| path.is_file()))
        .ok_or("no qga-gateway built with cargo's profile `release`")?;
    daemon(found)
}

/// Measures everything about pings over HTTP.
pub(crate) fn table(program: &Result<PathBuf, String>, dir: &Path, effort: Effort) -> Table {
    let mut rows = Vec::new();
    let mut notes = vec![
        "The agent behind the gateway and the bare client is the bare server, which counts pings; \
         instead of 16 connections, the bare client has 16 pings in flight. Bare axum has the \
         gateway's middleware and no guest behind it."
            .to_owned(),
    ];
    match program {
        Ok(path) => notes.push(format!("gateway: {}", path.display())),
        Err(reason) => notes.push(format!("gateway: skipped: {reason}")),
    }
    for log in [false, true] {
        let dir = dir.join(if log { "log" } else { "quiet" });
        match lanes(program.as_ref().ok(), &dir, log) {
            Ok(lanes) => rows.extend(lane_rows(&lanes, log, effort)),
            Err(error) => notes.push(format!("not measured: {error:#}")),
        }
    }
    let columns = ["bare client", "bare axum", "gateway"].map(str::to_owned).into();
    Table { title: "Gateway: one VM, pings over HTTP".into(), columns, rows, notes }
}

/// Where pings go in, and the agent that counts them.
struct Lanes {
    agent: Running,
    lanes: Vec<Entry<Lane>>,
    plain_axum: Lane,
}

enum Lane {
    Direct(PathBuf),
    Http { socket: PathBuf, counted_at: Option<PathBuf>, _process: Process },
}

fn lanes(gateway: Option<&PathBuf>, dir: &Path, log: bool) -> Result<Lanes> {
    let agent = Program::Bare.start(&dir.join("agent"))?;
    let this = env::current_exe().context("finding this program")?;
    let axum = |name: &str, options: &[&str]| -> Result<Lane> {
        let socket = dir.join(name);
        let mut args: Vec<OsString> = vec!["bare-http".into(), socket.clone().into()];
        args.extend(options.iter().map(OsString::from));
        let process = Process::spawn(&this, args, &dir.join("axum.log"))?;
        serving(Lane::Http { socket, counted_at: None, _process: process })
    };
    let same: &[&str] = if log { &["--middleware", "--log"] } else { &["--middleware"] };
    let lanes = vec![
        Entry::Ready(Lane::Direct(agent.socket.clone())),
        Entry::from(axum("axum.sock", same)),
        match gateway {
            Some(program) => Entry::from(start_gateway(program, dir, &agent.socket, log)),
            None => Entry::Skipped,
        },
    ];
    let plain_axum = axum("plain.sock", &[])?;
    Ok(Lanes { agent, lanes, plain_axum })
}

fn start_gateway(program: &Path, dir: &Path, agent: &Path, log: bool) -> Result<Lane> {
    let socket = dir.join("api.sock");
    let config = dir.join("gateway.toml");
    let state = dir.join("state");
    fs::write(
        &config,
        format!(
            "state_dir = {state:?}\n[listen]\nunix = {socket:?}\n\n[[vm]]\nid = \"demo\"\n\
             socket = {agent:?}\n"
        ),
    )?;
    let level = if log { "RUST_LOG=info" } else { "RUST_LOG=off" };
    let args = [OsString::from(level), program.into(), "--config".into(), config.into()];
    let log = dir.join("gateway.log");
    let process = Process::spawn(Path::new("env"), args, &log)?;
    let lane = Lane::Http { socket, counted_at: Some(agent.to_owned()), _process: process };
    serving(lane).with_context(|| fs::read_to_string(&log).unwrap_or_default())
}

/// Waits until a ping is answered.
fn serving(lane: Lane) -> Result<Lane> {
    let mut last = anyhow!("not tried");
    until("a ping's answer over HTTP", START_BOUND, || match lane.client() {
        Ok(_) => Ok(Some(())),
        Err(error) => {
            last = error;
            Ok(None)
        }
    })
    .with_context(|| format!("{last:#}"))?;
    Ok(lane)
}

/// One client of a lane.
enum Client {
    Direct(Link),
    Http(HttpLink),
}

impl Client {
    fn ping(&mut self) -> Result<()> {
        match self {
            Self::Direct(link) => link.exchange(PING, ping::REPLY),
            Self::Http(link) => link.ping(),
        }
    }
}

impl Lane {
    fn client(&self) -> Result<Client> {
        let mut client = match self {
            Self::Direct(socket) => Client::Direct(Link::connect(socket)?),
            Self::Http { socket, .. } => Client::Http(HttpLink::connect(socket)?),
        };
        client.ping()?;
        Ok(client)
    }

    /// Where its pings are counted, if they go through the gateway.
    fn counted_at(&self) -> Option<&Path> {
        match self {
            Self::Http { counted_at, .. } => counted_at.as_deref(),
            Self::Direct(_) => None,
        }
    }
}

fn lane_rows(lanes: &Lanes, log: bool, effort: Effort) -> Vec<Row> {
    let suffix = if log { ", a log line each" } else { "" };
    let row = |name: String, unit, cells, target| Row { name, unit, cells, target };
    let half_or_direct =
        Target::Ratio(&[(AXUM, Bound::AtLeast(0.5)), (DIRECT, Bound::AtLeast(0.9))]);
    let borrowed = || lanes.lanes.iter().map(|lane| lane.prepare(Ok)).collect();
    let [latency, single] =
        interleave(effort.rounds, borrowed(), |lane| one_client(lane, &lanes.agent, effort));
    let [rate, commands] =
        interleave(effort.rounds, borrowed(), |lane| many(lane, &lanes.agent, effort));
    let added = added(&latency);
    let mut rows = vec![
        row(format!("pings/s, 1 client{suffix}"), "k/s", single, Target::Open),
        row(format!("pings/s, {CLIENTS} clients{suffix}"), "k/s", rate, half_or_direct),
        row(format!("ping round trip, 1 client, p50{suffix}"), "µs", latency, Target::Open),
        row(
            format!("… that the gateway adds{suffix}"),
            "µs",
            added,
            Target::Value(Bound::AtMost(60.0)),
        ),
    ];
    if !log {
        let counted = commands.into_iter().skip(AXUM + 1);
        rows.push(row(
            "guest commands per request".into(),
            "",
            [Cell::Blank, Cell::Blank].into_iter().chain(counted).collect(),
            Target::Value(Bound::AtLeast(1.0)),
        ));
        let plain = vec![Entry::Blank, Entry::Ready(&lanes.plain_axum), Entry::Blank];
        let [rate, _] = interleave(effort.rounds, plain, |lane| many(lane, &lanes.agent, effort));
        let name = format!("pings/s, {CLIENTS} clients, axum without middleware");
        rows.push(row(name, "k/s", rate, Target::Open));
    }
    rows
}

/// What a ping through the gateway takes longer than a direct one, round by round.
fn added(latency: &[Cell]) -> Vec<Cell> {
    let gateway = match (&latency[DIRECT], latency.last()) {
        (Cell::Measured(direct), Some(Cell::Measured(gateway))) => {
            Cell::Measured(gateway.zip(direct, |through, direct| through - direct))
        }
        (_, Some(cell)) => cell.clone(),
        (_, None) => Cell::Skipped,
    };
    vec![Cell::Blank, Cell::Blank, gateway]
}

/// Round trip (p50, µs) and rate (thousands per second) of one client.
fn one_client(lane: &Lane, agent: &Running, effort: Effort) -> Result<[f64; 2]> {
    let mut client = lane.client()?;
    let before = count(agent)?;
    let start = Instant::now();
    let mut micros = ping::round_trips(effort.turn, || client.ping())?;
    let seconds = start.elapsed().as_secs_f64();
    all_counted(lane, agent, before, micros.len())?;
    let rate = real(micros.len()) / seconds / 1e3;
    micros.sort_by(f64::total_cmp);
    Ok([quantile(&micros, 0.5), rate])
}

/// Rate (thousands per second) with [`CLIENTS`] clients or as many in flight, and how many guest
/// commands were counted for each request.
fn many(lane: &Lane, agent: &Running, effort: Effort) -> Result<[f64; 2]> {
    let before = count(agent)?;
    if let Lane::Direct(socket) = lane {
        let mut link = ping::warm(socket)?;
        let rate = ping::thousands_per_second(&mut link, CLIENTS, effort.turn)?;
        return Ok([rate, 1.0]);
    }
    let clients: Result<Vec<Client>> = (0..CLIENTS).map(|_| lane.client()).collect();
    let clients = clients?;
    let before = before.max(count(agent)?);
    let together = Barrier::new(CLIENTS + 1);
    // Threads need a while to get going.
    let turn = 3 * effort.turn;
    let (pings, seconds) = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let together = &together;
                scope.spawn(move || -> Result<usize> {
                    together.wait();
                    let start = Instant::now();
                    let mut pings = 0;
                    while start.elapsed() < turn {
                        client.ping()?;
                        pings += 1;
                    }
                    Ok(pings)
                })
            })
            .collect();
        together.wait();
        let start = Instant::now();
        let mut pings = 0;
        for thread in threads {
            pings += thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        anyhow::Ok((pings, start.elapsed().as_secs_f64()))
    })?;
    let counted = all_counted(lane, agent, before, pings)?;
    Ok([real(pings) / seconds / 1e3, counted])
}

/// Guest commands per request; fewer than one means that requests were answered otherwise.
fn all_counted(lane: &Lane, agent: &Running, before: u64, pings: usize) -> Result<f64> {
    let Some(socket) = lane.counted_at() else { return Ok(0.0) };
    ensure!(socket == agent.socket, "counted at another agent");
    let counted = usize::try_from(count(agent)? - before)?;
    if counted < pings {
        bail!("only {counted} of {pings} pings reached the agent");
    }
    Ok(real(counted) / real(pings))
}

fn count(agent: &Running) -> Result<u64> {
    let mut link = Link::connect(&agent.socket)?;
    let reply: serde_json::Value = serde_json::from_slice(link.ask(COUNT_PINGS)?)?;
    reply["return"].as_u64().context("no count")
}

#[expect(clippy::cast_precision_loss, reason = "a count of pings")]
fn real(count: usize) -> f64 {
    count as f64
}
