//! What the gateway's process takes of its host, looked at every few seconds.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Run;
use crate::client::Ask;

/// One look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Seconds since the begin.
    pub(crate) at: f64,
    pub(crate) pid: u32,
    /// Memory of its own, in KiB.
    pub(crate) private_kib: f64,
    pub(crate) resident_kib: f64,
    pub(crate) descriptors: f64,
    pub(crate) threads: f64,
    pub(crate) tasks: f64,
    /// Of the file that holds the leases, in KiB.
    pub(crate) state_kib: f64,
    /// Processor time so far, in seconds.
    pub(crate) processor: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { private_kib, resident_kib, descriptors, threads, tasks, state_kib, .. } = self;
        write!(
            f,
            "{:.1} MiB (resident {:.1}), {descriptors} descriptors, {threads} threads, {tasks} tasks, \
             state {state_kib} KiB",
            private_kib / 1024.0,
            resident_kib / 1024.0,
        )
    }
}

/// Takes samples until the time is over.
pub(crate) async fn take(run: &Run) -> Result<Vec<Sample>> {
    let every = (run.length / 120).clamp(Duration::from_secs(1), Duration::from_secs(5));
    let mut samples = Vec::new();
    let mut said = Instant::now();
    while run.elapsed() < run.length {
        tokio::time::sleep(every).await;
        // One between two gateways is not to be had.
        let Ok(sample) = now(run).await else { continue };
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            crate::say(&format!("{:5.0} s: {sample}", sample.at))?;
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// The process as it is now.
pub(crate) async fn now(run: &Run) -> Result<Sample> {
    let pid = run.host.pid();
    let metrics = Ask::new("GET", "/metrics", "/metrics".into());
    let metrics = run.send(&metrics).await.filter(|answer| answer.status == 200);
    let metrics = metrics.context("no metrics")?;
    let metrics = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let figure = |name: &str| -> Result<f64> {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name}"))?.parse()?)
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_ascii_whitespace().next());
        Ok(number.with_context(|| format!("no {name}"))?.parse()?)
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(Sample {
        at: run.elapsed().as_secs_f64(),
        pid,
        private_kib: kib("RssAnon:")?,
        resident_kib: kib("VmRSS:")?,
        threads: kib("Threads:")?,
        descriptors: real(descriptors as u64),
        tasks: figure("qga_tasks")?,
        state_kib: real(run.host.state_bytes() / 1024),
        processor: figure("process_cpu_seconds_total")?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a count of things on one machine")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}
