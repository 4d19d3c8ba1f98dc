//! A host's end of one connection. Nothing but a sync is sent before a sync was answered: QEMU takes
//! bytes from a second client while it serves the first, and hands them to the guest when that one
//! leaves. A command sent blind may run hours later.
//!
//! ```text
//!   Unsynced ── start_sync ──▶ Syncing ── answered ──▶ Ready ── a call timed out, ──▶ Unsynced
//!      ▲                          │                             a bad reply
//!      └──────── no answer ───────┘
//! ```
//!
//! A thaw is the exception: once the connection has been synced, it may go out behind a freeze that
//! does not answer, and behind the sync that follows. A guest must not stand still for want of order.
//!
//! Once an agent has been seen to echo an `id`, each command has a unique one, a reply with
//! another is dropped, and commands may be pipelined. Without, there is one command at a time, and
//! each has a sync of its own in front (`in_flight`).

mod handshake;
mod in_flight;
mod incoming;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::handshake::Handshake;
pub use self::handshake::SyncIds;
use self::in_flight::{Fence, InFlight};
use crate::command::{Command, CommandInfo, GuestFsfreezeThaw, XFsfreezeThaw};
use crate::lines::{Line, Lines};
pub use crate::reply::{ReplyError, ReplyText};

/// The most commands in flight on one connection.
const MAX_IN_FLIGHT: usize = 64;

/// Room for output that is kept between chunks of a file, in bytes: two of the gateway's, encoded, and what a
/// vector has beyond.
const KEPT_OUTPUT: usize = 512 << 10;

/// What a client needs to know beforehand.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// How long a sync may take. libvirt's is 5 s.
    pub sync_timeout: Duration,
    /// The longest line, in bytes, that is read while no command is in flight.
    pub idle_line_cap: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { sync_timeout: Duration::from_secs(5), idle_line_cap: 64 << 10 }
    }
}

/// Ties a reply to its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(u64);

/// One command to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The command's name.
    pub name: String,
    /// Its arguments, JSON text; `{}` is left out.
    pub arguments: String,
    /// May share the wire with others.
    pub pipelined: bool,
    /// Nothing need wait for it; see [`CommandInfo::yields`].
    pub yields: bool,
    /// Success is answered.
    pub success_response: bool,
    /// When to stop waiting.
    pub deadline: Instant,
    /// The longest reply line, in bytes.
    pub reply_cap: usize,
}

