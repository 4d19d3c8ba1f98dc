//! One connection to a VM's agent, from the connect to its end.
//!
//! ```text
//!   connected                      answered
//!   --------> Syncing ------------------------------> Up ---+ a call timed out, or its
//!               |  ^                                  ^ ^   | reply made no sense
//!    not in     |  +----------------------------------|-|---+
//!    time, or   v                     answered, late  | |
//!    busy     Silent ---------------------------------+ +--- commands go out and come back
//!               |  ^
//!               +--+ another sync after a pause, unless the last one still lies unread
//! ```
//!
//! Only in `Up` do commands go out ([`Client`] sees to it; a thaw behind a freeze that does not
//! answer is its one exception). Calls wait out `Syncing` for a short while and fail at once in
//! `Silent`.

mod events;
mod news;
mod sync;

use std::io;
use std::time::Duration;

use qga_proto::command::{CommandInfo, GuestFileWrite};
use qga_proto::{Call, CallId, Client, ClientConfig};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::buffer::with_buffer;
use super::handle::{Arguments, CallError, Pending, Vm, Work};
use super::link::LinkState;
use super::surplus::{Surplus, Weight};
use super::timer::Timer;
use super::transfer::AHEAD;
use crate::config::Mode;
use crate::metrics::CommandOutcome;

/// How much is read before other actors get a turn.
const TURN_BYTES: usize = 256 << 10;

/// The same of somebody who sends what nobody asked for: very short lines take long.
const WARY_TURN_BYTES: usize = 16 << 10;

/// How long after a command without success response a sync asks whether it is done.
const SETTLE: Duration = Duration::from_secs(2);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The VM was taken away.
    Closed,
    /// On demand, and nobody demands.
    Idle,
    /// The connection broke, or the guest made it useless.
    Broken(String),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session<'a> {
    vm: &'a Vm,
    stream: UnixStream,
    client: Client,
    stage: Stage,
    calls: Vec<(CallId, Caller)>,
    /// Resyncs that the outstanding sync will answer.
    resyncs: Vec<Pending>,
    wants: Wants,
    /// Ask what the agent can do even if that is known.
    refresh: bool,
    timer: Timer,
    /// A sync was answered on this connection.
    pub(super) was_up: bool,
    /// What is known of the guest may be of one that is not there any more.
    unsure: bool,
    /// Spreads the keep-alives of many VMs.
    jitter: u8,
    /// Where the socket was when it was connected to.
    moves: u32,
    /// The guest was paused when it was last looked at.
    held: bool,
    idle_since: Instant,
    synced_last: Instant,
    settle_at: Option<Instant>,
    surplus: Surplus,
    /// What was received since events were last taken.
    unjudged: Weight,
    /// What came last was nothing that anybody asked for, or nothing has come: it is looked at in small
    /// pieces.
    distrusted: bool,
    /// The sync that is out was sent behind calls, which may take their time.
    doubting: bool,
    echoes_id: bool,
    delimited: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A sync is out and may be answered in time.
    Syncing { since: Instant, until: Instant, look: Option<Instant> },
    /// It was not.
    Silent { again: Instant, pause: Duration },
    /// It was.
    Up,
}

/// Whose call it is.
#[derive(Debug)]
enum Caller {
    Pending(Box<Pending>),
    Status,
    Info,
}

/// What the session itself still wants to ask.
#[derive(Clone, Copy, Debug, Default)]
struct Wants {
    status: bool,
    info: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(vm: &'a Vm, stream: UnixStream, moves: u32, refresh: bool) -> Self {
        let now = Instant::now();
        // The session times syncs by itself: an answer that comes late is still an answer.
        let never = Duration::from_secs(10 * 365 * 86_400);
        let config = ClientConfig { sync_timeout: never, ..ClientConfig::default() };
        vm.counters.connections.add(1);
        Self {
            vm,
            stream,
            client: Client::new(config),
            stage: Stage::Silent { again: now, pause: Duration::ZERO },
            calls: Vec::new(),
            resyncs: Vec::new(),
            wants: Wants::default(),
            refresh,
            timer: Timer::default(),
            was_up: false,
            unsure: true,
            jitter: jitter(),
            moves,
            held: false,
            idle_since: now,
            synced_last: now,
            settle_at: None,
            surplus: Surplus::new(now),
            unjudged: Weight::default(),
            distrusted: true,
            doubting: false,
            echoes_id: false,
            delimited: false,
        }
    }

