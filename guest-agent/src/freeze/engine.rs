//! The thread that carries out freezes and thaws.
//!
//! ```text
//!            freeze                    all done, n > 0
//!   Thawed ─────────▶ Freezing ──────────────────────────▶ Frozen
//!     ▲                │  │ │                               │  ▲
//!     │ refused, n = 0 │  │ └─ a mount fails ─┐        thaw │  │ one is stuck in the kernel
//!     ├────────────────┘  │                   ▼             ▼  │
//!     │                   └──── thaw ─────▶ Thawing ◀──────────┤
//!     │          all thawed                 │    └─────────────┘
//!     └─────────────────────────────────────┘
//! ```
//!
//! * A freeze walks the mounts from the latest to the first, one FIFREEZE at a time.
//! * A thaw that arrives meanwhile stops it: no further mount is frozen, the freeze is answered
//!   with an error, and all mounts are thawed from the first to the latest.
//! * A filesystem whose FIFREEZE or FITHAW is still in the kernel is left alone: one call at a
//!   time. When a FIFREEZE returns after its freeze was stopped, a FITHAW follows it.
//! * What the agent before this one had in the kernel when it was killed counts as such a call.
//! * If one of them takes longer than [`Patience`] allows, the thaw is answered with an error that
//!   names it, and the phase stays `Frozen`. The last of them to be thawed ends the phase.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use qga_proto::{Outcome, QgaError};

use super::choice::{choose, holding_state};
use super::kernel::{Frozen, Kernel};
use super::marker::Marker;
use super::mounts::{Device, Target};
use super::phase::{Phase, SharedPhase};
use super::{Order, STACK, WhenThawed, predecessor};
use crate::worker::Reply;
use crate::{errno, log, sys};

/// What arrives at the engine.
#[derive(Debug)]
pub(super) enum Message {
    /// From a client.
    Order(Order, Reply),
    /// The agent that left the marker behind is gone, with all that it had in the kernel.
    PredecessorGone,
    /// From a thread whose call has returned.
    Returned(Device, Returned),
}

/// What a call returned.
#[derive(Debug)]
pub(super) enum Returned {
    Freeze(Frozen),
    Thaw(bool),
}

/// How long a thaw waits for filesystems that do not thaw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For each of them, before it goes on with the next one: for the sake of the order.
    pub(super) each: Duration,
    /// For the last of them, before it is answered.
    pub(super) all: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { each: Duration::from_millis(200), all: Duration::from_secs(1) }
    }
}

/// A call that is in the kernel.
#[derive(Debug)]
struct Call {
    device: Device,
    path: PathBuf,
}

/// Why a freeze did not come to its end.
enum Stopped {
    /// Nothing was frozen.
    Refused(QgaError),
    /// A mount failed.
    Failed(QgaError),
    /// A client wants a thaw.
    ByThaw(Reply),
}

pub(super) struct Engine<K> {
    kernel: Arc<K>,
    phase: Arc<SharedPhase>,
    marker: Marker,
    when_thawed: Option<WhenThawed>,
    patience: Patience,
    outbox: SyncSender<Message>,
    inbox: Receiver<Message>,
    /// Orders that came while another one was carried out.
    waiting: VecDeque<(Order, Reply)>,
    /// At most one per filesystem.
    calls: Vec<Call>,
    /// Filesystems thawed since the last thaw began.
    thawed: i64,
    /// Between [`enter`](Self::enter) and [`leave`](Self::leave). The phase says it to others.
    entered: bool,
    /// A thaw was answered while calls were in the kernel; the last of them ends the phase.
    stuck: bool,
    /// Why a FITHAW could not even be tried.
    untried: Option<String>,
    /// The agent before this one is still in the kernel.
    predecessor: bool,
}

impl<K: Kernel> Engine<K> {
    pub(super) fn new(
        kernel: Arc<K>,
        phase: Arc<SharedPhase>,
        marker: Marker,
        when_thawed: Option<WhenThawed>,
        (outbox, inbox): (SyncSender<Message>, Receiver<Message>),
    ) -> Self {
        let entered = phase.now() == Phase::Frozen;
        Self {
            kernel,
            phase,
            marker,
            when_thawed,
            patience: Patience::default(),
            outbox,
            inbox,
            waiting: VecDeque::new(),
            calls: Vec::new(),
            thawed: 0,
            entered,
            stuck: false,
            untried: None,
            predecessor: false,
        }
    }

    /// Carries out orders as long as the agent lives.
    pub(super) fn run(mut self) {
        if self.entered {
            lock_memory();
            self.watch_predecessor();
        }
        loop {
            let message = match self.waiting.pop_front() {
                Some((order, reply)) => Ok(Message::Order(order, reply)),
                None => self.inbox.recv(),
            };
            match message {
                Ok(Message::Order(Order::Freeze(names), reply)) => {
                    self.freeze(names.as_deref(), reply);
                }
                Ok(Message::Order(Order::Thaw, reply)) => self.thaw(reply),
                Ok(Message::Returned(device, returned)) => {
                    self.note(device, &returned);
                    self.leave_if_last();
                }
                Ok(Message::PredecessorGone) => {
                    self.predecessor_gone(self.stuck);
                    self.leave_if_last();
                }
                Err(_) => return,
            }
        }
    }

