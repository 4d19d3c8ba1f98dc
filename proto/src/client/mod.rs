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

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use self::handshake::SyncIds;
use self::handshake::{Handshake, Step};
use self::in_flight::{Fence, InFlight};
use crate::command::{Command, CommandInfo, GuestFsfreezeThaw, XFsfreezeThaw};
use crate::lines::{Line, Lines};
use crate::reply::{Content, Reply};
pub use crate::reply::{ReplyError, ReplyText};

/// The most commands in flight on one connection.
const MAX_IN_FLIGHT: usize = 64;

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
            self.output.extend_from_slice(call.arguments.as_bytes());
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
            self.output.shrink_to(1024);
            self.written = 0;
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

    fn receive_line(&mut self, now: Instant, line: Vec<u8>) {
        // Whatever stands before the last sentinel was sent to somebody else.
        // Most lines have none, and `contains` is much faster over a long one.
        let sentinel = line.contains(&0xFF).then(|| line.iter().rposition(|&byte| byte == 0xFF));
        let start = sentinel.flatten().map_or(0, |at| at + 1);
        let delimited = start > 0;
        if line[start..].iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let reply = Reply::parse(line, start);
        match (&self.phase, reply) {
            (Phase::Syncing { handshake, .. }, Ok(reply)) => {
                let handshake = *handshake;
                self.receive_while_syncing(now, handshake, reply, delimited);
            }
            (Phase::Syncing { .. }, Err(_)) => self.drop(DropReason::Garbage),
            (_, Ok(reply)) => self.receive_in_turn(reply, delimited),
            (_, Err(cause)) => self.receive_garbage(cause),
        }
    }

    fn receive_while_syncing(
        &mut self,
        now: Instant,
        mut handshake: Handshake,
        reply: Reply,
        delimited: bool,
    ) {
        let step = handshake.receive(&reply, delimited);
        if let Phase::Syncing { handshake: kept, .. } = &mut self.phase {
            *kept = handshake;
        }
        match step {
            Step::Wait => {}
            Step::SendPlain => {
                handshake.write_plain(&mut self.output);
                self.plain_sync = Some(handshake.plain());
                self.in_flight.iter_mut().for_each(|call| call.behind_sync = false);
                // It is another round trip.
                let deadline = now + self.config.sync_timeout;
                self.phase = Phase::Syncing { handshake, deadline };
            }
            Step::Synced { echoes_id, delimited } => {
                self.synced(handshake.session(), echoes_id, delimited);
            }
            // A slow reply to a call that is still waiting.
            Step::NotMine if !delimited && reply.id().is_some() => self.receive_reply(reply),
            Step::NotMine => self.drop(DropReason::Unsolicited),
        }
    }

    fn synced(&mut self, session: u64, echoes_id: bool, delimited: bool) {
        self.phase = Phase::Ready;
        self.was_synced = true;
        self.echoes_id = echoes_id;
        self.delimited = delimited;
        self.session = session;
        // Agents answer in order: what is not answered by now never will be.
        let events = &mut self.events;
        self.in_flight.retain_mut(|call| {
            if !call.behind_sync {
                let result = Err(ReplyError::Lost);
                events.push_back(ClientEvent::Reply { call: call.call, result });
            }
            std::mem::take(&mut call.behind_sync)
        });
        self.events.push_back(ClientEvent::Synced { echoes_id, delimited });
    }

    fn receive_in_turn(&mut self, reply: Reply, delimited: bool) {
        let fenced = self.in_flight.iter().position(|call| call.is_next_after(&reply, delimited));
        if let Some(at) = fenced {
            // Agents answer in order: what was sent before and is not answered never will be.
            for lost in self.in_flight.drain(..at) {
                let result = Err(ReplyError::Lost);
                self.events.push_back(ClientEvent::Reply { call: lost.call, result });
            }
            self.in_flight[0].fence = None;
        } else if delimited {
            self.drop(DropReason::Unsolicited);
        } else {
            self.receive_reply(reply);
        }
    }

    fn receive_reply(&mut self, reply: Reply) {
        if reply.id().is_none() && self.plain_sync.is_some_and(|plain| reply.is_integer(plain)) {
            return self.drop(DropReason::Unsolicited);
        }
        let waiting = match reply.id() {
            Some(id) => {
                let id = id.strip_prefix('"').and_then(|id| id.strip_suffix('"'));
                let found = self
                    .in_flight
                    .iter()
                    .find(|call| call.id.as_deref().is_some_and(|own| Some(own) == id));
                let Some(found) = found else { return self.drop(DropReason::OtherId) };
                found
            }
            // An agent that echoes ids does so in every reply to a command.
            None if self.echoes_id => return self.drop(DropReason::OtherId),
            None => match self.in_flight.front() {
                Some(first) if first.fence.is_none() => first,
                _ => return self.drop(DropReason::Unsolicited),
            },
        };
        let call = waiting.call;
        if reply.len() > waiting.cap {
            let cause = format!(
                "the reply has {} bytes, more than the {} allowed",
                reply.len(),
                waiting.cap
            );
            self.end(call, Err(ReplyError::BadReply(cause)));
            return;
        }
        let result = match reply.into_content() {
            Content::Return(text) => Ok(text),
            Content::Error(error) => Err(ReplyError::Agent(error)),
        };
        self.end(call, result);
    }

    fn receive_garbage(&mut self, cause: String) {
        match self.in_flight.front() {
            Some(InFlight { call, fence: None, .. }) => {
                self.end(*call, Err(ReplyError::BadReply(cause)));
                self.lose_place();
            }
            // Whatever it was, it is not the reply.
            _ => self.drop(DropReason::Garbage),
        }
    }

    fn receive_oversize(&mut self, cap: usize) {
        self.drop(DropReason::Oversize);
        if self.is_synced() && !self.in_flight.is_empty() {
            self.receive_garbage(format!("a line longer than {cap} bytes"));
        }
    }

    fn end(&mut self, call: CallId, result: Result<ReplyText, ReplyError>) {
        self.in_flight.retain(|waiting| waiting.call != call);
        if self.in_flight.is_empty() {
            self.in_flight.shrink_to(0);
        }
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
