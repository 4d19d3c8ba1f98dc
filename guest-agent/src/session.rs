//! One channel with its protocol state: moves bytes between them and starts what arrives.
//!
//! ```text
//!             a client comes             its input ends
//!   Vacant ─────────────────▶ Attached ─────────────────▶ Ended
//!     ▲                          │ hung up                  │ all answered, or hung up
//!     └──────────────────────────┴──────────────────────────┘
//! ```
//!
//! * A client that shuts down its sending side only is still answered. One that has hung up is
//!   not, but what it sent whole is run.
//! * A channel that is lost is `Vacant` until it was opened again.
//! * The parser starts afresh with each client. A virtio port is always attached; there the end of
//!   input is the host's going, and the parser starts afresh at it.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use qga_proto::{Outcome, Server, Ticket};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use crate::channel::{Channel, Read, Write};
use crate::dispatch::Dispatch;
use crate::{errno, log};

/// What a read may bring at once, to begin with and while large messages come, in bytes.
const SMALL_BUFFER: usize = 64 << 10;
const LARGE_BUFFER: usize = 256 << 10;
/// Reads in a row before the other channels and the signals get their turn.
const ROUNDS: usize = 64;

/// A channel and what travels on it.
pub(crate) struct Session {
    index: usize,
    channel: Channel,
    server: Server,
    /// Tells the events of this peer from those of its predecessors.
    generation: u32,
    attached: bool,
    /// An edge was seen, and not yet worn out by a read, a write or an accept that would block.
    acceptable: bool,
    readable: bool,
    writable: bool,
    watching_writing: bool,
    /// The end of input is in sight, but not yet read.
    ending: bool,
    ended: bool,
    hung_up: bool,
    /// A port's host has gone, and was not seen since.
    hostless: bool,
    buffer: Vec<u8>,
    /// Bytes that went through since somebody asked for it.
    moved: usize,
}

/// What a session wants after it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// An event, a completion or its wake-up time.
    ToWait,
    /// Another turn, at once.
    AnotherTurn,
}

impl Session {
    pub(crate) fn new(index: usize, channel: Channel) -> Self {
        Self {
            index,
            channel,
            server: Server::new(),
            generation: 0,
            attached: false,
            acceptable: true,
            readable: false,
            writable: true,
            watching_writing: false,
            ending: false,
            ended: false,
            hung_up: false,
            hostless: false,
            buffer: Vec::with_capacity(SMALL_BUFFER),
            moved: 0,
        }
    }

    /// Takes note of an event. That of an earlier peer means nothing any more, and that of a
    /// listener has no peer yet.
    pub(crate) fn note(&mut self, generation: u32, flags: EventFlags) {
        self.acceptable = true;
        if generation != self.generation || !self.attached {
            return;
        }
        let hang_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        self.ending |= hang_up || flags.contains(EventFlags::RDHUP);
        self.hung_up |= hang_up && self.channel.has_clients();
        self.readable |= hang_up || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.writable |= hang_up || flags.contains(EventFlags::OUT);
    }

    /// Takes the outcome of a job.
    pub(crate) fn complete(&mut self, ticket: Ticket, outcome: Outcome) {
        self.server.complete(ticket, outcome);
    }

