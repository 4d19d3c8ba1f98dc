//! The thread that carries out freezes and thaws.
//!
//! ```text
//!            freeze                    all done, n > 0
//!   Thawed ─────────▶ Freezing ──────────────────────────▶ Frozen
//!     ▲                │  │ │                               │  ▲
//!     │ refused, n = 0 │  │ └─ hook or mount fails  thaw or │  │ one is stuck in the kernel
//!     ├────────────────┘  │                   ▼    deadline ▼  │
//!     │                   └─ thaw, deadline ─▶ Thawing ◀───────┤
//!     │          all thawed                 │    └─────────────┘
//!     └─────────────────────────────────────┘
//! ```
//!
//! * A freeze runs the hook and walks the mounts from the latest to the first, one FIFREEZE at a
//!   time ([`freezing`]).
//! * A thaw that arrives meanwhile stops it: no further mount is frozen, the freeze is answered
//!   with an error, and all mounts are thawed from the first to the latest ([`thawing`]).
//! * A filesystem whose FIFREEZE or FITHAW is still in the kernel is left alone: one call at a
//!   time. When a FIFREEZE returns after its freeze was stopped, a FITHAW follows it.
//! * If one of them takes longer than [`Patience`] allows, the thaw is answered with an error that
//!   names it, and the phase stays `Frozen`. The last of them to be thawed ends the phase.
//! * The thaw hook runs once after each freeze hook, when everything was tried ([`hooks`]). A thaw
//!   without a freeze runs it too, as qemu-ga's does.
//! * Each step is on record before it is taken ([`record`](super::record)), for the agent after
//!   this one ([`restart`]). A lease and a deadline belong to the freeze ([`lease`]).

mod calls;
mod freezing;
mod hooks;
mod lease;
mod restart;
mod thawing;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use qga_proto::command::{FreezeResult, ThawCause};
use qga_proto::{Outcome, QgaError};

use self::calls::{Call, Held};
use super::kernel::{Kernel, Thawed};
use super::marker::Marker;
use super::mounts::Device;
use super::order::Order;
use super::phase::{Phase, SharedPhase};
use super::record::{Record, Store};
use super::report::SharedReport;
use super::settings::FreezeSettings;
use super::{STACK, WhenThawed};
use crate::worker::Reply;
use crate::{errno, log, sys};

/// Orders that may wait while another one is carried out.
const MAX_WAITING: usize = 64;

/// What arrives at the engine.
#[derive(Debug)]
pub(super) enum Message {
    /// From a client.
    Order(Order, Reply),
    /// The deadline may have passed.
    Tick,
    /// The agent that left the marker behind is gone, with all that it had in the kernel.
    PredecessorGone,
    /// From a thread whose call has returned.
    Returned(Device, Returned),
    /// From the thread of the hook with this number.
    HookEnded(u64, Result<(), QgaError>),
}

/// What a call returned.
#[derive(Debug)]
pub(super) enum Returned {
    Freeze(FreezeResult, Option<String>),
    Thaw(Thawed),
}

/// How long a thaw waits for filesystems that do not thaw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For each of them, before it goes on with the next one: for the sake of the order.
    pub(super) each: Duration,
    /// For the last of them, before it is answered.
    pub(super) all: Duration,
    /// For a hook, longer than it may run.
    pub(super) hook: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            each: Duration::from_millis(200),
            all: Duration::from_secs(1),
            hook: Duration::from_secs(2),
        }
    }
}

pub(super) struct Engine<K> {
    kernel: Arc<K>,
    settings: FreezeSettings,
    phase: Arc<SharedPhase>,
    report: Arc<SharedReport>,
    marker: Marker,
    store: Store,
    record: Record,
    when_thawed: Option<WhenThawed>,
    pub(super) patience: Patience,
    outbox: SyncSender<Message>,
    inbox: Receiver<Message>,
    /// Orders that came while another one was carried out.
    waiting: VecDeque<(Order, Reply)>,
    /// In the kernel: at most one per filesystem.
    calls: Vec<Call>,
    /// Threads that hold what they froze.
    held: Vec<Held>,
    /// Filesystems thawed since the freeze.
    thawed: u64,
    /// Between [`enter`](Self::enter) and [`leave`](Self::leave). The phase says it to others.
    entered: bool,
    /// A freeze is under way.
    freezing: bool,
    /// How long the freeze lasts once it is in force.
    term: Option<Duration>,
    /// A thaw was answered while calls were in the kernel; the last of them ends the phase.
    stuck: bool,
    /// Why a FITHAW could not even be tried.
    untried: Option<String>,
    /// The agent before this one is still in the kernel.
    predecessor: bool,
    left_behind: Option<OwnedFd>,
    /// The freeze hook was started, and the thaw hook has not been.
    hook_due: bool,
    /// How the thaw hook of this freeze failed.
    hook_error: Option<QgaError>,
    /// Hooks run so far.
    hooks: u64,
    /// The marker is there, and the record is about what it stands for.
    resumes: bool,
    /// The record is of another boot.
    other_boot: bool,
}

impl<K: Kernel> Engine<K> {
    pub(super) fn new(
        kernel: Arc<K>,
        settings: FreezeSettings,
        phase: Arc<SharedPhase>,
        report: Arc<SharedReport>,
        marker: Marker,
        when_thawed: Option<WhenThawed>,
        (outbox, inbox): (SyncSender<Message>, Receiver<Message>),
    ) -> Self {
        let entered = phase.now() == Phase::Frozen;
        let store = Store::new(marker.state_dir());
        Self {
            kernel,
            settings,
            phase,
            report,
            marker,
            store,
            record: Record::default(),
            when_thawed,
            patience: Patience::default(),
            outbox,
            inbox,
            waiting: VecDeque::new(),
            calls: Vec::new(),
            held: Vec::new(),
            thawed: 0,
            entered,
            freezing: false,
            term: None,
            stuck: false,
            untried: None,
            predecessor: false,
            left_behind: None,
            hook_due: false,
            hook_error: None,
            hooks: 0,
            resumes: false,
            other_boot: false,
        }
    }