impl Call {
    /// A call of a known command.
    pub fn new<C: Command>(arguments: &C, deadline: Instant, reply_cap: usize) -> Self {
        Self {
            name: C::INFO.name.to_owned(),
            // Arguments are plain structs; should one fail to serialize, the agent says so.
            arguments: serde_json::to_string(arguments).unwrap_or_default(),
            pipelined: C::INFO.pipelined,
            yields: C::INFO.yields.is_some(),
            success_response: C::INFO.success_response,
            deadline,
            reply_cap,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum ClientEvent {
    /// A sync was answered: commands may be sent.
    Synced {
        /// The agent echoes `id` (since QEMU 4.0 or so).
        echoes_id: bool,
        /// The agent knows `guest-sync-delimited` (since QEMU 1.1).
        delimited: bool,
    },
    /// A sync was not answered in time. Start another one, later each time.
    SyncFailed,
    /// A call has ended.
    Reply {
        /// Which.
        call: CallId,
        /// How.
        result: Result<ReplyText, ReplyError>,
    },
    /// A line that belongs to nothing.
    Dropped(DropReason),
}

/// Why a line was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No call is waiting for it.
    Unsolicited,
    /// Its `id` is not that of a waiting call.
    OtherId,
    /// It is not a reply.
    Garbage,
    /// It is longer than anything that was asked for.
    Oversize,
}

/// The connection is not synced, or other commands are in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection cannot take this command now")]
pub struct NotReady;

#[derive(Debug)]
enum Phase {
    Unsynced,
    Syncing { handshake: Handshake, deadline: Instant },
    Ready,
}

/// The client side of one connection.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    phase: Phase,
    /// A sync has been answered on this connection.
    was_synced: bool,
    echoes_id: bool,
    delimited: bool,
    session: u64,
    next_call: u64,
    /// A plain sync that was sent on suspicion: its answer may come after the delimited one's.
    plain_sync: Option<i64>,
    lines: Lines,
    in_flight: VecDeque<InFlight>,
    events: VecDeque<ClientEvent>,
    output: Vec<u8>,
    written: usize,
    /// The last command was a chunk of a file: there may be another.
    expects_more: bool,
}

impl Client {
    /// For a fresh connection.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            phase: Phase::Unsynced,
            was_synced: false,
            echoes_id: false,
            delimited: false,
            session: 0,
            next_call: 0,
            plain_sync: None,
            lines: Lines::default(),
            in_flight: VecDeque::new(),
            events: VecDeque::new(),
            output: Vec::new(),
            written: 0,
            expects_more: false,
        }
    }

    /// Whether a sync is needed before anything else: call [`start_sync`](Self::start_sync).
    pub fn needs_sync(&self) -> bool {
        matches!(self.phase, Phase::Unsynced)
    }

    /// Whether commands may be sent, room permitting.
    pub fn is_synced(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Sends a sync. Calls still in flight may be answered until the sync is.
    pub fn start_sync(&mut self, now: Instant, ids: SyncIds) {
        let handshake = Handshake::new(ids);
        // Whoever is asked anew may be silent for long.
        self.expects_more = false;
        handshake.write_opening(&mut self.output);
        self.phase = Phase::Syncing { handshake, deadline: now + self.config.sync_timeout };
        self.in_flight.iter_mut().for_each(|call| call.behind_sync = false);
    }

    /// Whether [`send`](Self::send) would take this command now.
    pub fn can_send(&self, info: &CommandInfo) -> bool {
        self.takes(info.name, info.pipelined)
    }

    fn takes(&self, name: &str, pipelined: bool) -> bool {
        let thaws = [GuestFsfreezeThaw::INFO.name, XFsfreezeThaw::INFO.name];
        let exempt = thaws.contains(&name)
            && self.was_synced
            && !self.needs_sync()
            && self.in_flight.len() < MAX_IN_FLIGHT;
        exempt || self.has_room(pipelined)
    }

    fn has_room(&self, pipelined: bool) -> bool {
        // Only agents that echo ids have commands that yield.
        let mut before = self.in_flight.iter().filter(|call| !call.yields);
        let shares = self.echoes_id && pipelined && before.clone().all(|call| call.pipelined);
        let first = self.in_flight.is_empty() || self.echoes_id && before.next().is_none();
        self.is_synced() && (first || shares) && self.in_flight.len() < MAX_IN_FLIGHT
    }

    /// Sends a command. A command without success response counts as in flight until an error
    /// comes, another command is sent behind it, or its deadline passes.
    pub fn send(&mut self, call: &Call) -> Result<CallId, NotReady> {
        self.expects_more = false;
        self.give_back();
        self.write(call, |output| output.extend_from_slice(call.arguments.as_bytes()))
    }

    /// As [`send`](Self::send) for a chunk of a file, with the arguments that `write` appends instead
    /// of the call's own: they need stand nowhere else as text. Room for two chunks stays until
    /// another command is sent, such as the one that closes the file.
    pub fn send_chunk(
        &mut self,
        call: &Call,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<CallId, NotReady> {
        self.expects_more = true;
        self.write(call, write)
    }

    fn write(&mut self, call: &Call, write: impl FnOnce(&mut Vec<u8>)) -> Result<CallId, NotReady> {
        if !self.takes(&call.name, call.pipelined) {
            return Err(NotReady);
        }
        let number = self.next_call;
        self.next_call += 1;
        let id = self.echoes_id.then(|| format!("{:016x}-{number}", self.session));
        let fence = (!self.echoes_id).then(|| Fence::new(self.session, number, self.delimited));
        if let Some(fence) = fence {
            fence.write(&mut self.output);
        }
        self.output.extend_from_slice(b"{\"execute\":\"");
        self.output.extend_from_slice(call.name.as_bytes());
        self.output.push(b'"');
        if call.arguments != "{}" {
            self.output.extend_from_slice(b",\"arguments\":");
            write(&mut self.output);
        }
        if let Some(id) = &id {
            self.output.extend_from_slice(b",\"id\":\"");
            self.output.extend_from_slice(id.as_bytes());
            self.output.push(b'"');
        }
        self.output.extend_from_slice(b"}\n");
        let call_id = CallId(number);
        self.in_flight.push_back(InFlight {
            call: call_id,
            id,
            fence,
            pipelined: call.pipelined,
            yields: call.yields,
            deadline: call.deadline,
            cap: call.reply_cap,
            behind_sync: !self.is_synced(),
        });
        Ok(call_id)
    }

    /// Takes what the agent sent.
    pub fn receive(&mut self, now: Instant, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.lines.skip_empty(&mut bytes);
            let cap = self
                .in_flight
                .iter()
                .map(|call| call.cap)
                .max()
                .unwrap_or(0)
                .max(self.config.idle_line_cap);
            match self.lines.next(&mut bytes, cap) {
                Some(Line::Whole(line)) => self.receive_line(now, line),
                Some(Line::Oversize) => self.receive_oversize(cap),
                None => {}
            }
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Phase::Syncing { deadline, .. } = self.phase
            && now >= deadline
        {
            self.phase = Phase::Unsynced;
            self.events.push_back(ClientEvent::SyncFailed);
        }
        let overdue: Vec<CallId> = self
            .in_flight
            .iter()
            .filter(|call| now >= call.deadline)
            .map(|call| call.call)
            .collect();
        for call in overdue {
            self.end(call, Err(ReplyError::TimedOut));
            self.lose_place();
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let sync = match self.phase {
            Phase::Syncing { deadline, .. } => Some(deadline),
            _ => None,
        };
        self.in_flight.iter().map(|call| call.deadline).chain(sync).min()
    }

    /// What is to be written to the connection.
    pub fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// `count` bytes of the output were written.
    pub fn consume_output(&mut self, count: usize) {
        self.written = (self.written + count).min(self.output.len());
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
            self.give_back();
        }
    }

    /// Room for large commands goes back. For chunks of a file some stays: fresh memory costs more than
    /// to fill it.
    fn give_back(&mut self) {
        if self.output.is_empty() {
            self.output.shrink_to(if self.expects_more { KEPT_OUTPUT } else { 1024 });
        }
        if self.in_flight.is_empty() {
            self.in_flight.shrink_to(0);
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            self.events.shrink_to(0);
        }
        event
    }

    /// Whether nothing is in flight, half-received, or to be written.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.output().is_empty() && !self.lines.is_midway()
    }

    /// Calls in flight, without those that yield.
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().filter(|call| !call.yields).count()
    }

    fn end(&mut self, call: CallId, result: Result<ReplyText, ReplyError>) {
        self.in_flight.retain(|waiting| waiting.call != call);
        self.give_back();
        self.events.push_back(ClientEvent::Reply { call, result });
    }

    /// Nothing that comes now can be trusted to be in order.
    fn lose_place(&mut self) {
        if self.is_synced() {
            self.phase = Phase::Unsynced;
        }
    }

    fn drop(&mut self, reason: DropReason) {
        // A flood is told once for each time that somebody looks.
        if !matches!(self.events.back(), Some(ClientEvent::Dropped(last)) if *last == reason) {
            self.events.push_back(ClientEvent::Dropped(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::GuestPing;

    #[test]
    fn room_for_chunks_stays_until_something_else_is_sent() {
        let client = Client::new(ClientConfig::default());
        let mut client = Client { phase: Phase::Ready, echoes_id: true, ..client };
        let ping = Call::new(&GuestPing {}, Instant::now() + Duration::from_secs(1), 1024);
        let chunk = Call { arguments: String::new(), ..ping.clone() };
        let mut sent = Vec::new();
        for (size, kept) in [(200_000, 200_000..=KEPT_OUTPUT), (4 << 20, 1..=KEPT_OUTPUT)] {
            let write = |output: &mut Vec<u8>| output.resize(output.len() + size, b'1');
            sent.push(client.send_chunk(&chunk, write).unwrap());
            client.consume_output(usize::MAX);
            assert!(kept.contains(&client.output.capacity()), "{}", client.output.capacity());
        }
        for id in sent {
            client.end(id, Err(ReplyError::TimedOut));
        }
        assert!(client.output.capacity() > 1024);
        client.send(&ping).unwrap();
        assert!(client.output.capacity() <= 1024);
    }
}
