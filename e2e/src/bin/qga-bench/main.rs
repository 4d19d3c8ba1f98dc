//! `qga-bench`: our agent and gateway next to `qemu-ga`, a bare server and bare axum.
//!
//! All contestants run at once and take turns, round by round, so that a disturbance of the
//! machine hits all of them; ratios are taken within a round. The client is lean: blocking, on a
//! Unix socket, with requests built beforehand and replies that are only counted while the clock
//! runs. What they say is checked before.
//!
//! No agent that runs on this machine is asked to freeze its filesystems; those in VMs are.

mod bare_agent;
mod bare_http;
mod contestant;
mod core;
mod exec;
mod file;
mod fleet;
mod footprint;
mod gateway;
mod hostile;
mod http;
mod http_file;
mod idle_vms;
mod interrupt;
mod link;
mod ping;
mod report;
mod round;
mod samples;
mod steady;
mod streams;
mod streams_load;
mod streams_vm;
mod table;
mod target;
mod upload;
mod vm;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::contestant::{Program, Running};
use crate::report::Report;
use crate::round::{Effort, Entry};
use crate::table::Table;

/// Measures the agent and the gateway, side by side with others, in one run.
#[derive(Debug, Parser)]
struct Arguments {
    /// A few seconds only: shows that everything works, and no figures to rely on.
    #[arg(long)]
    quick: bool,
    /// Also writes all figures, round by round, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures this part only.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Our agent; as built with cargo's profile `agent` unless told.
    #[arg(long, value_name = "PROGRAM")]
    agent: Option<PathBuf>,
    /// The gateway; as built for release unless told.
    #[arg(long, value_name = "PROGRAM")]
    gateway: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// The parts of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Agent,
    Vm,
    Gateway,
    Streams,
    Fleet,
}

/// What this program is in processes of its own.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    BareAgent { socket: PathBuf },
    #[command(hide = true)]
    BareHttp {
        socket: PathBuf,
        #[arg(long)]
        middleware: bool,
        #[arg(long)]
        log: bool,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::BareAgent { socket }) => bare_agent::serve(socket),
        Some(Role::BareHttp { socket, middleware, log }) => {
            bare_http::serve(socket, *middleware, *log)
        }
        None => bench(arguments),
    }
}

fn bench(arguments: Arguments) -> Result<()> {
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let target = target_directory();
    // Files in memory, where there is such a place: disks are not what is measured.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("qga-bench-").tempdir_in(&place)?;
    interrupt::removes(dir.path().to_owned())?;
    let gateway = gateway::find(arguments.gateway, &target);
    let ours = Program::ours(arguments.agent, &target);
    let file = ours.clone().and_then(|ours| ours.file().map_err(|error| error.to_string()));
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut tables = Vec::new();
    let circumstances = circumstances(&place, effort);
    if wanted(Part::Agent) {
        tables.push(agents(ours.clone(), &target, dir.path(), effort));
    }
    if wanted(Part::Vm) {
        tables.push(vm::table(&file, effort));
    }
    if wanted(Part::Gateway) {
        tables.push(gateway::table(&gateway, &dir.path().join("gateway"), effort));
        tables.push(idle_vms::table(&gateway, &dir.path().join("idle"), effort));
    }
    if wanted(Part::Streams) {
        let dir = dir.path().join("streams");
        tables.push(streams::table(&gateway, &ours, &target, &dir, effort));
        tables.push(streams_vm::table(&gateway, &file, effort));
    }
    if wanted(Part::Fleet) {
        tables.push(fleet::table(&gateway, &dir.path().join("fleet"), effort));
    }
    let report = Report { circumstances, tables };
    dir.close()?;
    report.print();
    if let Some(file) = arguments.json {
        report.write_json(&file)?;
    }
    let failures: usize = report.tables.iter().map(Table::failures).sum();
    ensure!(failures == 0, "{failures} figures could not be measured");
    Ok(())
}

fn agents(ours: Result<Program, String>, target: &Path, dir: &Path, effort: Effort) -> Table {
    let mut notes = Vec::new();
    let programs: Vec<Entry<Program>> =
        [("qemu-ga", Program::stock(target)), ("bare", Ok(Program::Bare)), ("ours", ours)]
            .into_iter()
            .map(|(name, program)| match program {
                Ok(program) => {
                    if let (false, Ok(file)) = (program.is_bare(), program.file()) {
                        notes.push(format!("{name}: {}", file.display()));
                    }
                    Entry::Ready(program)
                }
                Err(reason) => {
                    notes.push(format!("{name}: skipped: {reason}"));
                    Entry::Skipped
                }
            })
            .collect();
    let bare: Vec<bool> =
        programs.iter().map(|entry| matches!(entry, Entry::Ready(Program::Bare))).collect();
    let running: Vec<Entry<Running>> = programs
        .iter()
        .enumerate()
        .map(|(number, program)| {
            program.prepare(|program| program.start(&dir.join(number.to_string())))
        })
        .collect();
    let mut rows = ping::rows(&running, effort);
    rows.extend(file::rows(&running, &bare, dir, effort));
    rows.extend(exec::rows(&running, &bare, effort));
    drop(running);
    rows.extend(footprint::rows(&programs, dir, effort));
    rows.extend(steady::rows(&programs, dir, effort));
    notes.push("bare: a server that answers fixed bytes, the cost of the socket alone".into());
    let columns = ["qemu-ga", "bare", "ours"].map(str::to_owned).into();
    Table { title: "Agent: a lean client on its Unix socket".into(), columns, rows, notes }
}

fn circumstances(place: &Path, effort: Effort) -> Vec<String> {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let mut lines = vec![format!(
        "{} rounds, {cores} cores; files and sockets in {}. Medians over the rounds (least–most); \
             a ratio is the median of the rounds' ratios.",
        effort.rounds,
        place.display()
    )];
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        let load: Vec<&str> = load.split(' ').take(3).collect();
        lines.push(format!("Load of the machine before: {}.", load.join(" ")));
    }
    if cfg!(debug_assertions) {
        lines.push("This program was built without optimisation: its figures mean nothing.".into());
    }
    lines
}

/// Where cargo builds: the directory that it marks.
fn target_directory() -> PathBuf {
    let marked = |dir: &&Path| dir.join("CACHEDIR.TAG").is_file();
    env::current_exe()
        .ok()
        .and_then(|program| program.ancestors().filter(marked).last().map(Path::to_owned))
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}
