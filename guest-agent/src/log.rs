//! The agent's log: lines `<epoch seconds>.<microseconds>: <level>: <text>` to stderr or a file.
//!
//! ```text
//! direct ──start──▶ threaded ──suspend──▶ suspended ──resume──▶ threaded
//! ```
//!
//! * direct: while the agent starts, a line is written where it is logged.
//! * threaded: lines go through a ring to a thread of their own, because stderr may be a pipe that
//!   nobody empties and the file may lie on a filesystem that somebody froze.
//! * suspended: while filesystems are frozen, lines stay in the ring. The oldest ones give way
//!   when it is full, and the first line written afterwards says how many.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lines that the ring holds.
const RING_LINES: usize = 512;
/// Bytes of one line; the rest is cut off.
const LINE_BYTES: usize = 1024;

/// How much a line matters. Without `-v` only the first two are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Critical,
    Warning,
    Info,
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

static LOG: Log = Log { inner: Mutex::new(Inner::new()), changed: Condvar::new() };

struct Log {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    verbose: bool,
    /// `None` is stderr.
    file: Option<File>,
    /// A log file that is opened once nothing is frozen any more.
    deferred: Option<PathBuf>,
    ring: VecDeque<String>,
    dropped: u64,
    threaded: bool,
    suspended: bool,
    writing: bool,
}

impl Inner {
    const fn new() -> Self {
        Self {
            // Until the log is opened: what goes wrong at the start is for whoever started it.
            verbose: true,
            file: None,
            deferred: None,
            ring: VecDeque::new(),
            dropped: 0,
            threaded: false,
            suspended: false,
            writing: false,
        }
    }

    fn push(&mut self, line: String) {
        if self.ring.len() == RING_LINES {
            self.ring.pop_front();
            self.dropped += 1;
        }
        self.ring.push_back(line);
    }
}

fn inner() -> MutexGuard<'static, Inner> {
    LOG.inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something is lost or cannot be done.
pub(crate) fn critical(text: fmt::Arguments<'_>) {
    write(Level::Critical, text);
}

/// Something that the operator should look at.
pub(crate) fn warning(text: fmt::Arguments<'_>) {
    write(Level::Warning, text);
}

/// What happened, one line per command that changes the guest.
pub(crate) fn info(text: fmt::Arguments<'_>) {
    write(Level::Info, text);
}

fn write(level: Level, text: fmt::Arguments<'_>) {
    let mut inner = inner();
    if level > Level::Critical && !inner.verbose {
        return;
    }
    let line = line(level, text);
    if inner.threaded {
        inner.push(line);
        LOG.changed.notify_all();
    } else {
        emit(inner.file.as_ref(), &line);
    }
}

/// Opens the log file, or keeps stderr, and sets what is written. Fails when the file cannot be
/// opened.
pub(crate) fn open(path: Option<&Path>, verbose: bool) -> io::Result<()> {
    let file = path.map(append_to).transpose()?;
    let mut inner = inner();
    inner.file = file;
    inner.verbose = verbose;
    Ok(())
}

/// As [`open`], for an agent that starts while filesystems are frozen: the file, which may lie on
/// one of them, is opened by [`resume`].
pub(crate) fn open_when_thawed(path: Option<PathBuf>, verbose: bool) {
    let mut inner = inner();
    inner.deferred = path;
    inner.verbose = verbose;
    inner.suspended = true;
}

/// Starts the writing thread.
pub(crate) fn start() -> io::Result<()> {
    std::thread::Builder::new().name("log".into()).stack_size(STACK).spawn(write_lines)?;
    inner().threaded = true;
    Ok(())
}

const STACK: usize = 32 << 10;

/// Holds lines back from here on, after those logged so far are written or a moment has passed.
pub(crate) fn suspend() {
    flush(Duration::from_millis(100));
    inner().suspended = true;
}

/// Writes the lines that were held back, and all others from here on.
pub(crate) fn resume() {
    let mut inner = inner();
    if !inner.suspended {
        return;
    }
    inner.suspended = false;
    if let Some(path) = inner.deferred.take() {
        match append_to(&path) {
            Ok(file) => inner.file = Some(file),
            Err(e) => {
                let path = path.display();
                let e = crate::errno::of(&e);
                inner.push(line(
                    Level::Critical,
                    format_args!("unable to open specified log file '{path}': {e}"),
                ));
            }
        }
    }
    if inner.verbose {
        let text = format_args!("logging re-enabled due to filesystem unfreeze");
        inner.push(line(Level::Warning, text));
    }
    LOG.changed.notify_all();
}

/// Waits until all lines are written, at most for `patience`.
pub(crate) fn flush(patience: Duration) {
    let guard = inner();
    let behind = |i: &mut Inner| i.threaded && !i.suspended && (i.writing || !i.ring.is_empty());
    drop(LOG.changed.wait_timeout_while(guard, patience, behind));
}

fn write_lines() {
    let mut guard = inner();
    loop {
        guard = LOG
            .changed
            .wait_while(guard, |i| i.suspended || i.ring.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut guard.ring);
        let dropped = std::mem::take(&mut guard.dropped);
        let file = guard.file.as_ref().and_then(|file| file.try_clone().ok());
        guard.writing = true;
        drop(guard);
        if dropped > 0 {
            let text = format_args!("{dropped} log lines were dropped");
            emit(file.as_ref(), &line(Level::Warning, text));
        }
        for line in &lines {
            emit(file.as_ref(), line);
        }
        guard = inner();
        guard.writing = false;
        LOG.changed.notify_all();
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn line(level: Level, text: fmt::Arguments<'_>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = format!("{}.{:06}: {level}: ", now.as_secs(), now.subsec_micros());
    // What a peer sent may stand in the text: nothing of it may look like another line.
    for c in text.to_string().chars() {
        if line.len() >= LINE_BYTES {
            line.push('…');
            break;
        }
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// A log that cannot be written has nowhere to say so.
fn emit(file: Option<&File>, line: &str) {
    drop(match file {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_level_and_text_and_stays_one_line() {
        let line = line(Level::Critical, format_args!("failed: a\nb"));
        let (time, rest) = line.split_once(": ").unwrap();
        let (seconds, micros) = time.split_once('.').unwrap();
        assert!(seconds.parse::<u64>().unwrap() > 1_700_000_000);
        assert_eq!(micros.len(), 6);
        assert_eq!(rest, "critical: failed: a\\nb\n");
    }

    #[test]
    fn the_ring_drops_its_oldest_lines_and_counts_them() {
        let mut inner = Inner::new();
        for n in 0..RING_LINES + 2 {
            inner.push(n.to_string());
        }
        assert_eq!((inner.ring.len(), inner.dropped), (RING_LINES, 2));
        assert_eq!(inner.ring.front().map(String::as_str), Some("2"));
    }
}
