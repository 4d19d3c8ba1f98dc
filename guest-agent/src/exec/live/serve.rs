//! What the exec thread does for these programs: moves their bytes, and looks after their ends.

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use qga_proto::command::{CaptureOutput, Overflow, XExecNews, XExecProgram, XExecStarted};
use qga_proto::{Outcome, QgaError};
use rustix::io::{self, Errno};
use rustix::process::{Signal, kill_process_group};

use super::input::Input;
use super::order::Fresh;
use super::record::{Live, Output, Stdin, token};
use super::ring::Ring;
use super::source::Source;
use super::{FLOOR, GRACE, HANG_UP, KEPT, Order, RING, named};
use crate::exec::record::{ERRORS, INPUT, OUTPUT};
use crate::exec::table::{END, Finished, PIECE, Work};
use crate::exec::{self, Programs};
use crate::kin;
use crate::log;
use crate::worker::Reply;

impl Programs {
    /// Starts a program; the reply follows when that has succeeded or failed.
    pub(crate) fn start_live(&mut self, order: Order, reply: Reply) {
        let name = order.name.clone();
        let failed = |why: &str| format!("failed to start '{name}': {why}");
        if !self.policy.may_exec(name.as_ref()) {
            let text = failed("the agent's policy does not allow this program");
            return reply.send(Outcome::Error(named(text, Errno::ACCESS)));
        }
        if self.live.next >= u32::MAX >> 1 {
            let text = failed("this agent has no handles left; it has to be restarted");
            return reply.send(Outcome::Error(named(text, Errno::OVERFLOW)));
        }
        let patience = self.limits.patience.as_secs();
        let late = named(
            failed(&format!("its filesystem or a name service has not answered in {patience} s")),
            Errno::TIMEDOUT,
        );
        let bytes = order.input.len();
        let place = self.live.roster.take();
        let described = self.live.roster.place(place);
        let work = Work {
            bytes,
            place: Some(place),
            late,
            carry_out: Box::new(move || {
                order.carry_out(&described).map(|fresh| exec::Fresh::Live(Box::new(fresh)))
            }),
        };
        self.begin(work, reply).unwrap_or_else(|(error, reply)| {
            self.live.roster.give_back(place);
            let text = failed(&error.desc);
            reply.send(Outcome::Error(named(text, Errno::AGAIN)));
        });
    }

    /// A program was started. Nobody knows of it if nobody is `wanted` any more.
    pub(in crate::exec) fn enter_live(
        &mut self,
        fresh: Fresh,
        place: u16,
        wanted: bool,
    ) -> Outcome {
        let handle = self.live.next;
        self.live.next += 1;
        let live = Live::new(fresh, handle, place);
        let pid = live.pid;
        self.live.records.insert(handle, live);
        self.write_live(handle);
        self.settle_live(handle);
        if !wanted || self.live.ending.is_some() {
            self.forget_live(handle);
        }
        Outcome::value(&XExecStarted {
            handle: handle.into(),
            pid: pid.as_raw_nonzero().get().into(),
            agent_instance: self.live.instance.clone(),
        })
    }

    /// Something has happened to one of a program's sources.
    pub(in crate::exec) fn attend_live(&mut self, handle: u32, source: usize) {
        match source {
            INPUT => self.write_live(handle),
            OUTPUT | ERRORS => {
                self.read_live(handle, source - OUTPUT);
                self.write_live(handle);
            }
            _ => self.note_end(handle),
        }
        self.settle_live(handle);
    }

    /// Does what the time has come for.
    pub(in crate::exec) fn tick_live(&mut self) {
        if self.live.records.is_empty() {
            if let Some(ending) = self.live.ending.take() {
                let _ = ending.try_send(());
            }
        } else {
            self.tick_programs(Instant::now());
        }
        let Self { live, .. } = self;
        let now = Instant::now();
        let records = &live.records;
        live.waits.answer(|known| XExecNews {
            ready: known
                .iter()
                .filter_map(|known| {
                    let handle = u32::try_from(known.handle).ok();
                    match handle.and_then(|h| records.get(&h)).filter(|live| live.is_known()) {
                        Some(live) => live.has_news(known).then(|| live.describe(now)),
                        None => Some(unknown(known.handle)),
                    }
                })
                .collect(),
        });
    }