    fn watch_predecessor(&mut self) {
        let Some(process) = self.marker.predecessor() else { return };
        let outbox = self.outbox.clone();
        let watching = std::thread::Builder::new()
            .name("predecessor".into())
            .stack_size(STACK)
            .spawn(move || {
                predecessor::wait(&process);
                drop(outbox.send(Message::PredecessorGone));
            });
        self.predecessor = watching.is_ok();
    }

    /// Whatever it froze last it froze behind the back of a thaw.
    fn predecessor_gone(&mut self, thawing: bool) {
        self.predecessor = false;
        if thawing {
            match self.kernel.mounts() {
                Ok(mounts) => self.call_all_thaws(&mounts.targets()),
                Err(_) => self.untried = Some(no_mount_table().desc),
            }
        }
    }

    fn call_all_thaws(&mut self, targets: &[Target]) {
        for target in targets {
            if self.calls.iter().all(|call| call.device != target.device) {
                self.call_thaw(target);
                self.wait(Some(target.device), self.patience.each);
            }
        }
    }

    fn leave_if_last(&mut self) {
        if self.stuck && self.all_thawed() {
            self.leave();
        }
    }

    fn freeze(&mut self, names: Option<&[String]>, reply: Reply) {
        log::info(format_args!("guest-fsfreeze called"));
        self.phase.set(Phase::Freezing);
        match self.freeze_chosen(names) {
            Ok(0) => {
                self.leave();
                reply.send(Outcome::value(&0));
            }
            Ok(count) => {
                self.phase.set(Phase::Frozen);
                reply.send(Outcome::value(&count));
            }
            Err(Stopped::Refused(error)) => {
                self.phase.set(Phase::Thawed);
                reply.send(Outcome::Error(error));
            }
            Err(Stopped::Failed(error)) => {
                self.phase.set(Phase::Thawing);
                if let Err(stuck) = self.thaw_all() {
                    log::critical(format_args!("{stuck}"));
                }
                reply.send(Outcome::Error(error));
            }
            Err(Stopped::ByThaw(thaw)) => {
                self.phase.set(Phase::Thawing);
                reply.send(Outcome::Error(QgaError::generic("stopped by thaw")));
                self.thaw(thaw);
            }
        }
    }

    fn freeze_chosen(&mut self, names: Option<&[String]>) -> Result<i64, Stopped> {
        let targets = self.choose(names).map_err(Stopped::Refused)?;
        self.enter().map_err(Stopped::Refused)?;
        let mut count = 0;
        for target in targets {
            while self.calls.iter().any(|call| call.device == target.device) {
                self.wait_for_freeze(target.device)?;
            }
            let (kernel, path) = (Arc::clone(&self.kernel), target.path.clone());
            self.call(&target, move || Returned::Freeze(kernel.freeze(&path)))
                .map_err(|why| Stopped::Failed(QgaError::generic(why)))?;
            match self.wait_for_freeze(target.device)? {
                Returned::Freeze(Frozen::Yes) => count += 1,
                Returned::Freeze(Frozen::Failed(text)) => {
                    return Err(Stopped::Failed(QgaError::generic(text)));
                }
                Returned::Freeze(Frozen::Skipped) | Returned::Thaw(_) => {}
            }
        }
        Ok(count)
    }

    fn choose(&self, names: Option<&[String]>) -> Result<Vec<Target>, QgaError> {
        let mounts = self.kernel.mounts().map_err(|_| no_mount_table())?;
        let targets = choose(&mounts, names)?;
        let dir = self.marker.state_dir();
        match holding_state(&mounts, &targets, dir) {
            Ok(None) => Ok(targets),
            Ok(Some(target)) => Err(QgaError::generic(format!(
                "failed to freeze {}: the agent's state directory {} lies on it (see --statedir)",
                target.path.display(),
                dir.display()
            ))),
            Err(e) => Err(QgaError::generic(format!(
                "failed to resolve state directory {}: {}",
                dir.display(),
                errno::of(&e)
            ))),
        }
    }

    fn thaw(&mut self, reply: Reply) {
        log::info(format_args!("guest-fsthaw called"));
        if self.entered {
            self.phase.set(Phase::Thawing);
        }
        let outcome = self.thaw_all();
        reply.send(outcome.into());
    }

    /// Thaws everything, and leaves the frozen state unless one of them is stuck.
    fn thaw_all(&mut self) -> Result<i64, QgaError> {
        self.thawed = 0;
        self.stuck = false;
        self.untried = None;
        let Ok(mounts) = self.kernel.mounts() else {
            self.stay_frozen();
            return Err(no_mount_table());
        };
        self.call_all_thaws(&mounts.targets());
        self.wait(None, self.patience.all);
        if self.all_thawed() {
            if self.entered {
                self.leave();
            }
            return Ok(self.thawed);
        }
        self.stuck = self.entered;
        self.stay_frozen();
        Err(self.not_all_thawed())
    }

