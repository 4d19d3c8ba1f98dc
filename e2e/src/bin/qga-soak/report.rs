//! What came of it: for whoever waits at a terminal, and for `docs/soak.md`.

use std::fmt::Write as _;
use std::time::Duration;

use crate::finish::End;
use crate::samples::Sample;
use crate::trend;
use crate::{Arguments, Run};

/// One figure of the process.
#[derive(Debug)]
struct Row {
    name: &'static str,
    unit: &'static str,
    first: f64,
    last: f64,
    /// By the slope, over the time that it was measured.
    growth: f64,
    /// The most that it may be.
    allowed: f64,
}

impl Row {
    fn passed(&self) -> bool {
        self.growth <= self.allowed
    }
}

/// All that is told.
#[derive(Debug)]
pub(crate) struct Report {
    passed: bool,
    text: String,
    markdown: String,
}

impl Report {
    pub(crate) fn new(
        arguments: &Arguments,
        run: &Run,
        samples: &[Sample],
        before: &Sample,
        end: &End,
    ) -> Self {
        let length = run.length.as_secs_f64();
        // One process, warm.
        let pid = samples.last().map_or(0, |sample| sample.pid);
        let measured: Vec<_> =
            samples.iter().filter(|s| s.pid == pid && s.at > length / 2.0).copied().collect();
        let rows = rows(&measured, run.length);
        if measured.len() < 20 {
            run.book.wrong(format!("only {} samples in the last half", measured.len()));
        }
        for row in rows.iter().filter(|row| !row.passed()) {
            run.book.wrong(format!(
                "{} grow: by {:.1} {} over the last half, allowed are {:.1}",
                row.name, row.growth, row.unit, row.allowed
            ));
        }
        for line in &end.log {
            run.book.wrong(format!("the gateway's log: {line}"));
        }
        if let Some(after) = &end.rested {
            left_over(run, before, after);
        }
        let (wrong, more) = run.book.wrongs();
        let mut markdown = String::new();
        write(&mut markdown, arguments, run, &rows, &measured, (before, end));
        let mut text = markdown.clone();
        for line in &wrong {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "WRONG: {line}");
        }
        if more > 0 {
            let _ = writeln!(text, "WRONG: and {more} more");
        }
        let _ = writeln!(text, "{}", if wrong.is_empty() { "all well" } else { "not well" });
        Self { passed: wrong.is_empty(), text, markdown }
    }

    pub(crate) fn passed(&self) -> bool {
        self.passed
    }

    pub(crate) fn text(&self) -> String {
        self.text.clone()
    }

    pub(crate) fn markdown(&self) -> String {
        self.markdown.clone()
    }
}

/// Nothing of all that may be held at rest that was not held before.
fn left_over(run: &Run, before: &Sample, after: &Sample) {
    for (name, before, after) in [
        ("descriptors", before.descriptors, after.descriptors),
        ("tasks", before.tasks, after.tasks),
    ] {
        if after > before + 2.0 {
            run.book.wrong(format!("at rest there were {before} {name}, and now are {after}"));
        }
    }
}

/// A slope must stay below noise; a short run has more of that, and less time to show a leak.
fn rows(samples: &[Sample], length: Duration) -> Vec<Row> {
    let short = length < Duration::from_secs(1200);
    let window = match (samples.first(), samples.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => 0.0,
    };
    let row = |name, unit, of: fn(&Sample) -> f64, share: f64, least: f64| {
        let points: Vec<_> = samples.iter().map(|sample| (sample.at, of(sample))).collect();
        let tenth = (points.len() / 10).max(1);
        let part = |points: &[(f64, f64)]| trend::median(points.iter().map(|p| p.1).collect());
        let median = part(&points);
        Row {
            name,
            unit,
            first: part(&points[..tenth.min(points.len())]),
            last: part(&points[points.len().saturating_sub(tenth)..]),
            growth: trend::slope(&points) * window,
            allowed: (share * median).max(least),
        }
    };
    // Callers come and go; in a short time by chance.
    let (share, least) = if short { (0.05, 20.0) } else { (0.02, 8.0) };
    let memory = if short { (0.15, 6.0) } else { (0.05, 2.0) };
    vec![
        row("private memory", "MiB", |s| s.private_kib / 1024.0, memory.0, memory.1),
        row("descriptors", "", |s| s.descriptors, share, least),
        row("threads", "", |s| s.threads, 0.0, 2.0),
        row("tasks", "", |s| s.tasks, share, least),
        row("state file", "KiB", |s| s.state_kib, 0.10, 256.0),
    ]
}

