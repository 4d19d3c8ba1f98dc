//! One program: its streams, where it stands, and what is still to be done about it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use qga_proto::command::{Known, OutputState, Overflow, XExecProgram};
use rustix::event::epoll::EventFlags;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpid,
};

use super::UNATTENDED;
use super::input::Input;
use super::ring::Ring;
use super::source::Source;
use crate::exec::record::{End, INPUT};

/// Between looks at what may be left of a program: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(30);

/// A program that was started. Its own process is not waited for as long as anything else of its
/// session is left, so that its number cannot become somebody else's.
#[derive(Debug)]
pub(in crate::exec) struct Live {
    pub(super) handle: u32,
    pub(super) pid: Pid,
    pub(super) name: String,
    pub(super) started: Instant,
    /// Its place on the roster.
    pub(super) place: u16,
    /// Readable once it has ended. Kernels before 5.3 have none.
    pub(super) process: Option<Source>,
    pub(super) end: Option<End>,
    /// Nothing of its session is left, and its number may be somebody else's.
    pub(super) reaped: bool,
    pub(super) outputs: [Option<Output>; 2],
    pub(super) stdin: Stdin,
    pub(super) pty: bool,
    pub(super) overflow: Overflow,
    pub(super) deadline: Option<Instant>,
    pub(super) timed_out: bool,
    /// Everything of it is to go.
    pub(super) killing: bool,
    /// Nobody can ask about it any more.
    pub(super) forgotten: bool,
    /// When to look at its session again, and how long it was waited for that.
    pub(super) look: Option<(Instant, Duration)>,
    /// Somebody has asked for it, or it has become finished.
    pub(super) touched: Instant,
}

/// A stream of output.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` at its end.
    pub(super) source: Option<Source>,
    pub(super) ring: Ring,
    /// If not, it is read and dropped.
    pub(super) kept: bool,
    /// There is no room, and the program waits.
    pub(super) paused: bool,
}

/// Standard input.
#[derive(Debug)]
pub(super) enum Stdin {
    /// Taken up to there.
    Closed(u64),
    Pipe(Source, Input),
    /// Its end is that of standard output.
    Terminal(Input),
}

impl Stdin {
    pub(super) fn input(&self) -> Option<&Input> {
        match self {
            Self::Closed(_) => None,
            Self::Pipe(_, input) | Self::Terminal(input) => Some(input),
        }
    }

    pub(super) fn input_mut(&mut self) -> Option<&mut Input> {
        match self {
            Self::Closed(_) => None,
            Self::Pipe(_, input) | Self::Terminal(input) => Some(input),
        }
    }

    /// Bytes taken so far.
    pub(super) fn taken(&self) -> u64 {
        match self {
            Self::Closed(taken) => *taken,
            Self::Pipe(_, input) | Self::Terminal(input) => input.taken(),
        }
    }
}

impl Output {
    fn state(&self) -> Option<OutputState> {
        let eof = self.source.is_none();
        self.kept.then(|| OutputState { start: self.ring.start(), end: self.ring.end(), eof })
    }
}

impl Live {
    /// Ended, and nobody holds its output open any more.
    pub(in crate::exec) fn is_finished(&self) -> bool {
        self.end.is_some() && self.outputs.iter().flatten().all(|output| output.source.is_none())
    }

    /// Whether it takes a place among the running programs.
    pub(in crate::exec) fn is_running(&self) -> bool {
        self.forgotten || !self.is_finished()
    }

    /// When it is hung up unless somebody asks about it.
    pub(super) fn hangs_up(&self) -> Option<Instant> {
        let attended = self.pty && !self.killing && !self.is_finished();
        attended.then(|| self.touched + UNATTENDED)
    }

    /// SIGHUP to its group, and SIGKILL to what is left of it after `grace`.
    pub(super) fn hang_up(&mut self, now: Instant, grace: Duration) {
        self.killing = true;
        self.look = Some((now + grace, grace));
        // As long as it is not waited for, the number is its own.
        if !self.reaped {
            let _ = kill_process_group(self.pid, Signal::HUP);
            // One that is stopped would not hear of it.
            let _ = kill_process_group(self.pid, Signal::CONT);
        }
    }

    /// Whether clients know of it.
    pub(in crate::exec) fn is_known(&self) -> bool {
        !self.forgotten
    }

    /// Whether nothing tells of its end.
    pub(in crate::exec) fn is_unseen(&self) -> bool {
        self.end.is_none() && self.process.is_none()
    }

    /// Bytes held for it.
    pub(super) fn held(&self) -> usize {
        let output: usize = self.outputs.iter().flatten().map(|output| output.ring.len()).sum();
        output + self.stdin.input().map_or(0, Input::len)
    }