    fn all_thawed(&self) -> bool {
        self.calls.is_empty() && !self.predecessor && self.untried.is_none()
    }

    fn not_all_thawed(&self) -> QgaError {
        let thawed = self.thawed;
        QgaError::generic(if let Some(why) = &self.untried {
            format!("failed to thaw: {why}; thawed {thawed} filesystems")
        } else {
            let mut stuck: Vec<_> =
                self.calls.iter().map(|call| call.path.display().to_string()).collect();
            if self.predecessor {
                stuck.push("what the previous agent was freezing".to_owned());
            }
            format!(
                "failed to thaw {}: busy in the kernel, it will be thawed as soon as that ends; \
                 thawed {thawed} filesystems",
                stuck.join(", ")
            )
        })
    }

    /// Waits until the call for `device` has returned, or all of them, or `patience` is over.
    /// Orders have to wait.
    fn wait(&mut self, device: Option<Device>, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.calls.iter().any(|call| device.is_none_or(|device| call.device == device))
            || (device.is_none() && self.predecessor)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left) {
                Ok(Message::Order(order, reply)) => self.waiting.push_back((order, reply)),
                Ok(Message::Returned(device, returned)) => self.note(device, &returned),
                Ok(Message::PredecessorGone) => self.predecessor_gone(true),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// As [`wait`](Self::wait), during a freeze: without end, unless a thaw comes.
    fn wait_for_freeze(&mut self, device: Device) -> Result<Returned, Stopped> {
        loop {
            match self.inbox.recv() {
                Ok(Message::Order(Order::Thaw, reply)) => return Err(Stopped::ByThaw(reply)),
                Ok(Message::Order(order, reply)) => self.waiting.push_back((order, reply)),
                Ok(Message::Returned(which, returned)) => {
                    self.calls.retain(|call| call.device != which);
                    if which == device {
                        return Ok(returned);
                    }
                }
                Ok(Message::PredecessorGone) => self.predecessor = false,
                // The engine holds a sender itself.
                Err(_) => {
                    return Err(Stopped::Failed(QgaError::generic("the agent is ending")));
                }
            }
        }
    }

    /// A call has returned that a thaw, or nobody, waits for.
    fn note(&mut self, device: Device, returned: &Returned) {
        let Some(at) = self.calls.iter().position(|call| call.device == device) else { return };
        let call = self.calls.swap_remove(at);
        match returned {
            Returned::Freeze(_) => self.call_thaw(&Target { device, path: call.path }),
            Returned::Thaw(thawed) => self.thawed += i64::from(*thawed),
        }
    }

    fn call_thaw(&mut self, target: &Target) {
        let (kernel, path) = (Arc::clone(&self.kernel), target.path.clone());
        if let Err(why) = self.call(target, move || Returned::Thaw(kernel.thaw(&path))) {
            self.untried = Some(why);
        }
    }

    /// Makes one call on a thread of its own.
    fn call(
        &mut self,
        target: &Target,
        call: impl FnOnce() -> Returned + Send + 'static,
    ) -> Result<(), String> {
        let device = target.device;
        let outbox = self.outbox.clone();
        // Where threads are listed, this one says which filesystem it is stuck on.
        let mount_point = target.path.file_name().unwrap_or(target.path.as_os_str());
        std::thread::Builder::new()
            .name(format!("fs:{}", mount_point.to_string_lossy()))
            .stack_size(STACK)
            // The engine, and so the inbox, lives as long as the agent.
            .spawn(move || drop(outbox.send(Message::Returned(device, call()))))
            .map_err(|e| format!("failed to start a thread: {}", errno::of(&e)))?;
        self.calls.push(Call { device, path: target.path.clone() });
        Ok(())
    }

    /// From here until [`leave`](Self::leave) nothing that the agent does may touch a disk.
    fn enter(&mut self) -> Result<(), QgaError> {
        log::warning(format_args!("disabling logging due to filesystem freeze"));
        log::suspend();
        lock_memory();
        self.marker.create().map_err(|e| {
            unlock_memory();
            log::resume();
            let path = self.marker.path().display();
            QgaError::generic(format!("failed to create {path}: {}", errno::of(&e)))
        })?;
        self.entered = true;
        Ok(())
    }

    fn leave(&mut self) {
        self.entered = false;
        self.stuck = false;
        let removed = self.marker.remove();
        unlock_memory();
        self.phase.set(Phase::Thawed);
        log::resume();
        if let Err(e) = removed {
            let path = self.marker.path().display();
            log::critical(format_args!("unable to remove {path}: {}", errno::of(&e)));
        }
        if let Some(when_thawed) = self.when_thawed.take() {
            when_thawed();
        }
    }

    fn stay_frozen(&self) {
        if self.entered {
            self.phase.set(Phase::Frozen);
        }
    }
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
