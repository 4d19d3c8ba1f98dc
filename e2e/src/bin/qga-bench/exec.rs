//! Starting programs: from the request to the result.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::contestant::{Running, STOCK};
use crate::file::{call, line, returned};
use crate::link::Link;
use crate::ping::warm;
use crate::round::{Effort, Entry, interleave};
use crate::samples::quantile;
use crate::table::Row;
use crate::target::{Bound, Target};

/// From `guest-exec` until `guest-exec-status` says that the program has ended, asked again and
/// again.
pub(crate) fn rows(agents: &[Entry<Running>], bare: &[bool], effort: Effort) -> Vec<Row> {
    let row = |name: &str, capture: bool| {
        let starts = agents.iter().zip(bare).map(|(agent, bare)| match (agent, bare) {
            (Entry::Ready(_), true) => Entry::Blank,
            _ => agent.prepare(|agent| Starts::new(warm(&agent.socket)?, capture)),
        });
        let [cells] = interleave(effort.rounds, starts.collect(), |starts| {
            let mut micros = Vec::new();
            let begun = Instant::now();
            // Even a quick turn has some.
            while micros.len() < 5 || begun.elapsed() < effort.turn {
                micros.push(starts.one()?);
            }
            micros.sort_by(f64::total_cmp);
            Ok([quantile(&micros, 0.5)])
        });
        let target = Target::Ratio(&[(STOCK, Bound::AtMost(1.0))]);
        Row { name: name.into(), unit: "µs", cells, target }
    };
    vec![
        row("exec of /bin/true, start to result, p50", false),
        row("exec with its output, start to result, p50", true),
    ]
}

struct Starts {
    link: Link,
    start: Vec<u8>,
    capture: bool,
}

impl Starts {
    fn new(link: Link, capture: bool) -> Result<Self> {
        let (path, arguments) =
            if capture { ("/bin/echo", vec!["x"]) } else { ("/bin/true", vec![]) };
        let what = json!({ "path": path, "arg": arguments, "capture-output": capture });
        Ok(Self { link, start: line("guest-exec", &what), capture })
    }

    /// Runs the program once; answers how long it took, in µs.
    fn one(&mut self) -> Result<f64> {
        let begun = Instant::now();
        let pid = returned(self.link.ask(&self.start)?)?["pid"].as_i64().context("no pid")?;
        loop {
            let status = call(&mut self.link, "guest-exec-status", &json!({ "pid": pid }))?;
            if status["exited"] == json!(true) {
                let micros = begun.elapsed().as_secs_f64() * 1e6;
                ensure!(status["exitcode"] == json!(0), "it ended otherwise: {status}");
                ensure!(!self.capture || status["out-data"] == json!("eAo="), "output: {status}");
                return Ok(micros);
            }
        }
    }
}