    /// Serves the VM's queue until the connection ends; every call that was sent is answered.
    pub(super) async fn run(&mut self) -> End {
        let end = match self.serve().await {
            Ok(end) => end,
            Err(e) => End::Broken(format!("the connection broke: {e}")),
        };
        let reason = match &end {
            End::Closed => "the VM was taken away",
            End::Idle => "the connection was closed",
            End::Broken(reason) => reason,
        };
        let calls = self.calls.drain(..).filter_map(|(_, caller)| match caller {
            Caller::Pending(pending) => Some(*pending),
            Caller::Status | Caller::Info => None,
        });
        for pending in calls.chain(self.resyncs.drain(..)) {
            let lost = Err(CallError::Interrupted { reason: reason.to_owned() });
            // A guest that was told to go and went has done as told.
            let done = pending.silent_success();
            let outcome = if done { CommandOutcome::Ok } else { CommandOutcome::Lost };
            self.vm.note(&pending, outcome);
            pending.answer(if done { Ok(None) } else { lost });
        }
        end
    }

    async fn serve(&mut self) -> io::Result<End> {
        self.begin()?;
        loop {
            if self.vm.is_closed() {
                return Ok(End::Closed);
            }
            if self.vm.moves() != self.moves {
                return Ok(End::Broken("the VM's socket is another one now".into()));
            }
            let now = Instant::now();
            self.client.handle_timeout(now.into_std());
            self.take_events(now)?;
            if let Some(end) = self.take_news(now)? {
                return Ok(end);
            }
            self.time_sync(now)?;
            self.settle_doubt()?;
            self.send_due(now)?;
            self.flush()?;
            self.expire_queue(now);
            if let Some(reason) = self.surplus.verdict() {
                return Ok(End::Broken(reason));
            }
            let idle_until = self.idle_until(now);
            if idle_until.is_some_and(|until| until <= now) {
                return Ok(End::Idle);
            }
            if !self.wait(idle_until).await? {
                return Ok(End::Broken("the other end closed the connection".into()));
            }
        }
    }

