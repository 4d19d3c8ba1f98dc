//! Everything about one machine that its tasks and its test look at.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use qga_proto::command::{Command as _, GuestFsfreezeFreeze, GuestFsfreezeThaw};
use qga_proto::{Job, Outcome, Server, Ticket};

use crate::sim::agent::{Agent, Mode, OldLine, OldLines};
use crate::sim::guest::{By, Episode, Filesystem, Guest};
use crate::sim::script::{Act, Script};

/// Replies that may wait for a client that does not read.
const MAX_OUT: usize = 4 << 20;
/// Commands that are remembered.
const MAX_RAN: usize = 1024;

/// What is true of a machine, whatever anybody says.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The freeze in force, of at least one filesystem.
    pub frozen: Option<Episode>,
    /// Freezes that are over, oldest first.
    pub past: Vec<Episode>,
    /// The filesystems, each with its number of writes.
    pub filesystems: Vec<Filesystem>,
    /// When the guest thaws by itself.
    pub deadline: Option<Duration>,
    /// The guest's clock.
    pub now: Duration,
    /// Whether QEMU runs.
    pub on: bool,
    /// Whether the agent runs.
    pub agent_runs: bool,
    /// What the agent calls itself.
    pub says_frozen: bool,
    /// Which boot this is.
    pub boot_id: String,
    /// Which run of the agent this is.
    pub agent_instance: String,
    /// Freezes that a qga-agent has counted.
    pub generation: u64,
    /// Commands in the order in which they were run, the latest 1024, without syncs.
    pub ran: Vec<&'static str>,
    /// Whether a client is being served.
    pub connected: bool,
    /// Clients that have been served.
    pub connections: usize,
    /// Commands that came on a connection before a sync had been answered on it.
    pub blind: Vec<&'static str>,
}

impl Truth {
    /// How often the filesystems that `mountpoints` names were written to; all that can freeze if
    /// it names none.
    pub fn writes(&self, mountpoints: &[String]) -> u64 {
        let freezes = |f: &&Filesystem| f.kind == crate::sim::Kind::Freezes;
        let named = |f: &&Filesystem| mountpoints.is_empty() || mountpoints.contains(&f.mountpoint);
        self.filesystems.iter().filter(freezes).filter(named).map(|f| f.writes).sum()
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) guest: Guest,
    agent: Agent,
    on: bool,
    alive: bool,
    /// Grows with each process of the agent: what an earlier one was doing is over.
    pub(super) epoch: u64,
    server: Server,
    old: Option<OldLines>,
    /// Commands that take their time.
    busy: usize,
    pub(super) out: BytesMut,
    connected: bool,
    connections: usize,
    /// The first request of the client that is served. Those of an earlier one may still run.
    own: Ticket,
    synced: bool,
    pub(super) hang_up: bool,
    blind: Vec<&'static str>,
    ran: VecDeque<&'static str>,
    pub(super) script: Script,
}

impl State {
    pub(super) fn new(mode: Mode, guest: Guest, seed: u64) -> Self {
        let server = Server::new();
        Self {
            guest,
            agent: Agent::new(mode, id()),
            on: false,
            alive: false,
            epoch: 0,
            own: server.next_ticket(),
            server,
            old: None,
            busy: 0,
            out: BytesMut::new(),
            connected: false,
            connections: 0,
            synced: false,
            hang_up: false,
            blind: Vec::new(),
            ran: VecDeque::new(),
            script: Script::new(seed),
        }
    }

    pub(super) fn truth(&mut self) -> Truth {
        self.agent.settle(&mut self.guest);
        Truth {
            frozen: self.guest.current().cloned(),
            past: self.guest.past(),
            filesystems: self.guest.counted(),
            deadline: self.agent.deadline(),
            now: self.guest.now(),
            on: self.on,
            agent_runs: self.alive,
            says_frozen: self.agent.says_frozen(),
            boot_id: self.guest.boot_id.clone(),
            agent_instance: self.agent.instance.clone(),
            generation: self.agent.generation(),
            ran: self.ran.iter().copied().collect(),
            connected: self.connected,
            connections: self.connections,
            blind: self.blind.clone(),
        }
    }

    pub(super) fn ran(&self, which: impl Fn(&str) -> bool) -> usize {
        self.ran.iter().filter(|ran| which(ran)).count()
    }

    pub(super) fn kill_agent(&mut self) {
        self.agent.settle(&mut self.guest);
        self.alive = false;
        self.epoch += 1;
        self.busy = 0;
        self.server = Server::new();
        self.own = self.server.next_ticket();
        self.old = (self.agent.mode == Mode::Ancient).then(OldLines::default);
        // What was written to the port is the host's already.
    }

    pub(super) fn start_agent(&mut self) {
        if !self.alive {
            self.agent.restart(id());
            self.agent.settle(&mut self.guest);
            self.alive = true;
        }
    }