    fn tick_programs(&mut self, now: Instant) {
        let is_due = |live: &Live| {
            live.deadline.is_some_and(|at| at <= now)
                || live.look.is_some_and(|(at, _)| at <= now)
                || live.hangs_up().is_some_and(|at| at <= now)
                || live.is_known() && live.is_finished() && live.touched + KEPT <= now
        };
        let due: Vec<_> = self
            .live
            .records
            .values()
            .filter(|live| is_due(live))
            .map(|live| live.handle)
            .collect();
        for handle in due {
            let Some(live) = self.live.records.get_mut(&handle) else { continue };
            if live.is_known() && live.is_finished() && live.touched + KEPT <= now {
                self.forget_live(handle);
                continue;
            }
            if live.hangs_up().is_some_and(|at| at <= now) {
                log::info(format_args!("'{}' is hung up: nobody attends its terminal", live.name));
                live.hang_up(now, HANG_UP);
                continue;
            }
            if live.deadline.is_some_and(|at| at <= now) {
                live.deadline = None;
                if !live.reaped {
                    live.timed_out = !live.is_finished();
                    live.killing = true;
                    live.look = None;
                    log::info(format_args!("'{}' is killed: its time is over", live.name));
                }
            }
            self.look_at(handle);
        }
    }

    /// Looks for ends that no descriptor tells.
    pub(in crate::exec) fn look_for_live_ends(&mut self) {
        let unseen = self.live.records.values().filter(|live| live.is_unseen());
        let handles: Vec<_> = unseen.map(|live| live.handle).collect();
        for handle in handles {
            self.note_end(handle);
            self.settle_live(handle);
        }
    }

    /// Kills what is left of a program, and forgets it.
    pub(in crate::exec) fn forget_live(&mut self, handle: u32) {
        self.finished.retain(|finished| *finished != Finished::Live(handle));
        let Some(live) = self.live.records.get_mut(&handle) else { return };
        self.held -= live.held();
        live.drop_streams(&self.epoll);
        live.deadline = None;
        live.forgotten = true;
        live.killing = true;
        live.look = None;
        self.live.waits.look();
        self.look_at(handle);
    }

    /// The agent ends: SIGHUP to all, and soon SIGKILL. `done` hears of their end.
    pub(crate) fn end_all(&mut self, done: SyncSender<()>) {
        let now = Instant::now();
        for live in self.live.records.values_mut() {
            self.held -= live.held();
            live.drop_streams(&self.epoll);
            live.deadline = None;
            live.forgotten = true;
            live.hang_up(now, GRACE);
        }
        self.live.records.retain(|_, live| !live.reaped);
        self.live.ending = Some(done);
    }

    /// Looks what is left of a program's session, and kills it if it is to go.
    fn look_at(&mut self, handle: u32) {
        let Some(live) = self.live.records.get_mut(&handle) else { return };
        let mut left = false;
        if !live.reaped && live.killing {
            // Its own process is still there, if only as a zombie, so the number is its own.
            let _ = kill_process_group(live.pid, Signal::KILL);
            left = kin::kill(live.pid);
        } else if !live.reaped && live.end.is_some() {
            left = kin::are_there(live.pid);
        }
        if !live.reaped && live.end.is_some() && !left {
            live.reap();
        }
        if live.reaped {
            self.live.roster.give_back(live.place);
            live.look = None;
            if live.forgotten {
                self.live.records.remove(&handle);
            }
        } else if live.killing || live.end.is_some() {
            live.look_later(Instant::now());
        }
    }

    fn note_end(&mut self, handle: u32) {
        let Some(live) = self.live.records.get_mut(&handle) else { return };
        if live.end.is_some() {
            return;
        }
        live.note_end();
        if live.end.is_some() {
            if let Some(process) = live.process.take() {
                process.close(&self.epoll);
            }
            live.look = None;
            self.look_at(handle);
        }
    }

