//! What must not change: memory and descriptors over many commands, and nothing at all in an agent
//! that nobody asks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::contestant::{Program, Running, first_answer};
use crate::file::{call, line};
use crate::footprint::{SETTLE, rest};
use crate::link::Link;
use crate::round::{Effort, Entry, interleave};
use crate::samples::Samples;
use crate::table::{Cell, Row};
use crate::target::{Bound, Target};

/// Wake-ups of idle agents, and what many commands leave behind.
pub(crate) fn rows(programs: &[Entry<Program>], dir: &Path, effort: Effort) -> Vec<Row> {
    let real = |programs: &[Entry<Program>], place: &str| -> Vec<Entry<Running>> {
        let start = |(number, program): (usize, &Entry<Program>)| match program {
            Entry::Ready(Program::Bare) => Entry::Blank,
            program => {
                program.prepare(|program| program.start(&dir.join(format!("{place}-{number}"))))
            }
        };
        programs.iter().enumerate().map(start).collect()
    };
    let wake_ups = idle(&real(programs, "idle"), effort);
    let [memory, descriptors] =
        interleave(1, real(programs, "steady"), |agent| many(agent, dir, effort.commands));
    let row = |name: String, unit, cells, most| Row {
        name,
        unit,
        cells,
        target: Target::Value(Bound::AtMost(most)),
    };
    let seconds = effort.idle.as_secs_f64();
    let commands = effort.commands;
    vec![
        row(format!("wake-ups of all threads in {seconds} idle seconds"), "", wake_ups, 0.0),
        // Less than a byte and a half for each command.
        row(format!("memory of its own, growth over {commands} commands"), "KiB", memory, 128.0),
        row(format!("descriptors, growth over {commands} commands"), "", descriptors, 0.0),
    ]
}

/// All at once: they have nothing to do.
fn idle(agents: &[Entry<Running>], effort: Effort) -> Vec<Cell> {
    rest(SETTLE);
    let counted = || -> Vec<Entry<u64>> {
        agents.iter().map(|agent| agent.prepare(Running::switches)).collect()
    };
    let before = counted();
    rest(effort.idle);
    before
        .into_iter()
        .zip(counted())
        .map(|(before, after)| match (before, after) {
            (Entry::Ready(before), Entry::Ready(after)) => {
                let mut samples = Samples::default();
                #[expect(clippy::cast_precision_loss, reason = "a few")]
                samples.push((after - before) as f64);
                Cell::Measured(samples)
            }
            (Entry::Failed(cause), _) | (_, Entry::Failed(cause)) => Cell::Failed(cause),
            (Entry::Blank, _) | (_, Entry::Blank) => Cell::Blank,
            _ => Cell::Skipped,
        })
        .collect()
}

/// Growth of its own memory in KiB, and of its descriptors.
fn many(agent: &Running, dir: &Path, commands: usize) -> Result<[f64; 2]> {
    let file = dir.join("mixed");
    fs::write(&file, vec![b'x'; 10_000])?;
    let mut link = first_answer(&agent.socket)?;
    let mut mixed = Mixed { link: &mut link, file: &file, sent: 0 };
    // What it keeps for good after having done each thing once is no growth.
    mixed.run(commands / 20)?;
    rest(SETTLE);
    let before = (agent.memory("RssAnon")?, agent.descriptors()?);
    mixed.run(commands)?;
    rest(SETTLE);
    let after = (agent.memory("RssAnon")?, agent.descriptors()?);
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let descriptors = after.1 as f64 - before.1 as f64;
    Ok([(after.0 - before.0) * 1024.0, descriptors])
}

/// Commands of many kinds, errors too.
struct Mixed<'a> {
    link: &'a mut Link,
    file: &'a Path,
    sent: usize,
}

impl Mixed<'_> {
    /// Sends about this many.
    fn run(&mut self, commands: usize) -> Result<()> {
        let until = self.sent + commands;
        let mut turn = 0;
        while self.sent < until {
            turn += 1;
            for name in ["guest-ping", "guest-info", "guest-get-time", "guest-get-host-name"] {
                self.ask(name, &json!({}))?;
            }
            self.ask("guest-sync", &json!({ "id": turn }))?;
            self.error("guest-no-such-command", &json!({}))?;
            self.error("guest-file-read", &json!({ "handle": -1 }))?;
            let opened =
                self.ask("guest-file-open", &json!({ "path": self.file, "mode": "r+" }))?;
            for _ in 0..4 {
                self.ask("guest-file-read", &json!({ "handle": opened, "count": 4096 }))?;
                let seek = json!({ "handle": opened, "offset": 0, "whence": 0 });
                self.ask("guest-file-seek", &seek)?;
            }
            self.ask("guest-file-write", &json!({ "handle": opened, "buf-b64": "eHh4" }))?;
            self.ask("guest-file-flush", &json!({ "handle": opened }))?;
            self.ask("guest-file-close", &json!({ "handle": opened }))?;
            // Rarer, because they are slow.
            if turn % 16 == 0 {
                for name in ["guest-get-fsinfo", "guest-network-get-interfaces", "guest-get-osinfo"]
                {
                    self.ask(name, &json!({}))?;
                }
                self.exec()?;
            }
        }
        Ok(())
    }

    fn exec(&mut self) -> Result<()> {
        let what = json!({ "path": "/bin/echo", "arg": ["x"], "capture-output": true });
        let pid = self.ask("guest-exec", &what)?["pid"].as_i64().context("no pid")?;
        while self.ask("guest-exec-status", &json!({ "pid": pid }))?["exited"] != json!(true) {}
        Ok(())
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.sent += 1;
        call(self.link, command, arguments)
    }

    fn error(&mut self, command: &str, arguments: &Value) -> Result<()> {
        self.sent += 1;
        let reply = self.link.ask(&line(command, arguments))?;
        anyhow::ensure!(reply.starts_with(b"{\"error\""), "{command} should have failed");
        Ok(())
    }
}