    /// Waits for something to do, and reads what came. False at the end of the stream.
    async fn wait(&mut self, idle_until: Option<Instant>) -> io::Result<bool> {
        let due = [self.next_sync_step(), self.next_expiry(), idle_until, self.next_keepalive()];
        let client = self.client.next_deadline().map(Instant::from_std);
        self.timer.arm(due.into_iter().chain([client]).flatten().min());
        let output = !self.client.output().is_empty();
        let interest =
            if output { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let readable = tokio::select! {
            ready = self.stream.ready(interest) => ready?.is_readable(),
            () = self.vm.wake.notified() => false,
            () = self.timer.fired() => false,
        };
        if !readable { Ok(true) } else { self.read().await }
    }

    async fn read(&mut self) -> io::Result<bool> {
        let (mut turn, most) = match self.distrusted {
            true => (TURN_BYTES - WARY_TURN_BYTES, WARY_TURN_BYTES),
            false => (0, TURN_BYTES),
        };
        while turn < TURN_BYTES {
            let read = with_buffer(|buffer| {
                let most = most.min(buffer.len());
                let read = self.stream.try_read(&mut buffer[..most]);
                self.received(&buffer[..*read.as_ref().unwrap_or(&0)]);
                read
            });
            match read {
                Ok(0) => return Ok(false),
                Ok(n) => turn += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        tokio::task::yield_now().await;
        Ok(true)
    }

    fn received(&mut self, bytes: &[u8]) {
        self.vm.counters.bytes_received.add(bytes.len());
        let Weight { empty, all } = self.surplus.weigh(bytes);
        self.unjudged.empty += empty;
        self.unjudged.all += all;
        self.client.receive(Instant::now().into_std(), bytes);
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.client.output().is_empty() {
            match self.stream.try_write(self.client.output()) {
                Ok(n) => {
                    self.vm.counters.bytes_sent.add(n);
                    self.client.consume_output(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Sends what is due and may be sent.
    fn send_due(&mut self, now: Instant) -> io::Result<()> {
        if self.held {
            return Ok(());
        }
        self.send_wants(now);
        let mut bulk = self.bulk_in_flight();
        loop {
            let pending = {
                let mut queue = self.vm.queue();
                let Some(due) = queue.peek() else { break };
                let may_go = due.reply.is_closed()
                    || match &due.work {
                        Work::Call { info, .. }
                            if due.is_bulk() && bulk > 0 && bulk >= self.bulk_allowed(info) =>
                        {
                            false
                        }
                        Work::Call { info, .. } => self.client.can_send(info),
                        Work::Resync => {
                            matches!(self.stage, Stage::Up) && self.client.in_flight() == 0
                        }
                    };
                if !may_go {
                    break;
                }
                let Some(pending) = queue.pop() else { break };
                pending
            };
            self.idle_since = now;
            // Nobody waits for it any more, and nothing was sent.
            if pending.reply.is_closed() {
                continue;
            }
            if pending.deadline <= now {
                pending.timed_out(false);
                continue;
            }
            if pending.unless_disrupted.is_some_and(|count| count != self.vm.disruptions()) {
                let link = self.vm.link.status();
                pending.answer(Err(CallError::Unavailable { link }));
                continue;
            }
            match &pending.work {
                Work::Resync => {
                    self.resyncs.push(*pending);
                    self.start_sync()?;
                }
                Work::Call { .. } => {
                    bulk += usize::from(pending.is_bulk() && !pending.yields());
                    self.send(pending, now);
                }
            }
        }
        Ok(())
    }

    /// Behind a virtio port, qemu-ga has been seen to stop for good over two large writes at once.
    fn bulk_allowed(&self, info: &CommandInfo) -> usize {
        if info.changes_guest && !self.vm.has_extensions() { 1 } else { AHEAD }
    }

    fn bulk_in_flight(&self) -> usize {
        let bulk = |(_, caller): &&(_, Caller)| match caller {
            Caller::Pending(pending) => pending.is_bulk() && !pending.yields(),
            Caller::Status | Caller::Info => false,
        };
        self.calls.iter().filter(bulk).count()
    }

    fn send(&mut self, mut pending: Box<Pending>, now: Instant) {
        let Work::Call { info, arguments, reply_cap } = &mut pending.work else { return };
        // What has left need not be kept: a caller may want its buffer back.
        let arguments = std::mem::replace(arguments, Arguments::Text(String::new()));
        let (text, chunk) = match arguments {
            Arguments::Text(text) => (text, None),
            Arguments::Write { handle, bytes } => (String::new(), Some((handle, bytes))),
        };
        let call = Call {
            name: info.name.into(),
            arguments: text,
            pipelined: info.pipelined,
            yields: info.yields.is_some(),
            success_response: info.success_response,
            deadline: pending.deadline.into_std(),
            reply_cap: *reply_cap,
        };
        if !info.success_response {
            self.settle_at = Some(now + SETTLE);
        }
        let sent = match chunk {
            None => self.client.send(&call),
            Some((handle, bytes)) => self.client.send_chunk(&call, |output| {
                GuestFileWrite::append_arguments(output, handle, &bytes);
            }),
        };
        match sent {
            Ok(id) => {
                self.vm.counters.calls.add(1);
                self.vm.settings.commands.waits.observe(now.duration_since(pending.submitted));
                pending.sent = Some(now);
                self.calls.push((id, Caller::Pending(pending)));
            }
            Err(_) => pending.answer(Err(CallError::Unavailable { link: self.vm.link.status() })),
        }
    }

    /// Answers calls that have waited long enough.
    fn expire_queue(&mut self, now: Instant) {
        let mut queue = self.vm.queue();
        if queue.is_empty() {
            if self.client.is_idle() {
                queue.shrink();
                self.calls.shrink_to(0);
            }
            return;
        }
        let over = queue.take_if(|pending| self.expiry(pending) <= now);
        drop(queue);
        for pending in over {
            if matches!(self.stage, Stage::Up) && !self.held {
                pending.timed_out(false);
            } else {
                pending.answer(Err(CallError::Unavailable { link: self.vm.link.status() }));
            }
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.vm.queue().iter().map(|pending| self.expiry(pending)).min()
    }

    /// Until when a call may wait in the queue as things stand.
    fn expiry(&self, pending: &Pending) -> Instant {
        match self.stage {
            _ if self.held => pending.submitted,
            Stage::Up => pending.deadline,
            Stage::Silent { .. } => pending.submitted,
            Stage::Syncing { since, .. } => {
                let patience = self.vm.settings.limits().connect_wait;
                pending.deadline.min(pending.submitted.max(since) + patience)
            }
        }
    }

    /// When an on-demand connection has idled long enough, as things stand.
    fn idle_until(&self, now: Instant) -> Option<Instant> {
        if self.vm.mode == Mode::Persistent || self.vm.is_pinned() {
            return None;
        }
        match self.stage {
            // Nobody can be told anything, and others may want the socket.
            _ if self.held && self.calls.is_empty() => Some(now),
            // Waiting in the listener's queue keeps others out of it.
            Stage::Silent { .. } if self.vm.link.state() == LinkState::Busy => Some(now),
            Stage::Syncing { .. } => None,
            Stage::Silent { .. } | Stage::Up => {
                let asking = self.wants.status || self.wants.info && !self.is_frozen();
                let busy = asking || !self.calls.is_empty() || !self.vm.queue().is_empty();
                (!busy).then(|| self.idle_since + self.vm.settings.limits().idle_disconnect)
            }
        }
    }

    fn is_frozen(&self) -> bool {
        self.vm.link.state() == LinkState::Frozen
    }
}

/// Any number will do: without one, all are asked at the same time.
fn jitter() -> u8 {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    byte[0]
}