fn write(
    out: &mut String,
    arguments: &Arguments,
    run: &Run,
    rows: &[Row],
    measured: &[Sample],
    (before, end): (&Sample, &End),
) {
    // Writing to a string cannot fail.
    let _ = tell(out, arguments, run, rows, measured, before, end);
}

fn tell(
    out: &mut String,
    arguments: &Arguments,
    run: &Run,
    rows: &[Row],
    measured: &[Sample],
    before: &Sample,
    end: &End,
) -> std::fmt::Result {
    let (wrong, more) = run.book.wrongs();
    let answers = run.book.answers();
    let requests: u64 = answers.values().sum();
    writeln!(out, "# Soak\n")?;
    writeln!(
        out,
        "What is left of a gateway after hours of work: made by `make soak`. Simulated VMs of all kinds \
         (half with qga-agent, the others stock, Windows, BSD and 0.15), callers that ping, read, \
         freeze, renew, thaw or forget to, hang up and follow events, and faults all the time: \
         agents, QEMUs and sockets that come and go, replies lost, late, twice and garbage, freezes torn \
         from inside, hostile guests. In the first sixth the gateway is restarted in each of its \
         ways, under load; in the last half one process is left to itself and measured.\n"
    )?;
    writeln!(
        out,
        "The last run: **{} VMs, {} s**, {requests} requests answered, {} leases, seed {}: **{}**.\n",
        arguments.vms,
        arguments.seconds,
        run.book.given_count(),
        run.seed,
        if wrong.is_empty() {
            "nothing was wrong".into()
        } else {
            format!("{} wrong", wrong.len() + more)
        }
    )?;
    writeln!(out, "## What did not grow\n")?;
    writeln!(
        out,
        "The last half of the run, {} samples. Growth is the median of the slopes between any two samples \
         (Theil and Sen), times the half; allowed is what noise may show.\n",
        measured.len()
    )?;
    writeln!(out, "| | at its begin | at its end | growth | allowed |\n|---|---|---|---|---|")?;
    for row in rows {
        let Row { name, unit, first, last, growth, allowed } = row;
        writeln!(
            out,
            "| {name} | {first:.1} {unit} | {last:.1} {unit} | {growth:+.2} | {allowed:.1} |"
        )?;
    }
    writeln!(out, "\n* at rest before: {before}")?;
    if let Some(after) = &end.rested {
        writeln!(out, "* at rest after: {after}")?;
    }
    if let (Some(first), Some(last)) = (measured.first(), measured.last()) {
        let busy = 100.0 * (last.processor - first.processor) / (last.at - first.at).max(1.0);
        writeln!(out, "* processor: {busy:.1} % of a core")?;
    }
    writeln!(
        out,
        "\n## What was checked\n\n\
         * By the guests' truth: no guest frozen past its deadline (longest freeze {:.1} s), none frozen at \
         the end, nothing sent before a sync was answered, no `held` that was not.\n\
         * No lease lost: each one given was found again after its end, over all restarts.\n\
         * Every answer is one that the OpenAPI document lists for its operation, by status and code; no \
         500; no request without an answer but for {} during restarts.\n\
         * No panic and no error in the gateway's log; each process ended by itself with status 0.\n",
        run.book.longest().as_secs_f64(),
        run.book.unanswered_count(),
    )?;
    writeln!(out, "## What it went through\n\n| Fault | times |\n|---|---|")?;
    for (fault, times) in run.book.faults() {
        writeln!(out, "| {fault} | {times} |")?;
    }
    writeln!(out, "\n| Answer | times |\n|---|---|")?;
    for (answer, times) in &answers {
        writeln!(out, "| {answer} | {times} |")?;
    }
    writeln!(out, "\n| How leases ended | times |\n|---|---|")?;
    for (how, times) in run.book.ends() {
        writeln!(out, "| {how} | {times} |")?;
    }
    writeln!(out, "\n| Operation | times | mean |\n|---|---|---|")?;
    for (route, (times, mean)) in run.book.routes() {
        writeln!(out, "| `{route}` | {times} | {:.1} ms |", mean.as_secs_f64() * 1e3)?;
    }
    Ok(())
}