    /// When to serve it again although nothing happened.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.server.next_wakeup()
    }

    /// Whether large messages have gone through, or many small ones, since this was last so.
    pub(crate) fn take_large(&mut self) -> bool {
        let large = self.moved >= SMALL_BUFFER;
        if large {
            self.moved = 0;
        }
        large
    }

    /// Gives the buffer of large messages back.
    pub(crate) fn shrink(&mut self) {
        if self.buffer.capacity() > SMALL_BUFFER {
            self.buffer = Vec::with_capacity(SMALL_BUFFER);
        }
    }

    /// Lets go of a channel that is lost.
    pub(crate) fn lose(&mut self) {
        self.part();
        self.channel = Channel::Closed;
    }

    /// Goes on with a channel that was opened again.
    pub(crate) fn resume(&mut self, channel: Channel) {
        self.part();
        self.channel = channel;
    }

    /// Reads, starts and writes what can be. Fails when the channel is lost.
    pub(crate) fn serve(
        &mut self,
        epoll: BorrowedFd<'_>,
        dispatch: &Dispatch,
    ) -> Result<Wants, Errno> {
        for _ in 0..ROUNDS {
            // What a peer that has gone sent whole is still run.
            self.start_jobs(dispatch);
            if !self.attached && !self.attach(epoll) {
                return Ok(Wants::ToWait);
            }
            self.write(epoll);
            if self.ended && (self.hung_up || self.server.is_idle()) {
                self.part();
                continue;
            }
            if !self.readable || self.ended || !self.server.wants_input() {
                return Ok(Wants::ToWait);
            }
            match self.channel.read(&mut self.buffer) {
                Read::Bytes(count) => self.take_in(count),
                Read::Blocked => (self.readable, self.hostless) = (false, false),
                Read::End if self.channel.has_clients() => self.ended = true,
                Read::End => {
                    self.readable = false;
                    // The next host's bytes can arrive before the kernel says that it is there:
                    // between them and the end of input there is nothing to forget any more.
                    if !std::mem::replace(&mut self.hostless, true) {
                        self.server.forget_partial();
                    }
                }
                Read::Lost(error) => return Err(error),
            }
        }
        Ok(Wants::AnotherTurn)
    }

    fn take_in(&mut self, count: usize) {
        // A socket that gives less than it was asked for is empty (epoll(7)), which saves a read;
        // a virtio port gives one of its buffers at a time.
        let emptied = self.channel.has_clients() && count < self.buffer.capacity();
        self.readable = !emptied || self.ending;
        self.server.feed(&self.buffer);
        self.buffer.clear();
        if count == self.buffer.capacity() && count < LARGE_BUFFER {
            self.buffer.reserve_exact(LARGE_BUFFER);
        }
        self.moved += count;
    }

    fn start_jobs(&mut self, dispatch: &Dispatch) {
        // A large request comes in many pieces, and in some guests the clock is slow.
        if self.server.is_idle() {
            return;
        }
        let now = Instant::now();
        while let Some(job) = self.server.poll(now, &mut |info| dispatch.may_start(info)) {
            let ticket = job.ticket;
            if let Some(outcome) = dispatch.start_job(self.index, job) {
                self.server.complete(ticket, outcome);
            }
        }
    }

    fn write(&mut self, epoll: BorrowedFd<'_>) {
        while self.writable && !self.server.output().is_empty() {
            match self.channel.write(self.server.output_slices()) {
                Write::Bytes(count) => {
                    self.server.consume_output(count);
                    self.moved += count;
                }
                Write::Blocked => self.writable = false,
                Write::Gone => {
                    self.hung_up = self.channel.has_clients();
                    self.server.consume_output(usize::MAX);
                }
            }
        }
        if self.writable == self.watching_writing {
            let watch = !self.writable;
            match self.channel.watch_writing(epoll, self.token(), watch) {
                Ok(()) => self.watching_writing = watch,
                Err(e) => log::critical(format_args!("epoll: {}", errno::text(e))),
            }
        }
    }

    fn attach(&mut self, epoll: BorrowedFd<'_>) -> bool {
        if !self.acceptable {
            return false;
        }
        self.acceptable = false;
        self.generation = self.generation.wrapping_add(1);
        match self.channel.attach(epoll, self.token()) {
            Ok(attached) => self.attached = attached,
            Err(e) => log::critical(format_args!("failed to accept: {}", errno::text(e))),
        }
        // Whatever it sent before it was registered has no event of its own.
        self.readable = self.attached;
        self.attached
    }

    /// The client has gone; another one may wait.
    fn part(&mut self) {
        self.server.reset();
        self.channel.detach();
        self.attached = false;
        self.acceptable = true;
        self.readable = false;
        self.writable = true;
        self.watching_writing = false;
        self.ending = false;
        self.ended = false;
        self.hung_up = false;
    }

    fn token(&self) -> u64 {
        (self.index as u64) << 32 | u64::from(self.generation)
    }
}

/// Index and generation of the session that a token was made for.
pub(crate) fn of_token(token: u64) -> (usize, u32) {
    let generation = token & u64::from(u32::MAX);
    // Both halves fit, because `token` made them.
    (usize::try_from(token >> 32).unwrap_or(usize::MAX), u32::try_from(generation).unwrap_or(0))
}
