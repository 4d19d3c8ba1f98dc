//! One process, as the gateway knows it: where it stands, what it has written, who reads it.
//!
//! ```text
//!   running ── its end is seen ──▶ exited ── all output is here ──▶ complete
//!      │                              │
//!      └── agent or VM is another, ───┴──▶ lost, with the reason
//!          link gone for too long
//! ```

mod reading;
mod writing;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use qga_proto::command::{
    CaptureOutput, ExecStatus, OutputState, OutputStream, Overflow, XExecProgram,
};
use tokio::sync::{Notify, watch};

pub(super) use self::reading::Next;
pub use self::writing::Input;
use super::stream::{MAX_OFFSET, Stream};
use crate::principal::Principal;
use crate::printable::printable;
use crate::vm::Incarnation;

/// The longest name of a program that is kept.
const MAX_PROGRAM: usize = 256;

/// What does not change about a process.
#[derive(Debug)]
pub struct Process {
    /// Its number in the guest.
    pub pid: i64,
    /// Who had it started; not known of one that was found in the guest.
    pub owner: Option<Principal>,
    /// Its `argv[0]`; of one that was found, guest text.
    pub program: String,
    /// When it was started.
    pub started_at: SystemTime,
    /// Whether it has a terminal.
    pub pty: bool,
    pub(super) way: Way,
    /// What becomes of output that nobody has read yet.
    pub(super) overflow: Overflow,
    /// The most that is held of each stream.
    pub(super) room: usize,
    /// Wakes the pump: a reader has made room, or somebody waits for room in its input.
    pub(super) pump: Arc<Notify>,
    inner: Mutex<Inner>,
    news: watch::Sender<()>,
    /// Held over each write of input, so that their order is kept.
    pub(super) input: tokio::sync::Mutex<()>,
}

/// By which commands it is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `x-guest-exec-…`.
    Extension { handle: i64, instance: String },
    /// `guest-exec-status`, on this machine.
    Stock { incarnation: Option<Incarnation> },
}

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs, as far as is known.
    Running,
    /// It has ended.
    Exited {
        /// Its exit code, if it ended by itself.
        exit_code: Option<i64>,
        /// The signal that ended it.
        signal: Option<i64>,
        /// It was killed because its time was over.
        timed_out: bool,
    },
    /// What becomes of it will not be known.
    Lost {
        /// Why.
        reason: String,
    },
}

#[derive(Debug)]
struct Inner {
    state: ProcessState,
    ended_at: Option<SystemTime>,
    /// Nothing more will come.
    complete: bool,
    streams: [Option<Stream>; 2],
    /// How far the guest has each of them.
    guest: [OutputState; 2],
    /// How far readers have taken each of them.
    taken: [u64; 2],
    readers: Vec<(u64, [Option<u64>; 2])>,
    next_reader: u64,
    input: Option<Input>,
    writer: u64,
}

/// A process at one moment.
#[derive(Clone, Debug)]
pub struct ProcessView {
    /// Where it stands.
    pub state: ProcessState,
    /// When its end was seen.
    pub ended_at: Option<SystemTime>,
    /// Whether nothing more will come of it.
    pub complete: bool,
    /// Standard output and standard error, where they are kept.
    pub streams: [Option<OutputState>; 2],
    /// Standard input, where that is or was open.
    pub input: Option<Input>,
}

/// What there is to say of a process that has just started, or was found.
pub(super) struct Start {
    pub(super) pid: i64,
    pub(super) owner: Option<Principal>,
    pub(super) program: String,
    pub(super) started_at: SystemTime,
    pub(super) pty: bool,
    pub(super) way: Way,
    pub(super) overflow: Overflow,
    pub(super) streams: [Option<u64>; 2],
    pub(super) input: Option<Input>,
    pub(super) room: usize,
    pub(super) pump: Arc<Notify>,
}

