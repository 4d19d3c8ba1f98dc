//! Lines to a file or to the journal, by a thread of their own.
//!
//! Nobody waits for it. What finds no room, or cannot be written, is counted, and the count is on
//! record once writing works again.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use serde::Serialize;

use super::config::Target;

/// Bytes that may wait: some ten thousand records.
const ROOM: usize = 4 << 20;
/// How long after a failure the next attempt is made.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last records.
const PATIENCE: Duration = Duration::from_secs(5);
/// The journal's socket.
const JOURNAL: &str = "/run/systemd/journal/socket";

#[derive(Debug)]
pub(super) struct Sink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something waits, or nothing does any more.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    lost: u64,
    /// The last attempt failed.
    broken: bool,
    reopen: bool,
    writing: bool,
}

/// Where lines end up.
#[derive(Debug)]
enum Output {
    File(File),
    Journal(UnixDatagram),
}

impl Sink {
    pub(super) fn start(target: Target) -> io::Result<Self> {
        let output = Output::open(&target)?;
        let shared = Arc::new(Shared { waiting: Mutex::default(), changed: Condvar::new() });
        let writer = shared.clone();
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.write_on(&target, output))?;
        Ok(Self(shared))
    }

    pub(super) fn write(&self, record: &impl Serialize) {
        // Strings and numbers only: it cannot fail.
        let mut line = serde_json::to_vec(record).unwrap_or_default();
        line.push(b'\n');
        let mut waiting = self.0.lock();
        if waiting.bytes + line.len() > ROOM {
            waiting.lost += 1;
            waiting.broken = true;
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        drop(waiting);
        self.0.changed.notify_all();
    }

    /// That many records were never handed over.
    pub(super) fn lost(&self, count: u64) {
        self.0.lock().lost += count;
        self.0.changed.notify_all();
    }

    pub(super) fn reopen(&self) {
        self.0.lock().reopen = true;
        self.0.changed.notify_all();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.0.lock().broken
    }

    pub(super) fn finish(&self) {
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(self.0.lock(), PATIENCE, busy));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_on(&self, target: &Target, output: Output) {
        let mut output = Some(output);
        loop {
            let idle = |w: &mut Waiting| w.lines.is_empty() && w.lost == 0 && !w.reopen;
            let waiting = self.changed.wait_while(self.lock(), idle);
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut waiting.reopen) {
                output = None;
            }
            waiting.writing = true;
            // Taken out only once it is written.
            let line = match waiting.lines.front() {
                Some(line) => line.clone(),
                None if waiting.lost > 0 => lost(waiting.lost),
                None => Vec::new(),
            };
            let counted = waiting.lines.is_empty().then_some(waiting.lost);
            drop(waiting);
            let result = attempt(&mut output, target, &line);
            let mut waiting = self.lock();
            waiting.writing = false;
            match result {
                Ok(()) => {
                    match counted {
                        Some(counted) => waiting.lost -= counted,
                        None => {
                            waiting.lines.pop_front();
                            waiting.bytes -= line.len();
                        }
                    }
                    if std::mem::take(&mut waiting.broken) {
                        tracing::info!("audit records can be written again");
                    }
                    drop(waiting);
                    self.changed.notify_all();
                }
                Err(error) => {
                    if !std::mem::replace(&mut waiting.broken, true) {
                        tracing::error!("audit records cannot be written: {error}");
                    }
                    output = None;
                    // A reopening may mend it.
                    let waits = |w: &mut Waiting| !w.reopen;
                    drop(self.changed.wait_timeout_while(waiting, PAUSE, waits));
                }
            }
        }
    }
}

fn attempt(output: &mut Option<Output>, target: &Target, line: &[u8]) -> io::Result<()> {
    let output = match output {
        Some(output) => output,
        None => output.insert(Output::open(target)?),
    };
    if line.is_empty() { Ok(()) } else { output.write(line) }
}

fn lost(count: u64) -> Vec<u8> {
    let time = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    format!("{{\"time\":\"{time:.6}\",\"kind\":\"lost\",\"records\":{count}}}\n").into_bytes()
}

impl Output {
    fn open(target: &Target) -> io::Result<Self> {
        match target {
            Target::File(path) => open(path).map(Self::File),
            Target::Journal => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(JOURNAL)?;
                Ok(Self::Journal(socket))
            }
        }
        .map_err(|e| io::Error::new(e.kind(), format!("{target}: {e}")))
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => append(file, line),
            Self::Journal(socket) => {
                let text = [b"SYSLOG_IDENTIFIER=qga-gateway-audit\nPRIORITY=5\nMESSAGE=", line];
                socket.send(&text.concat()).map(drop)
            }
        }
    }
}

/// All of the line or nothing: half of one would spoil the next.
fn append(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(line).inspect_err(|_| drop(file.set_len(before)))
}

fn open(path: &Path) -> io::Result<File> {
    // A link could lead to a file of somebody else's; a FIFO could block.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file =
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(io::Error::other("is open to everybody; at most its group may read it (0640)"));
    }
    Ok(file)
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Journal => f.write_str(JOURNAL),
        }
    }
}
