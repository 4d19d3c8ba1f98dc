//! All programs that were started, until their results have been fetched.
//!
//! ```text
//!            started           ended, and its output closed        guest-exec-status
//!   starting ───────▶ running ────────────────────────────▶ finished ──────────────▶ gone
//!       │ failed                                               │ expired
//!       ▼                                                      ▼
//!      gone                                                   gone
//! ```
//!
//! A start that takes too long is answered with an error; should it still succeed, the program is
//! killed, because nobody knows of it.
//!
//! A finished program expires only when its place or its bytes are needed for another one, and
//! then the one first that has been finished for longest. So programs that nobody asks about
//! cannot fill the table. If what is finished does not make enough room, a new program is refused;
//! output beyond what may be held is dropped, and reported as truncated.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use qga_proto::command::{ExecStarted, ExecStatus};
use qga_proto::{Outcome, QgaError};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{self, Errno};
use rustix::process::{Signal, kill_process};

use super::live::{self, Lives};
use super::record::{ERRORS, INPUT, OUTPUT, Record};
use super::{Executor, Fresh, Limits, Message, Order, not_executed};
use crate::policy::Policy;
use crate::worker::Reply;
use crate::{errno, log, sys};

/// Token of the inbox; programs have their pid in the upper half and the source in the lower.
const INBOX: u64 = u64::MAX;
/// The lower half of the token of a program's end; its streams have their numbers.
pub(super) const END: usize = 3;
/// What is read at once.
pub(super) const PIECE: usize = 64 << 10;
/// How often an end is looked for that has no descriptor.
const GLANCE: Duration = Duration::from_millis(50);
/// Bytes of stack of a thread that starts one program.
const START_STACK: usize = 64 << 10;
/// What expires with more bytes than this is worth giving back to the kernel.
const LARGE: usize = 1 << 20;

/// A program that a thread is starting.
pub(super) struct Starting {
    /// Bytes of input held for it.
    bytes: usize,
    since: Instant,
    /// Its place on the roster, if it is one of ours.
    place: Option<u16>,
    /// What its client is told if it takes too long.
    late: QgaError,
    /// `None`: its client has been told that it takes too long.
    reply: Option<Reply>,
}

/// A start that is to be carried out on a thread of its own.
pub(super) struct Work {
    pub(super) bytes: usize,
    pub(super) place: Option<u16>,
    pub(super) late: QgaError,
    pub(super) carry_out: Box<dyn FnOnce() -> Result<Fresh, QgaError> + Send>,
}

/// A finished program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finished {
    Plain(i32),
    Live(u32),
}

/// The programs. It belongs to the exec thread.
pub(crate) struct Programs {
    executor: Executor,
    pub(super) limits: Limits,
    pub(super) policy: Arc<Policy>,
    pub(super) epoll: OwnedFd,
    records: BTreeMap<i32, Record>,
    pub(super) live: Lives,
    /// The finished ones, in the order in which they finished.
    pub(super) finished: VecDeque<Finished>,
    /// Programs that a thread is starting, by number, which grows.
    pub(super) starting: BTreeMap<u64, Starting>,
    starts: u64,
    /// Bytes held for all of them, those of the input of starting ones included.
    pub(super) held: usize,
    pub(super) buffer: Vec<u8>,
}

