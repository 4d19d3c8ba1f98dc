//! What a VM's actor and its handles share, and what follows when the link changes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use qga_proto::command::CommandInfo;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{ExternalFreeze, Mode, VmConfig};
use crate::metrics::CommandOutcome;
use crate::printable::printable;
use crate::vm::call::CallOptions;
use crate::vm::capabilities::Capabilities;
use crate::vm::counters::Counters;
use crate::vm::events::{Event, EventKind};
use crate::vm::link::{Link, LinkState};
use crate::vm::open_files::OpenFiles;
use crate::vm::pending::{Pending, Work};
use crate::vm::qmp::Monitor;
use crate::vm::queue::Queue;
use crate::vm::settings::Settings;
use crate::vm::signs::{Sign, Signs};
use crate::vm::{Incarnation, VmId};

/// What a VM's actor and its handles share.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) id: VmId,
    place: RwLock<Place>,
    /// Who may do what hangs on them, so they change while a lease keeps all else.
    labels: RwLock<Arc<BTreeMap<String, String>>>,
    pub(crate) owners: Box<[u32]>,
    pub(crate) mode: Mode,
    /// The socket is the one that libvirt itself holds: it is not touched.
    pub(crate) left_alone: bool,
    /// The gateway makes the socket, and QEMU connects to it.
    pub(crate) listens: bool,
    pub(super) external_freeze: ExternalFreeze,
    pub(crate) settings: Arc<Settings>,
    pub(crate) link: Link,
    pub(crate) counters: Counters,
    pub(in crate::vm) qmp: Option<Box<Monitor>>,
    /// What QMP has seen and the session has not looked at yet.
    pub(in crate::vm) signs: Signs,
    queue: Mutex<Queue<Box<Pending>>>,
    pub(super) capabilities: Mutex<Option<Arc<Capabilities>>>,
    /// Whose the handles of files are that are open in the guest.
    pub(crate) open_files: OpenFiles,
    /// When they were last asked for out of turn.
    renewed: Mutex<Option<Instant>>,
    /// Wakes the actor: a call, a socket that may have appeared, or the end.
    pub(crate) wake: Notify,
    pub(super) kicked: AtomicBool,
    /// Somebody asks whether what is in flight will be answered at all.
    pub(super) doubted: AtomicBool,
    pub(super) closed: AtomicBool,
    /// Leases that need the VM kept and its connection held.
    pub(super) pins: AtomicU32,
    /// Connections lost, silences begun, resets: what spoils a lease's verdict.
    disruptions: AtomicU64,
    /// Changes of the guest begun and ended: what makes kept answers old.
    pub(super) changes: AtomicU64,
    /// What the last one was.
    pub(super) disruption: Mutex<Option<Cow<'static, str>>>,
    pub(super) incarnation: Mutex<Option<Incarnation>>,
}

/// Where a VM's sockets are. libvirt gives them other names at each start.
#[derive(Debug)]
struct Place {
    socket: Arc<Path>,
    /// Grows when they move.
    moves: u32,
}

impl Vm {
    pub(super) fn new(config: VmConfig, settings: Arc<Settings>) -> Self {
        let left_alone = config.is_left_alone();
        let VmConfig {
            id, socket, labels, mode, owner_uids, qmp, external_freeze, listens, ..
        } = config;
        Self {
            id,
            place: RwLock::new(Place { socket: socket.into(), moves: 0 }),
            labels: RwLock::new(Arc::new(labels)),
            owners: owner_uids.into(),
            mode,
            left_alone,
            listens,
            external_freeze,
            link: Link::new(LinkState::Absent, Some("not looked for yet".into())),
            counters: Counters::default(),
            qmp: qmp.map(|socket| Box::new(Monitor::new(socket))),
            signs: Signs::default(),
            queue: Mutex::new(Queue::default()),
            capabilities: Mutex::default(),
            open_files: OpenFiles::default(),
            renewed: Mutex::default(),
            wake: Notify::new(),
            kicked: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pins: AtomicU32::new(0),
            disruptions: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            disruption: Mutex::default(),
            incarnation: Mutex::default(),
            settings,
        }
    }

    pub(crate) fn options(&self, info: &CommandInfo) -> CallOptions {
        let settings = &self.settings;
        let most = settings.limits().reply_cap_bytes;
        CallOptions::from_config(info, &settings.timeouts(), most)
    }

    /// Where the link stands now: the one place that says so to watchers, subscribers and the log.
    pub(crate) fn enter(&self, state: LinkState, reason: Option<String>) {
        let before = self.link.state();
        if self.link.set(state, reason) {
            self.link_changed(before);
        }
    }

    /// The guest's CPUs do not run: nothing in it can answer.
    pub(in crate::vm) fn pause(&self, reason: String) {
        let before = self.link.status().state;
        if self.link.pause(reason) {
            self.link_changed(before);
            self.wake.notify_one();
        }
    }

