//! Reading and writing a file through the agent, in chunks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::contestant::{BARE, Running, STOCK};
use crate::link::{Link, start_of};
use crate::round::{Effort, Entry, interleave};
use crate::table::{Cell, Row};
use crate::target::{Bound, Target};

/// Reading and writing rates of all agents, of their payload.
pub(crate) fn rows(
    agents: &[Entry<Running>],
    bare: &[bool],
    dir: &Path,
    effort: Effort,
) -> Vec<Row> {
    let targets: [(usize, Target, Target); 2] = [
        (
            64 << 10,
            Target::Ratio(&[(STOCK, Bound::AtLeast(5.0)), (BARE, Bound::AtLeast(0.6))]),
            Target::Ratio(&[(STOCK, Bound::AtLeast(10.0))]),
        ),
        (
            1 << 20,
            Target::Ratio(&[(STOCK, Bound::AtLeast(10.0))]),
            Target::Ratio(&[(STOCK, Bound::AtLeast(18.0))]),
        ),
    ];
    let mut rows = Vec::new();
    for (chunk, read_target, write_target) in targets {
        let cells = |kind: Kind| -> Vec<Cell> {
            let transfers = agents.iter().zip(bare).enumerate().map(|(number, (agent, &bare))| {
                let file = dir.join(format!("{kind:?}-{chunk}-{number}"));
                let files = if bare { Files::None } else { Files::Here };
                agent.prepare(|agent| {
                    Transfer::open(&agent.socket, kind, file, chunk, effort.file, files)
                })
            });
            let [cells] = interleave(effort.rounds, transfers.collect(), |transfer| {
                Ok([transfer.rate(effort.turn)?])
            });
            cells
        };
        let name = |what: &str| format!("file {what}, {} KiB chunks", chunk >> 10);
        rows.push(Row {
            name: name("read"),
            unit: "MiB/s",
            cells: cells(Kind::Read),
            target: read_target,
        });
        rows.push(Row {
            name: name("write"),
            unit: "MiB/s",
            cells: cells(Kind::Write),
            target: write_target,
        });
    }
    // Reads first, as the design lists them.
    rows.sort_by_key(|row| row.name.contains("write"));
    rows
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// What an agent's files are to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// The same.
    Here,
    /// Those of a VM: there is one to be read already, and what is written cannot be looked at.
    InVm,
    /// There are none: it moves nothing.
    None,
}

/// An open file at an agent, and the one request that moves each of its chunks.
#[derive(Debug)]
pub(crate) struct Transfer {
    link: Link,
    file: PathBuf,
    rewind: Vec<u8>,
    request: Vec<u8>,
    reply_length: usize,
    chunks: usize,
    chunk: usize,
}

impl Transfer {
    /// Opens `file` of `size` bytes at the agent, moves it once and checks every byte.
    pub(crate) fn open(
        socket: &Path,
        kind: Kind,
        file: PathBuf,
        chunk: usize,
        size: usize,
        files: Files,
    ) -> Result<Self> {
        let chunk_bytes = noise(chunk);
        if kind == Kind::Read && files != Files::InVm {
            fs::write(&file, chunk_bytes.repeat(size / chunk)).context("writing the file")?;
        }
        let mut link = Link::connect(socket)?;
        let mode = if kind == Kind::Read { "r" } else { "w" };
        let opened = call(&mut link, "guest-file-open", &json!({ "path": file, "mode": mode }))?;
        let handle = opened.as_i64().context("no handle")?;
        let request = match kind {
            Kind::Read => line("guest-file-read", &json!({ "handle": handle, "count": chunk })),
            Kind::Write => {
                let text = STANDARD.encode(&chunk_bytes);
                line("guest-file-write", &json!({ "handle": handle, "buf-b64": text }))
            }
        };
        let seek = json!({ "handle": handle, "offset": 0, "whence": 0 });
        let rewind = line("guest-file-seek", &seek);
        link.expect_replies_of(chunk.div_ceil(3) * 4 + 128);
        let chunks = size / chunk;
        let mut transfer = Self { link, file, rewind, request, reply_length: 0, chunks, chunk };
        transfer.check(kind, &chunk_bytes, handle, files)?;
        Ok(transfer)
    }

    /// Moves the file, again and again for a turn; answers MiB of payload per second.
    pub(crate) fn rate(&mut self, turn: Duration) -> Result<f64> {
        let (mut spent, mut bytes) = (Duration::ZERO, 0);
        while spent < turn {
            spent += self.pass()?;
            bytes += self.chunks * self.chunk;
        }
        #[expect(clippy::cast_precision_loss, reason = "the size of some files")]
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        Ok(mebibytes / spent.as_secs_f64())
    }

    /// Moves the file once. The time is without the way back to its start.
    pub(crate) fn pass(&mut self) -> Result<Duration> {
        self.link.ask(&self.rewind)?;
        let start = Instant::now();
        for _ in 0..self.chunks {
            self.link.exchange(&self.request, self.reply_length)?;
        }
        Ok(start.elapsed())
    }

    /// [`Transfer::pass`] with so many requests on their way.
    pub(crate) fn pass_ahead(&mut self, in_flight: usize) -> Result<Duration> {
        self.link.ask(&self.rewind)?;
        let start = Instant::now();
        self.link.pipeline(&self.request, self.reply_length, in_flight, self.chunks)?;
        Ok(start.elapsed())
    }

    fn check(&mut self, kind: Kind, chunk: &[u8], handle: i64, files: Files) -> Result<()> {
        for _ in 0..self.chunks {
            let reply = self.link.ask(&self.request)?;
            ensure!(
                self.reply_length == 0 || self.reply_length == reply.len(),
                "replies differ in length: {}",
                start_of(reply)
            );
            self.reply_length = reply.len();
            if files == Files::None {
                continue;
            }
            let value = returned(reply)?;
            ensure!(value["count"] == json!(chunk.len()), "a short count: {}", start_of(reply));
            if kind == Kind::Read {
                let text = value["buf-b64"].as_str().context("no buf-b64")?;
                ensure!(STANDARD.decode(text)? == chunk, "other bytes read than the file has");
            }
        }
        if kind == Kind::Write && files != Files::None {
            call(&mut self.link, "guest-file-flush", &json!({ "handle": handle }))?;
        }
        if kind == Kind::Write && files == Files::Here {
            let written = fs::read(&self.file).context("reading what the agent wrote")?;
            ensure!(
                written.len() == self.chunks * chunk.len()
                    && written.chunks(chunk.len()).all(|piece| piece == chunk),
                "other bytes in the file than were sent"
            );
        }
        Ok(())
    }
}

pub(crate) fn line(command: &str, arguments: &Value) -> Vec<u8> {
    // Not by serde_json's map, which sorts: the bare agent looks at the command's name first.
    format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n").into_bytes()
}

pub(crate) fn call(link: &mut Link, command: &str, arguments: &Value) -> Result<Value> {
    returned(link.ask(&line(command, arguments))?).with_context(|| command.to_owned())
}

pub(crate) fn returned(reply: &[u8]) -> Result<Value> {
    let mut value: Value = serde_json::from_slice(reply)?;
    ensure!(value.get("return").is_some(), "an error: {}", start_of(reply));
    Ok(value["return"].take())
}

/// Bytes without a pattern, always the same.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