impl Programs {
    pub(super) fn new(
        executor: Executor,
        limits: Limits,
        policy: Arc<Policy>,
        live: Lives,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &executor.wake, EventData::new_u64(INBOX), EventFlags::IN)?;
        Ok(Self {
            executor,
            limits,
            policy,
            epoll,
            records: BTreeMap::new(),
            live,
            finished: VecDeque::new(),
            starting: BTreeMap::new(),
            starts: 0,
            held: 0,
            buffer: vec![0; PIECE],
        })
    }

    /// Starts a program; the reply follows when that has succeeded or failed.
    pub(crate) fn start(&mut self, order: Order, reply: Reply) {
        let name = order.program.name();
        if !self.policy.may_exec(Path::new(name)) {
            let error = format!(
                "Failed to execute child process “{name}” (the agent's policy does not allow this \
                 program)"
            );
            return reply.send(Outcome::Error(QgaError::generic(error)));
        }
        let work = Work {
            bytes: order.input.as_ref().map_or(0, Vec::len),
            place: None,
            late: not_executed(name, Errno::TIMEDOUT),
            carry_out: Box::new(|| order.carry_out()),
        };
        if let Err((error, reply)) = self.begin(work, reply) {
            reply.send(Outcome::Error(error));
        }
    }

    /// Begins a start, if there is room for one more.
    pub(super) fn begin(&mut self, work: Work, reply: Reply) -> Result<(), (QgaError, Reply)> {
        let Work { bytes, place, late, carry_out } = work;
        if let Err(error) = self.admit(bytes) {
            return Err((error, reply));
        }
        self.held += bytes;
        self.starts += 1;
        let number = self.starts;
        let since = Instant::now();
        let starting = Starting { bytes, since, place, late, reply: Some(reply) };
        self.starting.insert(number, starting);
        let executor = self.executor.clone();
        let thread = std::thread::Builder::new().name("start".into()).stack_size(START_STACK);
        let spawned = thread.spawn(move || executor.started(number, carry_out()));
        if let Err(e) = spawned {
            let error = QgaError::generic(format!("Failed to fork ({})", errno::of(&e)));
            self.started(number, Err(error));
        }
        Ok(())
    }

    /// The state of a program; what is finished is given away with it.
    pub(crate) fn status(&mut self, pid: i64) -> Result<ExecStatus, QgaError> {
        let pid = i32::try_from(pid).unwrap_or(-1);
        let Some(record) = self.records.get(&pid) else {
            return Err(QgaError::generic("PID ld does not exist"));
        };
        if !record.is_finished() {
            return Ok(ExecStatus::default());
        }
        self.remove(pid).map(Record::into_status).ok_or_else(|| QgaError::generic("no record"))
    }

    /// Serves until nobody can send anything any more.
    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        self.live.end_predecessors();
        let mut events = Vec::with_capacity(64);
        while self.turn(inbox, &mut events) {}
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self, inbox: &Receiver<Message>, events: &mut Vec<epoll::Event>) -> bool {
        let unseen = self.records.values().any(|r| r.end.is_none() && r.pidfd.is_none())
            || self.live.records.values().any(live::Live::is_unseen);
        events.clear();
        let timeout = self.timeout(unseen);
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => {
                log::critical(format_args!("epoll: {}", errno::text(e)));
                return false;
            }
        }
        for event in events.iter() {
            match event.data.u64() {
                INBOX => self.take_messages(inbox),
                token => self.attend(token),
            }
        }
        if unseen {
            self.look_for_ends();
            self.look_for_live_ends();
        }
        self.give_up_on_starts();
        self.tick_live();
        true
    }

    fn take_messages(&mut self, inbox: &Receiver<Message>) {
        let _ = io::read(&self.executor.wake, &mut [0_u8; 8]);
        for message in inbox.try_iter() {
            match message {
                Message::Ask(ask, request, reply) => ask(self, &request, reply),
                Message::Started(number, result) => self.started(number, result),
                Message::End(done) => self.end_all(done),
            }
        }
    }

    fn started(&mut self, number: u64, result: Result<Fresh, QgaError>) {
        let Some(Starting { bytes, place, reply, .. }) = self.starting.remove(&number) else {
            return;
        };
        let outcome = match (result, place) {
            (Ok(Fresh::Plain(child)), _) => {
                let pid = child.pid.as_raw_nonzero().get();
                if reply.is_none() {
                    // Its process cannot have become another one: nobody has waited for it.
                    let _ = kill_process(child.pid, Signal::KILL);
                }
                // The number is in use again: nobody can mean the old one any more.
                self.remove(pid);
                self.enter(pid, Record::new(child));
                Outcome::value(&ExecStarted { pid: pid.into() })
            }
            (Ok(Fresh::Live(fresh)), place) => {
                self.enter_live(*fresh, place.unwrap_or(u16::MAX), reply.is_some())
            }
            (Err(error), place) => {
                self.held -= bytes;
                if let Some(place) = place {
                    self.live.give_back(place);
                }
                Outcome::Error(error)
            }
        };
        if let Some(reply) = reply {
            reply.send(outcome);
        }
    }

    /// Answers those who wait for starts that take too long.
    pub(super) fn give_up_on_starts(&mut self) {
        let patience = self.limits.patience;
        for starting in self.starting.values_mut() {
            if starting.since.elapsed() >= patience
                && let Some(reply) = starting.reply.take()
            {
                reply.send(Outcome::Error(starting.late.clone()));
            }
        }
    }

    /// When to look again although nothing happens.
    fn timeout(&self, unseen: bool) -> Option<Timespec> {
        let glance = unseen.then_some(GLANCE);
        let waiting = self.starting.values().find(|starting| starting.reply.is_some());
        let left =
            waiting.map(|starting| self.limits.patience.saturating_sub(starting.since.elapsed()));
        let now = Instant::now();
        let live = self.live.next_event().map(|at| at.saturating_duration_since(now));
        let timeout = glance.into_iter().chain(left).chain(live).min()?;
        // Only far-off times do not convert.
        Timespec::try_from(timeout).ok()
    }

    fn enter(&mut self, pid: i32, record: Record) {
        let sources = record.pipes.iter().chain([&record.pidfd]).enumerate();
        for (source, fd) in sources {
            let flags = if source == INPUT { EventFlags::OUT } else { EventFlags::IN };
            if let Some(fd) = fd
                && let Err(e) =
                    epoll::add(&self.epoll, fd, EventData::new_u64(token(pid, source)), flags)
            {
                log::critical(format_args!("epoll: {}", errno::text(e)));
            }
        }
        self.records.insert(pid, record);
        self.settle(pid);
    }

    fn attend(&mut self, token: u64) {
        if let Some((handle, source)) = live::of_token(token) {
            return self.attend_live(handle, source);
        }
        let (pid, source) = of_token(token);
        match source {
            INPUT => self.write(pid),
            OUTPUT | ERRORS => self.read(pid, source),
            _ => self.reap(pid),
        }
        self.settle(pid);
    }

    fn write(&mut self, pid: i32) {
        let Some(record) = self.records.get_mut(&pid) else { return };
        if !record.write() {
            self.held -= std::mem::take(&mut record.input).len();
            close(&self.epoll, &mut record.pipes[INPUT]);
        }
    }

    fn read(&mut self, pid: i32, stream: usize) {
        let Some(record) = self.records.get_mut(&pid) else { return };
        let Some(pipe) = &record.pipes[stream] else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        match io::read(pipe, &mut buffer[..]) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(0) | Err(_) => close(&self.epoll, &mut record.pipes[stream]),
            Ok(n) => self.keep(pid, stream - OUTPUT, &buffer[..n]),
        }
        self.buffer = buffer;
    }

    fn keep(&mut self, pid: i32, stream: usize, bytes: &[u8]) {
        let limit = self.limits.stream;
        let Some(record) = self.records.get(&pid) else { return };
        let wanted = bytes.len().min(limit - record.kept[stream].bytes.len());
        self.make_room(wanted);
        let wanted = wanted.min(self.limits.held.saturating_sub(self.held));
        let Some(record) = self.records.get_mut(&pid) else { return };
        let kept = &mut record.kept[stream];
        kept.truncated |= wanted < bytes.len();
        kept.push(&bytes[..wanted], limit);
        self.held += wanted;
    }

    fn reap(&mut self, pid: i32) {
        let Some(record) = self.records.get_mut(&pid) else { return };
        record.reap();
        if record.end.is_some() {
            close(&self.epoll, &mut record.pidfd);
        }
    }

    /// Only for programs whose end no descriptor tells.
    fn look_for_ends(&mut self) {
        let running = self.records.values().filter(|record| record.end.is_none());
        let pids: Vec<_> = running.map(|record| record.pid.as_raw_nonzero().get()).collect();
        for pid in pids {
            self.reap(pid);
            self.settle(pid);
        }
    }

    /// Takes note of it once, when a program has become finished.
    fn settle(&mut self, pid: i32) {
        let Some(record) = self.records.get_mut(&pid) else { return };
        let mark = Finished::Plain(pid);
        if record.is_finished() && !self.finished.contains(&mark) {
            record.kept.iter_mut().for_each(|kept| kept.bytes.shrink_to_fit());
            self.finished.push_back(mark);
        }
    }

    /// Makes room for one more program with that much input.
    fn admit(&mut self, bytes: usize) -> Result<(), QgaError> {
        let Limits { running, records, held, .. } = self.limits;
        let live = self.live.records.values();
        let runs = self.starting.len()
            + self.records.values().filter(|record| record.is_running()).count()
            + live.clone().filter(|live| live.is_running()).count();
        if runs >= running {
            let text = format!("{running} programs are running already, which is the limit");
            return Err(QgaError::generic(text));
        }
        let known = live.filter(|live| live.is_known()).count();
        let mut places = self.records.len() + self.starting.len() + known;
        while places >= records && self.expire() {
            places -= 1;
        }
        self.make_room(bytes);
        if bytes > 0 && self.held + bytes > held {
            let text = format!(
                "running programs hold {} bytes of input and output already; the limit is {held}",
                self.held
            );
            return Err(QgaError::generic(text));
        }
        Ok(())
    }

    pub(super) fn make_room(&mut self, bytes: usize) {
        while self.held + bytes > self.limits.held && self.expire() {}
    }

    /// Lets go of the result that has waited for longest.
    fn expire(&mut self) -> bool {
        let Some(&oldest) = self.finished.front() else { return false };
        let before = self.held;
        match oldest {
            Finished::Plain(pid) => {
                self.remove(pid);
                log::info(format_args!(
                    "guest-exec: the result of process {pid} was never fetched"
                ));
            }
            Finished::Live(handle) => {
                self.forget_live(handle);
                log::info(format_args!("x-guest-exec: program {handle} was never forgotten"));
            }
        }
        let bytes = before - self.held;
        if bytes >= LARGE {
            sys::memory::give_back();
        }
        true
    }

    fn remove(&mut self, pid: i32) -> Option<Record> {
        self.finished.retain(|finished| *finished != Finished::Plain(pid));
        let mut record = self.records.remove(&pid)?;
        self.held -= record.held();
        for fd in record.pipes.iter_mut().chain([&mut record.pidfd]) {
            close(&self.epoll, fd);
        }
        Some(record)
    }
}

/// A process that is just being started has copies of all descriptors until it executes, and an
/// epoll watches a descriptor until its last copy is closed: so it is taken out first.
fn close(epoll: &OwnedFd, fd: &mut Option<OwnedFd>) {
    if let Some(fd) = fd.take() {
        let _ = epoll::delete(epoll, &fd);
    }
}

fn token(pid: i32, source: usize) -> u64 {
    u64::from(pid.cast_unsigned()) << 32 | source as u64
}

fn of_token(token: u64) -> (i32, usize) {
    // Both halves fit, because `token` made them.
    let pid = i32::try_from(token >> 32).unwrap_or(0);
    (pid, usize::try_from(token & u64::from(u32::MAX)).unwrap_or(END))
}

#[cfg(test)]
pub(super) mod tests;
