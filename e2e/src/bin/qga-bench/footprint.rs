//! What an agent costs without doing much: memory, disk, and the time until it answers.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::contestant::{Program, first_answer};
use crate::file::{Files, Kind, Transfer};
use crate::round::{Effort, Entry, interleave};
use crate::table::Row;
use crate::target::{Bound, Target};

/// The chunk after which memory is looked at.
const CHUNK: usize = 8 << 20;
/// How long an agent may take to give memory back.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);
const START_BOUND: Duration = Duration::from_secs(20);
/// Between two tries to connect to an agent on its way up.
const LOOK_AGAIN: Duration = Duration::from_micros(20);

/// Memory, size and start-up time of all agents.
pub(crate) fn rows(programs: &[Entry<Program>], dir: &Path, effort: Effort) -> Vec<Row> {
    let row = |name: &str, unit, cells, target| Row { name: name.into(), unit, cells, target };
    // The bare server is part of this program, whose size and memory mean nothing.
    let real = || {
        programs.iter().map(|program| match program {
            Entry::Ready(Program::Bare) => Entry::Blank,
            other => other.prepare(|program| Ok(program.clone())),
        })
    };
    let mut runs = 0;
    let mut fresh = || {
        runs += 1;
        dir.join(format!("run-{runs}"))
    };
    let [idle, peak, after, settled] =
        interleave(effort.rests, real().collect(), |program| memory(program, &fresh()));
    let [file] = interleave(1, real().collect(), |program| Ok([mebibytes(&program.file()?)?]));
    let [libraries] = interleave(1, real().collect(), |program| {
        let sizes: Result<Vec<f64>> =
            program.libraries()?.iter().map(|library| mebibytes(library)).collect();
        // Not `sum`, whose zero is -0.
        Ok([sizes?.iter().fold(0.0, |all, size| all + size)])
    });
    let [start] = interleave(
        effort.starts,
        programs.iter().map(|program| program.prepare(|program| Ok(program.clone()))).collect(),
        |program| start_up(program, &fresh()),
    );
    vec![
        row("resident, idle", "MiB", idle, Target::Value(Bound::AtMost(1.8))),
        row(
            "resident, after 8 MiB chunks read and written",
            "MiB",
            after,
            Target::Value(Bound::AtMost(12.0)),
        ),
        row("… at the peak of it", "MiB", peak, Target::Open),
        row("… two seconds after it", "MiB", settled, Target::Value(Bound::AtMost(4.0))),
        row("program on disk", "MiB", file, Target::Value(Bound::AtMost(2.0))),
        row("shared libraries that it loads", "MiB", libraries, Target::Value(Bound::AtMost(0.0))),
        row("start-up, until the first ping's answer", "ms", start, Target::Open),
    ]
}

/// Of a fresh agent: idle, while and after it moves the chunks, and when it had time to give
/// memory back.
fn memory(program: &Program, dir: &Path) -> Result<[f64; 4]> {
    let agent = program.start(dir)?;
    rest(SETTLE);
    let idle = agent.memory("VmRSS")?;
    for kind in [Kind::Read, Kind::Write] {
        let mut transfer =
            Transfer::open(&agent.socket, kind, dir.join("chunk"), CHUNK, CHUNK, Files::Here)?;
        transfer.pass()?;
    }
    let after = agent.memory("VmRSS")?;
    let peak = agent.memory("VmHWM")?;
    rest(SETTLE);
    let settled = agent.memory("VmRSS")?;
    drop(agent);
    fs::remove_dir_all(dir)?;
    Ok([idle, peak, after, settled])
}

/// Leaves the agents alone for a while.
pub(crate) fn rest(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

fn start_up(program: &Program, dir: &Path) -> Result<[f64; 1]> {
    fs::create_dir_all(dir)?;
    let start = Instant::now();
    let agent = program.start_untied(dir)?;
    while first_answer(&agent.socket).is_err() {
        if start.elapsed() > START_BOUND {
            bail!("no answer within {START_BOUND:?}");
        }
        thread::park_timeout(LOOK_AGAIN);
    }
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    drop(agent);
    fs::remove_dir_all(dir)?;
    Ok([milliseconds])
}

fn mebibytes(file: &Path) -> Result<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a file's size")]
    let bytes = fs::metadata(file)?.len() as f64;
    Ok(bytes / f64::from(1 << 20))
}
