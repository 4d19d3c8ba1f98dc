//! An agent's end of one channel.
//!
//! Bytes in, [`Job`]s out; [`Outcome`]s in, bytes out. Replies keep the order of the requests,
//! with one exception: a sync overtakes a command that is long or stuck, because it means that
//! the client has given up on everything before it.
//!
//! ```text
//!             feed             poll                complete
//!   bytes ───────────▶ Queued ──────▶ Running ───────────────▶ Done ──▶ output, in order
//!                        │               │
//!                        │ a sync behind it overtakes, or a new client comes
//!                        ▼               ▼
//!                     Deferred        Abandoned     both run to their end, unanswered
//! ```
//!
//! * A command starts when everything before it is done, except those that thaw, which start at
//!   once: they must be able to stop a freeze that hangs. They do not pass a freeze that has not
//!   started, which would then have nobody to thaw it.
//! * A command that yields is answered as soon as a request stands behind it; what it comes to
//!   after that goes nowhere.
//! * Commands that were overtaken still run, in order, without a reply: whoever sent them
//!   meant them. What comes later waits until they are done, but for a second at most, all of them
//!   together: one that never ends must not hold the channel up. What may run while frozen does
//!   not wait at all. That nothing starts next to a freeze is up to the agent's own gate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::command::{Command, CommandInfo, GuestSyncDelimited};
use crate::error::QgaError;
use crate::json::{Deframer, Framed};
use crate::output::{Output, SLICES as OUTPUT_SLICES};
use crate::request::{Envelope, Outcome, Request, write_reply};

/// Requests that may wait; with more the channel is not read.
const MAX_QUEUED: usize = 256;
/// Bytes of requests that may wait; with more the channel is not read.
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// Bytes of replies that may wait for a host that does not read. Beyond, nothing new starts
/// except what thaws.
const MAX_OUTPUT: usize = 4 << 20;
/// A command that is not long by nature counts as stuck after this time: a sync overtakes it. As
/// long is waited for what was overtaken.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Ties an outcome to its request. Later requests of a channel have greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A request that is to be run now.
#[derive(Debug)]
pub struct Job {
    /// To be handed back with the outcome.
    pub ticket: Ticket,
    /// The command.
    pub info: &'static CommandInfo,
    /// Its arguments.
    pub request: Request,
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    id: Option<Vec<u8>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Queued(&'static CommandInfo, Request),
    Running(&'static CommandInfo, Instant),
    /// With the sentinel in front, if this is a delimited sync.
    Done(Outcome, bool),
}

/// How long what was overtaken is still waited for.
#[derive(Debug, Default)]
enum Patience {
    /// Nothing was overtaken.
    #[default]
    Whole,
    Until(Instant),
    /// Until all of it is done.
    Gone,
}

/// The server side of one channel.
#[derive(Debug, Default)]
pub struct Server {
    deframer: Deframer,
    /// What will be answered, oldest first.
    entries: VecDeque<Entry>,
    /// Overtaken before they started.
    deferred: VecDeque<(Ticket, &'static CommandInfo, Request)>,
    /// Overtaken while they ran. As many as the agent runs at once.
    abandoned: Vec<Ticket>,
    patience: Patience,
    queued_bytes: usize,
    next_ticket: u64,
    output: Output,
}

impl Server {
    /// For a fresh channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what the host sent.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(framed) = self.deframer.next(&mut bytes) {
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let (id, state) = match framed {
                Framed::Error(error) => {
                    let error = QgaError::generic(error.to_string());
                    (None, State::Done(Outcome::Error(error), false))
                }
                Framed::Text(text) => {
                    let envelope = Envelope::open(text);
                    let state = match envelope.content {
                        Ok((info, request)) => {
                            self.queued_bytes += request.size();
                            State::Queued(info, request)
                        }
                        Err(error) => State::Done(Outcome::Error(error), false),
                    };
                    (envelope.id, state)
                }
            };
            self.entries.push_back(Entry { ticket, id, state });
        }
        self.flush();
    }

    /// What the next request to come will have.
    pub fn next_ticket(&self) -> Ticket {
        Ticket(self.next_ticket)
    }

    /// Whether to read the channel. False means that enough is waiting already.
    pub fn wants_input(&self) -> bool {
        self.entries.len() + self.deferred.len() < MAX_QUEUED
            && self.queued_bytes < MAX_QUEUED_BYTES
            && self.output.len() < MAX_OUTPUT
    }

    /// A new client is at the other end: half a request and all replies are forgotten. What
    /// was received whole still runs, unanswered.
    pub fn reset(&mut self) {
        self.deframer.reset();
        let all = self.entries.len();
        self.overtake(all);
        self.output.clear();
    }

    /// Forgets half a request: whoever sent it has gone. Replies stay for whoever comes next, who
    /// has to sync anyway; with qemu-ga it is the same.
    pub fn forget_partial(&mut self) {
        self.deframer.reset();
    }

    /// The next request that may start now. `may_start` is the agent's own gate, asked for the
    /// candidates in order.
    pub fn poll(
        &mut self,
        now: Instant,
        may_start: &mut dyn FnMut(&CommandInfo) -> bool,
    ) -> Option<Job> {
        self.end_what_yields();
        self.let_sync_overtake(now);
        let stalled = self.output.len() >= MAX_OUTPUT;
        let idle = !self.waits_for_abandoned(now);
        let mut freeze_waits = false;
        for (at, (_, info, _)) in self.deferred.iter().enumerate() {
            let in_turn = at == 0 && idle && !stalled;
            if (in_turn || info.is_thaw() && !freeze_waits) && may_start(info) {
                let (ticket, info, request) = self.deferred.remove(at)?;
                self.queued_bytes -= request.size();
                self.abandoned.push(ticket);
                return Some(Job { ticket, info, request });
            }
            freeze_waits |= info.is_freeze();
        }
        let nothing_overtaken = idle && self.deferred.is_empty();
        let mut all_done = true;
        for entry in &mut self.entries {
            let State::Queued(info, _) = entry.state else {
                all_done &= matches!(entry.state, State::Done(..));
                continue;
            };
            let in_turn = all_done && !stalled && (nothing_overtaken || info.allowed_while_frozen);
            if (in_turn || info.is_thaw() && !freeze_waits) && may_start(info) {
                let started = State::Running(info, now);
                if let State::Queued(_, request) = std::mem::replace(&mut entry.state, started) {
                    self.queued_bytes -= request.size();
                    return Some(Job { ticket: entry.ticket, info, request });
                }
            }
            freeze_waits |= info.is_freeze();
            all_done = false;
        }
        None
    }

    /// When to poll again although nothing happened: something is waiting for a command that will
    /// then count as stuck.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let queued = |entry: &Entry| matches!(entry.state, State::Queued(..));
        let waiting = !self.deferred.is_empty() || self.entries.iter().any(queued);
        let for_abandoned = match self.patience {
            Patience::Until(end) if waiting => Some(end),
            _ => None,
        };
        let sync = self.first_queued_sync().unwrap_or(0);
        let running = self.entries.iter().take(sync).filter_map(|entry| match entry.state {
            State::Running(_, since) => Some(since + STUCK_AFTER),
            _ => None,
        });
        running.chain(for_abandoned).min()
    }