    /// Takes note of its end, if it has ended. It is not waited for yet.
    pub(super) fn note_end(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if self.end.is_some() {
            return;
        }
        self.end = match waitid(WaitId::Pid(self.pid), options) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Some(End::Exit(code)),
                (None, Some(signal)) => Some(End::Signal(signal)),
                (None, None) => return,
            },
            Err(rustix::io::Errno::CHILD) => {
                self.reaped = true;
                Some(End::Unknown)
            }
            Ok(None) | Err(_) => return,
        };
    }

    /// Lets its number go.
    pub(super) fn reap(&mut self) {
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
        self.reaped = true;
        self.look = None;
    }

    /// Sets when to look again: each time twice as late.
    pub(super) fn look_later(&mut self, now: Instant) {
        let pause = self.look.map_or(FIRST_LOOK, |(_, pause)| (2 * pause).min(LAST_LOOK));
        self.look = Some((now + pause, pause));
    }

    /// Writes what goes to standard input, and closes it where it ends.
    pub(super) fn write(&mut self, epoll: &OwnedFd) {
        let goes_on = match &mut self.stdin {
            Stdin::Closed(_) => return,
            Stdin::Pipe(to, input) => input.write(to.fd()) && !input.is_over(),
            Stdin::Terminal(input) => {
                let terminal = self.outputs[0].as_ref().and_then(|output| output.source.as_ref());
                terminal.is_some_and(|terminal| input.write(terminal.fd()))
            }
        };
        if !goes_on {
            self.close_input(epoll);
        }
    }

    pub(super) fn close_input(&mut self, epoll: &OwnedFd) {
        let taken = self.stdin.taken();
        if let Stdin::Pipe(source, _) = std::mem::replace(&mut self.stdin, Stdin::Closed(taken)) {
            source.close(epoll);
        }
    }

    /// Lets go of all descriptors and of what is kept.
    pub(super) fn drop_streams(&mut self, epoll: &OwnedFd) {
        self.close_input(epoll);
        for output in self.outputs.iter_mut().filter_map(Option::take) {
            if let Some(source) = output.source {
                source.close(epoll);
            }
        }
    }

    /// Waits for exactly what can be dealt with.
    pub(super) fn watch(&mut self, epoll: &OwnedFd) {
        let to_write = self.stdin.input().is_some_and(Input::is_waiting);
        let out = if to_write { EventFlags::OUT } else { EventFlags::empty() };
        if let Stdin::Pipe(source, _) = &mut self.stdin {
            source.watch(epoll, out);
        }
        for output in self.outputs.iter_mut().flatten() {
            let mut flags = if output.paused { EventFlags::empty() } else { EventFlags::IN };
            if self.pty {
                flags |= out;
            }
            if let Some(source) = &mut output.source {
                source.watch(epoll, flags);
            }
        }
        if let Some(process) = &mut self.process {
            process.watch(epoll, EventFlags::IN);
        }
    }

    /// Whether there is more than `known` says.
    pub(super) fn has_news(&self, known: &Known) -> bool {
        let beyond = |place: usize, up_to: Option<u64>| {
            let state = self.outputs[place].as_ref().and_then(Output::state);
            state.zip(up_to).is_some_and(|(state, up_to)| state.eof || state.end > up_to)
        };
        let input = self.stdin.input();
        beyond(0, known.stdout)
            || beyond(1, known.stderr)
            || known.end == Some(true) && self.end.is_some()
            || known.stdin == Some(true) && input.is_none_or(|input| input.state().room > 0)
    }

    pub(super) fn describe(&self, now: Instant) -> XExecProgram {
        let (exitcode, signal) = match self.end {
            Some(End::Exit(code)) => (Some(code.into()), None),
            Some(End::Signal(signal)) => (None, Some(signal.into())),
            Some(End::Unknown) | None => (None, None),
        };
        let output = |place: usize| self.outputs[place].as_ref().and_then(Output::state);
        let open = |input: &&Input| !input.ends();
        XExecProgram {
            handle: self.handle.into(),
            pid: self.pid.as_raw_nonzero().get().into(),
            program: self.name.clone(),
            // Milliseconds of a process's life.
            age_ms: u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX),
            exited: self.end.is_some(),
            exitcode,
            signal,
            timed_out: self.timed_out,
            pty: self.pty,
            stdout: output(0),
            stderr: output(1),
            stdin: self.stdin.input().filter(open).map(Input::state),
        }
    }
}

/// The token of one of a program's sources. The upper half of those of `guest-exec` is a process's
/// number, which is never that large.
pub(in crate::exec) fn token(handle: u32, source: usize) -> u64 {
    u64::from(LIVE | handle) << 32 | source as u64
}

/// Handle and source of a token, if it is one of these.
pub(in crate::exec) fn of_token(token: u64) -> Option<(u32, usize)> {
    // Both halves fit, because `token` made them.
    let upper = u32::try_from(token >> 32).unwrap_or(0);
    let source = usize::try_from(token & u64::from(u32::MAX)).unwrap_or(INPUT);
    (upper & LIVE != 0).then_some((upper & !LIVE, source))
}

const LIVE: u32 = 1 << 31;