    pub(super) fn write_live(&mut self, handle: u32) {
        let Some(live) = self.live.records.get_mut(&handle) else { return };
        let before = live.held();
        live.write(&self.epoll);
        self.held -= before - live.held();
    }

    /// Reads what has come, as far as there is room for it.
    fn read_live(&mut self, handle: u32, stream: usize) {
        let output = self.live.records.get(&handle).and_then(|live| live.outputs[stream].as_ref());
        let Some(output) = output.filter(|output| output.source.is_some()) else { return };
        if output.kept {
            self.make_room(PIECE.min(RING - output.ring.len()));
        }
        let room = self.limits.held.saturating_sub(self.held);
        let Some(live) = self.live.records.get_mut(&handle) else { return };
        let waits = live.overflow == Overflow::Wait;
        let Some(output) = &mut live.outputs[stream] else { return };
        let before = output.ring.len();
        let limit = RING.min(before.saturating_add(room).max(FLOOR));
        let wanted = if output.kept && waits { limit.saturating_sub(before) } else { PIECE };
        output.paused = wanted == 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(source) = &output.source
            && wanted > 0
        {
            match io::read(source.fd(), &mut buffer[..wanted.min(PIECE)]) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(0) | Err(_) => {
                    if let Some(source) = output.source.take() {
                        source.close(&self.epoll);
                    }
                }
                Ok(n) if output.kept => {
                    output.ring.push(&buffer[..n], limit);
                    self.held = self.held - before + output.ring.len();
                }
                Ok(_) => {}
            }
        }
        self.buffer = buffer;
    }

    /// After whatever may have changed a program.
    pub(super) fn settle_live(&mut self, handle: u32) {
        let Some(live) = self.live.records.get_mut(&handle).filter(|live| live.is_known()) else {
            return;
        };
        self.live.waits.look();
        if !live.is_finished() {
            return live.watch(&self.epoll);
        }
        let mark = Finished::Live(handle);
        if self.finished.contains(&mark) {
            return;
        }
        self.held -= live.held();
        live.close_input(&self.epoll);
        live.outputs.iter_mut().flatten().for_each(|output| output.ring.shrink());
        self.held += live.held();
        live.touched = Instant::now();
        self.finished.push_back(mark);
        if !live.reaped {
            // Who held its output has just gone, or is about to.
            live.look = None;
            self.look_at(handle);
        }
    }
}

impl Live {
    fn new(fresh: Fresh, handle: u32, place: u16) -> Self {
        let Fresh { order, pid, pidfd, streams } = fresh;
        let Order { name, timeout, capture, overflow, input, keep_stdin, pty, .. } = order;
        let source = |fd, source| Source::new(fd, token(handle, source));
        let [stdin, stdout, stderr] = streams;
        let output = |place, fd| Output {
            source: Some(source(fd, place)),
            ring: Ring::default(),
            kept: capture != CaptureOutput::None,
            paused: false,
        };
        let stdin = match (pty, stdin) {
            (Some(_), _) => Stdin::Terminal(Input::new(input, false)),
            (None, Some(fd)) => Stdin::Pipe(source(fd, INPUT), Input::new(input, !keep_stdin)),
            (None, None) => Stdin::Closed(0),
        };
        let now = Instant::now();
        Self {
            handle,
            pid,
            name,
            started: now,
            place,
            process: pidfd.map(|fd| source(fd, END)),
            end: None,
            reaped: false,
            outputs: [stdout.map(|fd| output(OUTPUT, fd)), stderr.map(|fd| output(ERRORS, fd))],
            stdin,
            pty: pty.is_some(),
            overflow,
            deadline: timeout.and_then(|timeout| now.checked_add(timeout)),
            timed_out: false,
            killing: false,
            forgotten: false,
            look: None,
            touched: now,
        }
    }
}

/// How a program stands that is not there: with process 0, and ended.
fn unknown(handle: i64) -> XExecProgram {
    XExecProgram { handle, exited: true, ..XExecProgram::default() }
}

/// The error for a handle that names no program.
pub(super) fn no_program(handle: i64) -> QgaError {
    named(format!("no program has handle {handle}"), Errno::SRCH)
}