/// Which streams a way of capturing keeps, each from its beginning.
pub(super) fn kept(capture: CaptureOutput, pty: bool) -> [Option<u64>; 2] {
    match capture {
        _ if pty => [Some(0), None],
        CaptureOutput::None => [None, None],
        CaptureOutput::Stdout | CaptureOutput::Merged => [Some(0), None],
        CaptureOutput::Stderr => [None, Some(0)],
        CaptureOutput::Separated => [Some(0), Some(0)],
    }
}

/// A stream's place in arrays.
pub(super) const fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

pub(super) const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

impl Process {
    pub(super) fn new(start: Start) -> Self {
        let Start { pid, owner, mut program, started_at, pty, way, overflow, room, pump, .. } =
            start;
        if let Some((cut, _)) = program.char_indices().nth(MAX_PROGRAM) {
            program.truncate(cut);
        }
        let inner = Inner {
            state: ProcessState::Running,
            ended_at: None,
            complete: false,
            streams: start.streams.map(|from| from.map(Stream::from)),
            guest: [OutputState::default(); 2],
            taken: start.streams.map(Option::unwrap_or_default),
            readers: Vec::new(),
            next_reader: 0,
            input: start.input,
            writer: 0,
        };
        Self {
            pid,
            owner,
            program,
            started_at,
            pty,
            way,
            overflow,
            room,
            pump,
            inner: Mutex::new(inner),
            news: watch::channel(()).0,
            input: tokio::sync::Mutex::default(),
        }
    }

    /// Whether its output can be read, and its input written, while it runs.
    pub fn streams(&self) -> bool {
        matches!(self.way, Way::Extension { .. })
    }

    /// Whether some of its output will never come.
    pub fn is_cut(&self) -> bool {
        let inner = self.lock();
        inner.complete && inner.streams.iter().flatten().any(|stream| !stream.eof)
    }

    /// How it stands now.
    pub fn view(&self) -> ProcessView {
        let inner = self.lock();
        let state = |stream: &Stream| OutputState {
            start: stream.start(),
            end: stream.end(),
            eof: stream.eof || inner.complete,
        };
        ProcessView {
            state: inner.state.clone(),
            ended_at: inner.ended_at,
            complete: inner.complete,
            streams: [0, 1].map(|n| inner.streams[n].as_ref().map(state)),
            input: inner.input,
        }
    }

    /// All that is kept of a stream, with where it begins.
    pub fn output(&self, stream: OutputStream) -> Option<(u64, Vec<u8>)> {
        let inner = self.lock();
        let stream = inner.streams[index(stream)].as_ref()?;
        Some(stream.read(0, usize::MAX).unwrap_or_else(|| (stream.end(), Vec::new())))
    }