    /// Takes the outcome of a job. Outcomes of overtaken jobs go nowhere.
    pub fn complete(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(at) = self.abandoned.iter().position(|&abandoned| abandoned == ticket) {
            self.abandoned.swap_remove(at);
        } else if let Some(entry) = self.entries.iter_mut().find(|entry| entry.ticket == ticket) {
            let delimited = matches!(entry.state, State::Running(info, _)
                if info.name == GuestSyncDelimited::INFO.name);
            entry.state = State::Done(outcome, delimited);
            self.flush();
        }
    }

    /// What is to be written to the channel next; ask again after it was consumed.
    pub fn output(&self) -> &[u8] {
        self.output.slices()[0]
    }

    /// The same for a vectored write: up to three pieces, in order; those behind the last are empty.
    pub fn output_slices(&self) -> [&[u8]; OUTPUT_SLICES] {
        self.output.slices()
    }

    /// `count` bytes of the output were written.
    pub fn consume_output(&mut self, count: usize) {
        self.output.consume(count);
    }

    /// Whether all is answered and written. What was overtaken may still run.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.output.len() == 0
    }

    /// Moves replies whose turn it is to the output.
    fn flush(&mut self) {
        while let Some(Entry { state: State::Done(..), .. }) = self.entries.front() {
            let Some(Entry { state: State::Done(outcome, delimited), id, .. }) =
                self.entries.pop_front()
            else {
                return;
            };
            // Only the success of a delimited sync has the sentinel.
            if delimited && matches!(outcome, Outcome::Return(_)) {
                self.output.gather(|out| out.push(0xFF));
            }
            write_reply(&mut self.output, outcome, id.as_deref());
        }
    }

    /// Whether overtaken commands run, and are still waited for.
    fn waits_for_abandoned(&mut self, now: Instant) -> bool {
        self.patience = match self.patience {
            _ if self.abandoned.is_empty() && self.deferred.is_empty() => Patience::Whole,
            Patience::Whole => Patience::Until(now + STUCK_AFTER),
            Patience::Until(end) if now < end => return !self.abandoned.is_empty(),
            Patience::Until(_) | Patience::Gone => Patience::Gone,
        };
        matches!(self.patience, Patience::Until(_)) && !self.abandoned.is_empty()
    }

    /// Answers commands that wait for something if a request stands behind them.
    fn end_what_yields(&mut self) {
        let mut ended = false;
        let behind = self.entries.len().saturating_sub(1);
        for entry in self.entries.iter_mut().take(behind) {
            if let State::Running(CommandInfo { yields: Some(answer), .. }, _) = entry.state {
                entry.state = State::Done(Outcome::Return(answer.as_bytes().to_vec()), false);
                ended = true;
            }
        }
        if ended {
            self.flush();
        }
    }

    fn first_queued_sync(&self) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| matches!(entry.state, State::Queued(info, _) if info.is_sync()))
    }

    fn let_sync_overtake(&mut self, now: Instant) {
        while let Some(sync) = self.first_queued_sync() {
            let hopeless = self.entries.iter().take(sync).any(|entry| match entry.state {
                State::Running(info, since) => info.long || now >= since + STUCK_AFTER,
                _ => false,
            });
            if !hopeless {
                return;
            }
            self.overtake(sync);
        }
    }

    /// The first `count` entries lose their replies.
    fn overtake(&mut self, count: usize) {
        for entry in self.entries.drain(..count) {
            match entry.state {
                State::Queued(info, request) => {
                    self.deferred.push_back((entry.ticket, info, request));
                }
                // Nothing waits for what yields.
                State::Running(CommandInfo { yields: Some(_), .. }, _) | State::Done(..) => {}
                State::Running(..) => self.abandoned.push(entry.ticket),
            }
        }
    }
}