    /// The guest's CPUs run, or there is no telling any more.
    pub(in crate::vm) fn resume(&self) {
        if self.link.resume() {
            self.link_changed(LinkState::Paused);
            // On demand, nobody else would look how the guest is now.
            if self.mode == Mode::OnDemand {
                self.kicked.store(true, Ordering::Relaxed);
            }
            self.wake.notify_one();
        }
    }

    fn link_changed(&self, before: LinkState) {
        let link = self.link.status();
        tracing::info!(vm.id = %self.id, "{}: {link}", self.id);
        let event = Event::new(EventKind::LinkChanged).vm(&self.id);
        let event = event.with("state", link.state.as_str()).with("before", before.as_str());
        self.settings.events.publish(event.with("reason", link.reason.as_deref().map(printable)));
    }

    /// Something that spoils what is believed of the guest, seen elsewhere than on the link: whatever
    /// its agent had open it has not any more.
    pub(in crate::vm) fn upset(&self, kind: EventKind, what: &'static str) {
        self.disrupted(what);
        self.open_files.empty();
        tracing::info!(vm.id = %self.id, "{}: {what}", self.id);
        self.settings.events.publish(Event::new(kind).vm(&self.id).with("reason", what));
    }

    pub(crate) fn socket(&self) -> Arc<Path> {
        self.place.read().unwrap_or_else(PoisonError::into_inner).socket.clone()
    }

    /// How often its sockets have moved.
    pub(in crate::vm) fn moves(&self) -> u32 {
        self.place.read().unwrap_or_else(PoisonError::into_inner).moves
    }

    /// Whether nothing but where its sockets are differs from this.
    pub(super) fn is_as(&self, config: &VmConfig) -> bool {
        self.id == config.id
            && *self.labels() == config.labels
            && *self.owners == *config.owner_uids
            && self.mode == config.mode
            && self.left_alone == config.is_left_alone()
            && self.listens == config.listens
            && self.external_freeze == config.external_freeze
            && self.qmp.is_some() == config.qmp.is_some()
    }

    pub(super) fn labels(&self) -> Arc<BTreeMap<String, String>> {
        self.labels.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It has these labels from now on. Returns whether it had others.
    pub(super) fn relabel(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut held = self.labels.write().unwrap_or_else(PoisonError::into_inner);
        let others = **held != *labels;
        if others {
            *held = Arc::new(labels.clone());
        }
        others
    }

    /// Its sockets are there from now on. Returns whether they were elsewhere.
    pub(super) fn move_to(&self, config: &VmConfig) -> bool {
        let mut moved = false;
        if let (Some(monitor), Some(qmp)) = (&self.qmp, &config.qmp) {
            moved |= monitor.move_to(qmp);
        }
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        if *place.socket != *config.socket {
            *place = Place { socket: config.socket.as_path().into(), moves: place.moves + 1 };
            moved = true;
        }
        moved
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue<Box<Pending>>> {
        lock(&self.queue)
    }

    /// Counts a command that has come to its end.
    pub(in crate::vm) fn note(&self, pending: &Pending, outcome: CommandOutcome) {
        if let (Work::Call { info, .. }, Some(sent)) = (&pending.work, pending.sent) {
            self.settings.commands.note(info.name, outcome, sent.elapsed());
        }
    }

    pub(crate) fn set_capabilities(&self, capabilities: Capabilities) {
        *lock(&self.capabilities) = Some(self.settings.agents.intern(capabilities));
    }

    /// What is known, if it is to be asked for again.
    pub(super) fn begin_renewal(&self) -> Option<Arc<Capabilities>> {
        let mut renewed = lock(&self.renewed);
        if renewed.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return None;
        }
        *renewed = Some(Instant::now());
        lock(&self.capabilities).clone()
    }

    /// Whether the agent is known to have extensions.
    pub(crate) fn has_extensions(&self) -> bool {
        lock(&self.capabilities).as_ref().is_some_and(|c| c.extensions().next().is_some())
    }

    pub(crate) fn has_capabilities(&self) -> bool {
        lock(&self.capabilities).is_some()
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn take_doubt(&self) -> bool {
        self.doubted.swap(false, Ordering::Relaxed)
    }

    /// Notes who listens on the socket. Another one than before is another VM, or the same one
    /// started afresh, even if nobody saw the old one go.
    pub(crate) fn behind(&self, listener: Option<Incarnation>) {
        let before = std::mem::replace(&mut *lock(&self.incarnation), listener);
        if let Some(before) = before
            && listener != Some(before)
        {
            let now = listener.map_or_else(|| "an unknown process".into(), |now| now.to_string());
            tracing::info!(vm.id = %self.id, "{}: {now} has taken the place of {before}", self.id);
            self.upset(EventKind::VmReplaced, "another process is behind the VM's socket");
        }
    }

    pub(crate) fn disruptions(&self) -> u64 {
        self.disruptions.load(Ordering::Relaxed)
    }

    pub(crate) fn disrupted(&self, what: impl Into<Cow<'static, str>>) {
        *lock(&self.disruption) = Some(what.into());
        self.disruptions.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells the session what QMP has seen.
    pub(in crate::vm) fn tell(&self, sign: Sign) {
        self.signs.add(sign);
        self.wake.notify_one();
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is as good as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