    /// Carries out orders as long as the agent lives.
    pub(super) fn run(mut self) {
        self.resume();
        loop {
            let message = match self.waiting.pop_front() {
                Some((order, reply)) => Ok(Message::Order(order, reply)),
                None => self.receive(None),
            };
            match message {
                Ok(Message::Order(Order::Freeze { names, lease }, reply)) => {
                    self.freeze(names.as_deref(), lease, reply);
                }
                Ok(Message::Order(Order::Thaw(by), reply)) => self.thaw(&by, reply),
                Ok(Message::Order(Order::Renew(lease, term), reply)) => {
                    self.renew(&lease, term, reply);
                }
                Ok(Message::Tick) => self.tick(),
                Ok(Message::Returned(device, returned)) => {
                    self.note(device, &returned);
                    self.leave_if_last();
                }
                Ok(Message::PredecessorGone) => {
                    self.predecessor_gone(self.stuck);
                    self.leave_if_last();
                }
                // Of a hook that was given up.
                Ok(Message::HookEnded(..)) => {}
                Err(_) => return,
            }
        }
    }

    /// The next message. A deadline is renewed here, whatever the engine is waiting for.
    fn receive(&mut self, until: Option<Instant>) -> Result<Message, RecvTimeoutError> {
        loop {
            let message = match until {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)?,
                Some(until) => {
                    self.inbox.recv_timeout(until.saturating_duration_since(Instant::now()))?
                }
            };
            match message {
                Message::Order(Order::Renew(lease, term), reply) => {
                    self.renew(&lease, term, reply);
                }
                other => return Ok(other),
            }
        }
    }

    /// What has to be done with a message that nobody is waiting for just now.
    fn put_by(&mut self, message: Message) {
        match message {
            Message::Order(order @ Order::Freeze { .. }, reply) if self.freezing => {
                reply.send(Outcome::Error(self.refusal(&order)));
            }
            Message::Order(order, reply) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back((order, reply));
            }
            Message::Order(_, reply) => reply.send(Outcome::Error(too_many())),
            Message::Returned(device, returned) => self.note(device, &returned),
            Message::PredecessorGone => self.predecessor_gone(!self.freezing),
            // The timer ticks until the deadline is dealt with.
            Message::Tick | Message::HookEnded(..) => {}
        }
    }

    /// From here until [`leave`](Self::leave) the agent after this one counts as frozen.
    fn enter(&mut self) -> Result<(), QgaError> {
        self.persist()?;
        if !self.entered {
            self.marker.create().map_err(|e| {
                let path = self.marker.path().display();
                QgaError::generic(format!("failed to create {path}: {}", errno::of(&e)))
            })?;
        }
        self.entered = true;
        Ok(())
    }

    /// From here until [`leave`](Self::leave) nothing that the agent does may touch a disk.
    fn go_quiet() {
        log::warning(format_args!("disabling logging due to filesystem freeze"));
        log::suspend();
        lock_memory();
    }

    /// Nothing is frozen any more. Runs the thaw hook if it is still due.
    fn leave(&mut self, cause: Option<ThawCause>) {
        self.entered = false;
        self.stuck = false;
        self.held.clear();
        self.kernel.tick_from(None);
        let hook = std::mem::take(&mut self.hook_due);
        let mut faults = Vec::new();
        if hook {
            self.at_stage(super::record::Stage::ThawHook, cause);
            faults.extend(self.persist().err());
        } else {
            self.settle(cause, &mut faults);
        }
        unlock_memory();
        // An agent that ends waits for the phase, and so for the hook.
        let ending = cause == Some(ThawCause::Stopped);
        if !ending {
            self.phase.set(Phase::Thawed);
        }
        log::resume();
        if let Some(when_thawed) = self.when_thawed.take() {
            when_thawed();
        }
        if hook {
            self.run_thaw_hook();
            self.settle(cause, &mut faults);
        }
        if ending {
            self.phase.set(Phase::Thawed);
        }
        for fault in faults {
            log::critical(format_args!("{fault}"));
        }
    }

    fn stay_frozen(&self) {
        if self.entered {
            self.phase.set(Phase::Frozen);
        }
    }

    /// Writes the record down, and shows it.
    fn persist(&self) -> Result<(), QgaError> {
        self.publish();
        self.store.save(&self.record).map_err(|e| {
            let path = self.store.path().display();
            QgaError::generic(format!("failed to write {path}: {}", errno::of(&e)))
        })
    }

    /// As [`persist`](Self::persist), where there is nobody to answer.
    fn persist_or_say(&self) {
        if let Err(error) = self.persist() {
            log::critical(format_args!("{error}"));
        }
    }

    fn publish(&self) {
        let calls = self.calls.iter().map(Call::shown).collect();
        self.report.publish(&self.record, calls, self.predecessor);
    }
}

fn too_many() -> QgaError {
    QgaError::generic("too many freezes and thaws are waiting")
}

fn no_mount_table() -> QgaError {
    QgaError::generic("failed to open mtab file: '/proc/self/mounts'")
}

fn lock_memory() {
    if let Err(e) = sys::memory::lock() {
        log::warning(format_args!("failed to lock memory: {}", errno::text(e)));
    }
}

fn unlock_memory() {
    if sys::memory::unlock().is_ok() {
        sys::memory::give_back();
    }
}

#[cfg(test)]
mod tests;
