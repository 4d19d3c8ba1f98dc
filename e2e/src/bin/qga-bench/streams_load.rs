//! What a long transfer costs the gateway, and how many at once share.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use qga_e2e::Gateway;
use qga_e2e::sim::{Blueprint, Fleet, Mode};

use crate::file::noise;
use crate::http_file::FileLink;
use crate::round::{Effort, Entry};
use crate::samples::Samples;
use crate::streams::{CHUNK, Lanes, start_gateway};
use crate::table::{Cell, Row};
use crate::target::{Bound, Target};

const AT_ONCE: usize = 50;
const LITTLE: Target = Target::Value(Bound::AtMost(16.0));
/// Larger than all of the transfers at once take in their time.
const ENDLESS: u64 = 64 << 30;

/// With our agent: a download's memory, and the shares of many.
pub(crate) fn rows(lanes: &Entry<Lanes>, effort: Effort) -> Vec<Row> {
    let size = human(effort.stream_long);
    let memory = cell(lanes, |lanes| download_memory(lanes, effort.stream_long));
    let shares = lanes.prepare(|lanes| shares(lanes, effort.stream_watch));
    let of = |at: usize| match &shares {
        Entry::Ready(figures) => measured(figures[at]),
        Entry::Blank => Cell::Blank,
        Entry::Skipped => Cell::Skipped,
        Entry::Failed(cause) => Cell::Failed(cause.clone()),
    };
    let row = |name: String, unit, cell, target| Row {
        name,
        unit,
        cells: vec![Cell::Blank, cell],
        target,
    };
    vec![
        row(format!("memory for a download of {size}, at its peak"), "MiB", memory, LITTLE),
        row(
            format!("{AT_ONCE} downloads at once: least share by greatest"),
            "",
            of(0),
            Target::Value(Bound::AtLeast(0.8)),
        ),
        row("… all together".into(), "MiB/s", of(1), Target::Open),
        row("… memory for each, at its peak".into(), "MiB", of(2), Target::Open),
    ]
}

/// The memory of an upload, to an agent that is simulated: it swallows whatever it is given.
pub(crate) fn upload_memory(gateway: &Path, dir: &Path, effort: Effort) -> Row {
    let cell = upload(gateway, dir, effort.stream_long)
        .map_or_else(|error| Cell::Failed(format!("{error:#}")), measured);
    Row {
        name: format!("memory for an upload of {}, at its peak", human(effort.stream_long)),
        unit: "MiB",
        cells: vec![Cell::Blank, cell],
        target: LITTLE,
    }
}

fn upload(gateway: &Path, dir: &Path, size: u64) -> Result<f64> {
    fs::create_dir_all(dir)?;
    let fleet = Fleet::new(dir)?;
    let machine = fleet.machine("vm", &Blueprint::new(Mode::Stock))?;
    let gateway = start_gateway(gateway, dir, machine.socket())?;
    let mut link = FileLink::connect(&gateway.socket())?;
    let piece = noise(CHUNK);
    // What a first transfer leaves is no part of it.
    link.upload("/dev/null", 1 << 20, &piece)?;
    grown(&gateway, || link.upload("/dev/null", size, &piece))
}

fn download_memory(lanes: &Lanes, size: u64) -> Result<f64> {
    let file = lanes.dir.join("long");
    sparse(&file, size)?;
    let path = file.to_str().context("a path that is no UTF-8")?;
    let mut link = FileLink::connect(&lanes.gateway.socket())?;
    let grown = grown(&lanes.gateway, || {
        let came = link.download(path, |_| true)?;
        ensure!(came == size, "{came} bytes of {size}");
        Ok(())
    });
    fs::remove_file(&file)?;
    grown
}

/// Least share by greatest, MiB per second of all, and MiB for each.
fn shares(lanes: &Lanes, watch: Duration) -> Result<[f64; 3]> {
    let file = lanes.dir.join("endless");
    sparse(&file, ENDLESS)?;
    let path = file.to_str().context("a path that is no UTF-8")?;
    let (gateway, together) = (&lanes.gateway, Barrier::new(AT_ONCE));
    let mut counts = Vec::new();
    let grown = grown(gateway, || {
        counts = thread::scope(|scope| {
            let clients: Vec<_> = (0..AT_ONCE)
                .map(|_| scope.spawn(|| one_of_many(gateway, path, &together, watch)))
                .collect();
            let join = |client: thread::ScopedJoinHandle<'_, Result<u64>>| {
                client.join().map_err(|_| anyhow!("a client panicked"))?
            };
            clients.into_iter().map(join).collect::<Result<Vec<u64>>>()
        })?;
        Ok(())
    });
    fs::remove_file(&file)?;
    let grown = grown?;
    let least = counts.iter().min().copied().unwrap_or_default();
    let greatest = counts.iter().max().copied().unwrap_or_default();
    let rate = mebibytes(counts.iter().sum()) / watch.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let each = grown / AT_ONCE as f64;
    Ok([mebibytes(least) / mebibytes(greatest), rate, each])
}

/// What comes in the middle of it, when all of them run.
fn one_of_many(gateway: &Gateway, path: &str, together: &Barrier, watch: Duration) -> Result<u64> {
    let connected = FileLink::connect(&gateway.socket());
    together.wait();
    let mut link = connected?;
    let (begun, mut counted) = (Instant::now(), 0);
    link.download(path, |bytes| {
        let at = begun.elapsed();
        // The first quarter is for the last to begin.
        if at > watch / 4 && at <= watch + watch / 4 {
            counted += bytes.len() as u64;
        }
        at <= watch + watch / 4
    })?;
    Ok(counted)
}

/// MiB by which the gateway's memory was larger at its peak than before.
fn grown(gateway: &Gateway, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let process = format!("/proc/{}", gateway.pid());
    let read = |name: &str| -> Result<u64> {
        let status = fs::read_to_string(format!("{process}/status"))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        let kibibytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kibibytes << 10)
    };
    let before = read("VmRSS")?;
    // The peak is counted anew.
    fs::write(format!("{process}/clear_refs"), "5").context("resetting the peak")?;
    work()?;
    Ok(mebibytes(read("VmHWM")?.saturating_sub(before)))
}

fn sparse(file: &Path, size: u64) -> Result<()> {
    Ok(File::create(file)?.set_len(size)?)
}

fn cell<C>(entry: &Entry<C>, figure: impl FnOnce(&C) -> Result<f64>) -> Cell {
    match entry.prepare(figure) {
        Entry::Ready(value) => measured(value),
        Entry::Blank => Cell::Blank,
        Entry::Skipped => Cell::Skipped,
        Entry::Failed(cause) => Cell::Failed(cause),
    }
}

fn measured(value: f64) -> Cell {
    let mut samples = Samples::default();
    samples.push(value);
    Cell::Measured(samples)
}

fn human(bytes: u64) -> String {
    if bytes >= 1 << 30 { format!("{} GiB", bytes >> 30) } else { format!("{} MiB", bytes >> 20) }
}

#[expect(clippy::cast_precision_loss, reason = "sizes")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
