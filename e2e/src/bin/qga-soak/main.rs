//! `qga-soak`: a gateway and a thousand simulated VMs for an hour, with everything going wrong now
//! and then, and a look at what that leaves behind.
//!
//! ```text
//! qga-soak --gateway target/…/qga-gateway --vms 1000 --seconds 3600 --seed 7
//! ```
//!
//! In the first sixth the gateway is restarted in each of its ways. In the last half one process is
//! left to itself under the same load and the same faults: what grows there, leaks.

mod book;
mod chaos;
mod client;
mod contract;
mod finish;
mod guests;
mod host;
mod load;
mod report;
mod samples;
mod streams;
mod trend;
mod watch;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use clap::Parser;
use tokio_util::sync::CancellationToken;

use book::Book;
use contract::Contract;
use guests::Guests;
use host::Host;
use report::Report;

/// Soaks a gateway: mixed load and random faults on simulated VMs, then a verdict.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// The gateway's program.
    #[arg(long)]
    gateway: PathBuf,
    /// How many VMs.
    #[arg(long, default_value_t = 1000)]
    vms: usize,
    /// How long, without coming up and settling.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Requests per second, roughly.
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// What all chance is drawn from; the time of day if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Where everything goes; a directory that is removed afterwards if absent.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A Markdown file for the result.
    #[arg(long)]
    write: Option<PathBuf>,
}

impl Arguments {
    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What all parts of a run work on.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) guests: Guests,
    pub(crate) host: Host,
    pub(crate) book: Book,
    pub(crate) contract: Contract,
    pub(crate) seed: u64,
    pub(crate) rate: u32,
    begun: OnceLock<Instant>,
    pub(crate) length: Duration,
    /// Load and faults are over.
    pub(crate) over: CancellationToken,
}

impl Run {
    fn begin(&self) {
        self.begun.get_or_init(Instant::now);
    }

    /// Time since the load began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(now.subsec_nanos())
    });
    say(&format!(
        "{} VMs, {} s, seed {seed} (again with --seed {seed})",
        arguments.vms, arguments.seconds
    ))?;
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let report = run(&arguments, seed, dir)?;
    say(&report.text())?;
    if let Some(file) = &arguments.write {
        fs::write(file, report.markdown())
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(arguments: &Arguments, seed: u64, dir: PathBuf) -> Result<Report> {
    let guests = Guests::start(&dir, arguments.vms, seed)?;
    let host = Host::start(&arguments.gateway, dir, &guests, arguments.length())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("soak")
        .enable_all()
        .build()?;
    let run = Arc::new(Run {
        contract: runtime.block_on(Contract::of(&host))?,
        guests,
        host,
        book: Book::new(arguments.vms),
        seed,
        rate: arguments.rate.max(1),
        begun: OnceLock::new(),
        length: arguments.length(),
        over: CancellationToken::new(),
    });
    let report = runtime.block_on(soak(arguments, &run));
    // The machines have threads of their own, which are not to end in a task of this runtime.
    runtime.shutdown_timeout(Duration::from_secs(5));
    report
}

async fn soak(arguments: &Arguments, run: &Arc<Run>) -> Result<Report> {
    let rested = finish::at_rest(run).await.context("before the run")?;
    run.begin();
    say(&format!("at rest before: {rested}"))?;
    let background = [
        tokio::spawn(load::all(run.clone())),
        tokio::spawn(streams::all(run.clone())),
        tokio::spawn(chaos::guests(run.clone())),
        tokio::spawn(watch::guests(run.clone())),
        tokio::spawn(watch::leases(run.clone())),
    ];
    let (samples, restarted) = tokio::join!(samples::take(run), chaos::gateway(run));
    run.over.cancel();
    restarted?;
    let samples = samples?;
    for task in background {
        task.await.context("a part of the soak itself failed")?;
    }
    let end = finish::settle(run, &rested).await?;
    Ok(Report::new(arguments, run, &samples, &rested, &end))
}

/// A line for whoever watches.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