    /// The guest has stopped, and its disks with it.
    pub(super) fn power_off(&mut self) {
        self.kill_agent();
        self.guest.reset(String::new());
        self.on = false;
        self.connected = false;
        self.out.clear();
    }

    /// Another boot.
    pub(super) fn reset(&mut self) {
        self.kill_agent();
        self.on = true;
        self.guest.reset(id());
        self.agent.reboot(&self.guest, id());
        self.alive = true;
    }

    pub(super) fn freeze_inside(&mut self, through_agent: bool) {
        if through_agent {
            self.command(GuestFsfreezeFreeze::INFO.name);
        } else {
            for at in 0..self.guest.filesystems.len() {
                self.guest.freeze(at, &By::Inside);
            }
        }
    }

    pub(super) fn tear_through_agent(&mut self) {
        self.command(GuestFsfreezeThaw::INFO.name);
        self.command(GuestFsfreezeFreeze::INFO.name);
    }

    /// Runs a command that came on another of the agent's channels.
    fn command(&mut self, name: &str) {
        let mut channel = Server::new();
        channel.feed(format!("{{\"execute\": \"{name}\"}}\n").as_bytes());
        while let Some(job) = channel.poll(Instant::now(), &mut |_| true) {
            let outcome = self.agent.run(&mut self.guest, &job);
            channel.complete(job.ticket, outcome);
        }
        self.guest.mark_inside();
    }

    pub(super) fn connect(&mut self) {
        self.connected = true;
        self.connections += 1;
        self.hang_up = false;
        self.own = self.server.next_ticket();
        self.synced = false;
        if self.agent.mode == Mode::Qga {
            self.out.clear();
        }
    }

    /// The client has gone. A stock agent keeps what it has half read, and its replies for whoever
    /// comes next; ours forgets both.
    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        if self.agent.mode == Mode::Qga {
            self.server.reset();
            self.out.clear();
        }
    }

    pub(super) fn wants_input(&self) -> bool {
        self.alive && self.server.wants_input() && self.out.len() < MAX_OUT
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let Some(old) = &mut self.old else {
            self.server.feed(bytes);
            self.gather(&Act::Pass);
            return;
        };
        for line in old.feed(bytes) {
            match line {
                OldLine::Request(line) => self.server.feed(&line),
                OldLine::Answer(answer) => self.out.extend_from_slice(answer),
            }
        }
        self.gather(&Act::Pass);
    }

    /// Runs what may run; gives a command that takes its time.
    pub(super) fn next_slow(&mut self) -> Option<Job> {
        while self.alive && self.out.len() < MAX_OUT && !(self.agent.serial() && self.busy > 0) {
            let job = self.server.poll(Instant::now(), &mut |_| true)?;
            if !self.synced && job.ticket >= self.own && !job.info.is_sync() {
                self.blind.push(job.info.name);
            }
            if !self.script.is_plain(job.info) {
                self.busy += 1;
                self.agent.settle(&mut self.guest);
                self.agent.received(&self.guest, &job);
                return Some(job);
            }
            let outcome = self.run(&job);
            self.complete(job.ticket, outcome, &Act::Pass);
        }
        None
    }

    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        if self.agent.serial() { None } else { self.server.next_wakeup() }
    }

    pub(super) fn is_stopped(&self, ticket: Ticket) -> bool {
        self.agent.is_stopped(ticket)
    }

    pub(super) fn run(&mut self, job: &Job) -> Outcome {
        let outcome = self.agent.run(&mut self.guest, job);
        if job.info.is_sync() {
            self.synced |= job.ticket >= self.own && matches!(outcome, Outcome::Return(_));
        } else {
            if self.ran.len() == MAX_RAN {
                self.ran.pop_front();
            }
            self.ran.push_back(job.info.name);
        }
        outcome
    }

    pub(super) fn complete(&mut self, ticket: Ticket, outcome: Outcome, act: &Act) {
        let outcome = match act {
            Act::Lose | Act::Swallow | Act::Instead(_) => Outcome::Silent,
            Act::Answer(json) => Outcome::Return(json.clone()),
            _ => outcome,
        };
        self.server.complete(ticket, outcome);
        self.gather(act);
    }

    /// A command that took its time is done.
    pub(super) fn done(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }

    /// Takes over what the parser has to say.
    fn gather(&mut self, act: &Act) {
        let before = self.out.len();
        while !self.server.output().is_empty() {
            let count = self.server.output().len();
            self.out.extend_from_slice(self.server.output());
            self.server.consume_output(count);
        }
        match act {
            Act::Repeat => {
                let again = self.out[before..].to_vec();
                self.out.extend_from_slice(&again);
            }
            Act::Instead(bytes) => self.out.extend_from_slice(bytes),
            Act::HangUp => self.hang_up = true,
            _ => {}
        }
    }
}

/// Like the kernel's random ids, and no two alike.
fn id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("00000000-0000-4000-8000-{:012x}", NEXT.fetch_add(1, Ordering::Relaxed))
}
