//! What a long transfer costs the gateway, and how many at once share.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use qga_e2e::Gateway;

use crate::file::{Kind, noise};
use crate::http_file::FileLink;
use crate::round::{Effort, Entry};
use crate::samples::Samples;
use crate::streams::{CHUNK, Lanes};
use crate::table::{Cell, Row};
use crate::target::{Bound, Target};

const AT_ONCE: usize = 50;
const BOTH: [(&str, Kind); 2] = [("a download", Kind::Read), ("an upload", Kind::Write)];
/// Of an upload among many: little, next to what each gets through.
const PIECE: usize = 16 << 10;
const LITTLE: Target = Target::Value(Bound::AtMost(16.0));
/// Larger than all of the transfers at once take in their time.
const ENDLESS: u64 = 64 << 30;

/// The memory of long transfers, and the shares of many, with one kind of agent.
pub(crate) fn rows(lanes: &Entry<Lanes>, agent: &str, effort: Effort) -> Vec<Row> {
    let size = human(effort.stream_long);
    let row = |name, unit, cell, target| Row { name, unit, cells: vec![Cell::Blank, cell], target };
    let mut rows = Vec::new();
    for (what, kind) in BOTH {
        let memory = cell(lanes, |lanes| memory(lanes, kind, effort.stream_long));
        rows.push(row(format!("memory for {what} of {size}, {agent}"), "MiB", memory, LITTLE));
    }
    for (what, kind) in [("downloads", Kind::Read), ("uploads", Kind::Write)] {
        let shares = lanes.prepare(|lanes| shares(lanes, kind, effort.stream_watch));
        let of = |at: usize| match &shares {
            Entry::Ready(figures) => measured(figures[at]),
            Entry::Blank => Cell::Blank,
            Entry::Skipped => Cell::Skipped,
            Entry::Failed(cause) => Cell::Failed(cause.clone()),
        };
        rows.push(row(
            format!("{AT_ONCE} {what} at once, {agent}: least share by greatest"),
            "",
            of(0),
            Target::Value(Bound::AtLeast(0.8)),
        ));
        rows.push(row("… all together".into(), "MiB/s", of(1), Target::Open));
        rows.push(row("… memory for each, at its peak".into(), "MiB", of(2), Target::Open));
    }
    rows
}

/// How much larger the gateway is at its peak.
fn memory(lanes: &Lanes, kind: Kind, size: u64) -> Result<f64> {
    match kind {
        Kind::Read => download_memory(lanes, size),
        Kind::Write => upload_memory(lanes, size),
    }
}

/// To a file on disk, which with our agent takes the old one's place at the end.
fn upload_memory(lanes: &Lanes, size: u64) -> Result<f64> {
    let file = lanes.dir.join("long");
    let path = file.to_str().context("a path that is no UTF-8")?;
    let mut link = FileLink::connect(&lanes.gateway.socket())?;
    let piece = noise(CHUNK);
    let grown = grown(&lanes.gateway, || link.upload(path, size, &piece));
    fs::remove_file(&file)?;
    grown
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
fn shares(lanes: &Lanes, kind: Kind, watch: Duration) -> Result<[f64; 3]> {
    let (gateway, together) = (&lanes.gateway, Barrier::new(AT_ONCE));
    let endless = lanes.dir.join("endless");
    sparse(&endless, ENDLESS)?;
    let files: Vec<_> = (0..AT_ONCE)
        .map(|n| match kind {
            Kind::Read => endless.clone(),
            Kind::Write => lanes.dir.join(format!("endless-{n}")),
        })
        .collect();
    let mut counts = Vec::new();
    let grown = grown(gateway, || {
        counts = thread::scope(|scope| {
            let together = &together;
            let clients: Vec<_> = files
                .iter()
                .map(|file| scope.spawn(move || one_of_many(gateway, kind, file, together, watch)))
                .collect();
            let join = |client: thread::ScopedJoinHandle<'_, Result<u64>>| {
                client.join().map_err(|_| anyhow!("a client panicked"))?
            };
            clients.into_iter().map(join).collect::<Result<Vec<u64>>>()
        })?;
        Ok(())
    });
    // A stock agent has written them where they are.
    for file in files.iter().filter(|file| file.exists()) {
        fs::remove_file(file)?;
    }
    let grown = grown?;
    let least = counts.iter().min().copied().unwrap_or_default();
    let greatest = counts.iter().max().copied().unwrap_or_default();
    let rate = mebibytes(counts.iter().sum()) / watch.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let each = grown / AT_ONCE as f64;
    Ok([mebibytes(least) / mebibytes(greatest), rate, each])
}

/// What goes in the middle of it, when all of them run.
fn one_of_many(
    gateway: &Gateway,
    kind: Kind,
    file: &Path,
    together: &Barrier,
    watch: Duration,
) -> Result<u64> {
    let connected = FileLink::connect(&gateway.socket());
    together.wait();
    let mut link = connected?;
    let path = file.to_str().context("a path that is no UTF-8")?;
    let (begun, mut counted) = (Instant::now(), 0);
    let each = |bytes: &[u8]| {
        let at = begun.elapsed();
        // The first quarter is for the last to begin.
        if at > watch / 4 && at <= watch + watch / 4 {
            counted += bytes.len() as u64;
        }
        at <= watch + watch / 4
    };
    match kind {
        Kind::Read => link.download(path, each).map(drop)?,
        Kind::Write => link.upload_for_a_while(path, ENDLESS, &noise(PIECE), each)?,
    }
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
