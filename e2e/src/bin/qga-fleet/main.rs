//! `qga-fleet`: simulated virtual machines, for benches and for trying things out.
//!
//! ```text
//! qga-fleet --dir /tmp/fleet --vms 1000 --mode qga --latency-ms 0..300
//! ```

mod clock;
mod inside;
mod sleep;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use qga_e2e::sim::{self, Attack, Blueprint, Commands, Fleet, Latency, Mode};

/// Simulates virtual machines with guest agents on Unix sockets, until it is killed.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Where the sockets go: vm-00000.sock and so on.
    #[arg(long, required = true)]
    dir: Option<PathBuf>,
    /// How many.
    #[arg(long, default_value_t = 1)]
    vms: usize,
    /// The number of the first: a process has descriptors for so many only.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Which agent: stock, qga, windows, bsd or ancient.
    #[arg(long, default_value = "stock")]
    mode: Mode,
    /// How long each command but syncs takes: `20`, or `0..300`.
    #[arg(long, value_parser = latency, default_value = "0")]
    latency_ms: Latency,
    /// What latencies are drawn from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is for simulated machines elsewhere.
#[derive(Debug, Subcommand)]
enum Role {
    /// Listens on standard input in a QEMU's place.
    #[command(hide = true)]
    Listen,
    /// One hostile guest of each kind, `hostile-0.sock` and so on.
    #[command(hide = true)]
    Hostile {
        /// Where the sockets go.
        dir: PathBuf,
    },
    /// Takes what hostile guests send, as a gateway would that does nothing with it.
    #[command(hide = true)]
    Sink {
        /// Where their sockets are.
        dir: PathBuf,
    },
    /// Freezes while the wall clock jumps. This sets the clock of the machine that it runs on.
    #[command(hide = true)]
    JumpClock {
        /// The gateway's program.
        gateway: PathBuf,
        /// Where everything goes.
        dir: PathBuf,
    },
    /// Freezes, and suspends the machine that it runs on.
    #[command(hide = true)]
    Sleep {
        /// The gateway's program.
        gateway: PathBuf,
        /// Where everything goes.
        dir: PathBuf,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::Listen) => return sim::listen_on_stdin(),
        Some(Role::Hostile { dir }) => return hostile(dir),
        Some(Role::Sink { dir }) => return sim::drain(&hostile_sockets(dir)),
        Some(Role::JumpClock { gateway, dir }) => return clock::run(gateway, dir),
        Some(Role::Sleep { gateway, dir }) => return sleep::run(gateway, dir),
        None => {}
    }
    let dir = arguments.dir.context("--dir is missing")?;
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let fleet = Fleet::new(&dir)?;
    let blueprint = Blueprint { seed: arguments.seed, ..Blueprint::new(arguments.mode) };
    let machines = fleet.machines(arguments.first, arguments.vms, &blueprint)?;
    for machine in &machines {
        machine.latency(Commands::Calls, arguments.latency_ms);
    }
    say(&format!("{} machines in {}", machines.len(), dir.display()))?;
    loop {
        std::thread::park();
    }
}

fn hostile(dir: &Path) -> Result<()> {
    let fleet = Fleet::new(dir)?;
    let guests: Result<Vec<_>> = Attack::ALL
        .iter()
        .zip(hostile_sockets(dir))
        .map(|(attack, socket)| fleet.hostile_at(&socket, *attack))
        .collect();
    let guests = guests?;
    say(&format!("{} hostile guests in {}", guests.len(), dir.display()))?;
    loop {
        std::thread::park();
    }
}

fn hostile_sockets(dir: &Path) -> Vec<PathBuf> {
    (0..Attack::ALL.len()).map(|number| dir.join(format!("hostile-{number}.sock"))).collect()
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

fn latency(text: &str) -> Result<Latency, String> {
    let millis = |text: &str| {
        let millis: Result<u64, _> = text.parse();
        millis.map(Duration::from_millis).map_err(|e| format!("{text:?}: {e}"))
    };
    match text.split_once("..") {
        Some((least, most)) => Ok(Latency::Uniform(millis(least)?, millis(most)?)),
        None if text == "0" => Ok(Latency::None),
        None => millis(text).map(Latency::Fixed),
    }
}