    /// Returns once nothing more will come of it.
    pub async fn completed(&self) {
        let mut news = self.news();
        while !self.is_complete() {
            // Its sender is here.
            let _ = news.changed().await;
        }
    }

    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.lock().complete
    }

    pub(super) fn handle(&self) -> Option<i64> {
        match self.way {
            Way::Extension { handle, .. } => Some(handle),
            Way::Stock { .. } => None,
        }
    }

    /// Bytes of output held, both streams together.
    pub(super) fn held(&self) -> usize {
        self.lock().streams.iter().flatten().map(Stream::held).sum()
    }

    /// Takes the guest's word on where it stands. Returns whether that is its end.
    pub(super) fn stands(&self, program: &XExecProgram) -> bool {
        let mut inner = self.lock();
        if inner.complete {
            return false;
        }
        for (n, said) in [program.stdout, program.stderr].into_iter().enumerate() {
            let Some(said) = said else {
                // The guest keeps no such stream.
                if let Some(stream) = &mut inner.streams[n] {
                    stream.eof = true;
                }
                continue;
            };
            let guest = &mut inner.guest[n];
            guest.end = guest.end.max(said.end.min(MAX_OFFSET));
            guest.eof |= said.eof;
        }
        if let Some(input) = &mut inner.input {
            match program.stdin {
                Some(said) => input.room = said.room,
                // It has closed it, or has gone.
                None => input.closed = true,
            }
        }
        let ended = program.exited && inner.state == ProcessState::Running;
        if ended {
            inner.state = ProcessState::Exited {
                exit_code: program.exitcode,
                signal: program.signal,
                timed_out: program.timed_out,
            };
            inner.ended_at = Some(SystemTime::now());
        }
        drop(inner);
        self.settle();
        ended
    }

    /// Takes a stretch of output.
    pub(super) fn received(&self, stream: OutputStream, offset: u64, bytes: &[u8], eof: bool) {
        let n = index(stream);
        let mut inner = self.lock();
        let taken = inner.taken[n];
        let Some(stream) = &mut inner.streams[n] else { return };
        stream.push(offset, bytes);
        stream.eof |= eof;
        let until = match self.overflow {
            Overflow::Drop => u64::MAX,
            Overflow::Wait => taken,
        };
        stream.trim(self.room, until);
        let end = stream.end();
        inner.guest[n].end = inner.guest[n].end.max(end);
        inner.guest[n].eof |= eof;
        drop(inner);
        self.settle();
    }

    /// Takes the result of a program that was started by `guest-exec`.
    pub(super) fn ended(&self, status: ExecStatus) {
        for (stream, data) in [
            (OutputStream::Stdout, status.out_data.unwrap_or_default()),
            (OutputStream::Stderr, status.err_data.unwrap_or_default()),
        ] {
            self.received(stream, 0, &data.0, true);
        }
        let mut inner = self.lock();
        inner.state = ProcessState::Exited {
            exit_code: status.exitcode,
            signal: status.signal,
            timed_out: false,
        };
        inner.ended_at = Some(SystemTime::now());
        drop(inner);
        self.settle();
    }

    /// What becomes of it will not be known. Changes nothing about one that is complete.
    pub(super) fn lose(&self, reason: &str) {
        let mut inner = self.lock();
        if inner.complete {
            return;
        }
        if inner.state == ProcessState::Running {
            inner.state = ProcessState::Lost { reason: printable(reason) };
            inner.ended_at = Some(SystemTime::now());
        }
        if let Some(input) = &mut inner.input {
            input.closed = true;
        }
        inner.complete = true;
        drop(inner);
        self.news.send_replace(());
    }

    /// Completes it if all that it had is here, and tells who waits for news.
    fn settle(&self) {
        let mut inner = self.lock();
        let exited = matches!(inner.state, ProcessState::Exited { .. });
        if exited && inner.streams.iter().flatten().all(|stream| stream.eof) {
            inner.complete = true;
            if let Some(input) = &mut inner.input {
                input.closed = true;
            }
        }
        drop(inner);
        self.news.send_replace(());
    }

    /// From where to read a stream in the guest, and how much there is room for; none if nothing is
    /// wanted of it now.
    pub(super) fn wants(&self, stream: OutputStream) -> Option<Wanted> {
        let n = index(stream);
        let inner = self.lock();
        let kept = inner.streams[n].as_ref().filter(|stream| !stream.eof && !inner.complete)?;
        let unread = usize::try_from(kept.end().saturating_sub(inner.taken[n]));
        let room = match self.overflow {
            Overflow::Drop => self.room,
            // Half of what is kept has been taken already: for readers that lost some of it.
            Overflow::Wait => (self.room / 2).saturating_sub(unread.unwrap_or(usize::MAX)),
        };
        let there = inner.guest[n];
        let pending = there.end > kept.end() || there.eof;
        (room > 0).then(|| Wanted { offset: kept.end(), room, pending })
    }

    pub(super) fn is_exited(&self) -> bool {
        self.lock().state != ProcessState::Running
    }

    /// Nothing panics under this lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to fetch of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) offset: u64,
    pub(super) room: usize,
    /// There is something.
    pub(super) pending: bool,
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Exited { .. } => "exited",
            Self::Lost { .. } => "lost",
        })
    }
}
