//! What the rest of the gateway holds of a VM: a cheap clone that sends typed calls to its actor.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use qga_proto::command::{Command, CommandInfo, GuestInfo};
use qga_proto::{QgaError, ReplyError, ReplyText};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(super) use super::call::{CallError, CallOptions};
use super::capabilities::Capabilities;
use super::counters::{Counters, CountersSnapshot};
use super::events::{Event, EventKind};
use super::link::{Link, LinkState, LinkStatus};
pub(super) use super::pending::{Pending, Work};
use super::qmp::Monitor;
use super::queue::Queue;
use super::reads::outdates;
use super::settings::Settings;
use super::signs::{Sign, Signs};
use super::{Incarnation, VmId};
use crate::config::{ExternalFreeze, Mode, VmConfig};
use crate::printable::printable;

/// A VM, as the rest of the gateway knows it.
#[derive(Clone, Debug)]
pub struct VmHandle(Arc<Vm>);

/// What a VM's actor and its handles share.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) id: VmId,
    place: RwLock<Place>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owners: Box<[u32]>,
    pub(crate) mode: Mode,
    /// The socket is the one that libvirt itself holds: it is not touched.
    pub(crate) left_alone: bool,
    /// The gateway makes the socket, and QEMU connects to it.
    pub(crate) listens: bool,
    external_freeze: ExternalFreeze,
    pub(crate) settings: Arc<Settings>,
    pub(crate) link: Link,
    pub(crate) counters: Counters,
    pub(super) qmp: Option<Box<Monitor>>,
    /// What QMP has seen and the session has not looked at yet.
    pub(super) signs: Signs,
    queue: Mutex<Queue<Box<Pending>>>,
    capabilities: Mutex<Option<Arc<Capabilities>>>,
    /// When they were last asked for out of turn.
    renewed: Mutex<Option<Instant>>,
    /// Wakes the actor: a call, a socket that may have appeared, or the end.
    pub(crate) wake: Notify,
    kicked: AtomicBool,
    /// Somebody asks whether what is in flight will be answered at all.
    doubted: AtomicBool,
    closed: AtomicBool,
    /// Leases that need the VM kept and its connection held.
    pins: AtomicU32,
    /// Connections lost, silences begun, resets: what spoils a lease's verdict.
    disruptions: AtomicU64,
    /// Changes of the guest begun and ended: what makes kept answers old.
    changes: AtomicU64,
    /// What the last one was.
    disruption: Mutex<Option<Cow<'static, str>>>,
    incarnation: Mutex<Option<Incarnation>>,
}

/// Where a VM's sockets are. libvirt gives them other names at each start.
#[derive(Debug)]
struct Place {
    socket: Arc<Path>,
    /// Grows when they move.
    moves: u32,
}

impl VmHandle {
    pub(crate) fn new(config: VmConfig, settings: Arc<Settings>) -> Self {
        let left_alone = config.is_left_alone();
        let VmConfig {
            id, socket, labels, mode, owner_uids, qmp, external_freeze, listens, ..
        } = config;
        Self(Arc::new(Vm {
            id,
            place: RwLock::new(Place { socket: socket.into(), moves: 0 }),
            labels,
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
        }))
    }

    /// The VM's id.
    pub fn id(&self) -> &VmId {
        &self.0.id
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.0.labels
    }

    /// Its chardev's socket; a host path, so not for clients.
    pub fn socket(&self) -> Arc<Path> {
        self.0.socket()
    }

    /// When the gateway holds its socket.
    pub(crate) fn mode(&self) -> Mode {
        self.0.mode
    }

    /// What becomes of it if somebody else freezes it.
    pub(super) fn external_freeze(&self) -> ExternalFreeze {
        self.0.external_freeze
    }

    /// Whether the gateway does not know it any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Where its link stands; never touches the guest.
    pub fn link(&self) -> LinkStatus {
        self.0.link.status()
    }

    /// The link's changes, beginning with the present.
    pub fn link_changes(&self) -> watch::Receiver<LinkStatus> {
        self.0.link.subscribe()
    }

    /// What the agent said that it can do when it was last asked unfrozen.
    pub fn capabilities(&self) -> Option<Arc<Capabilities>> {
        lock(&self.0.capabilities).clone()
    }

    /// What went over the wire so far.
    pub fn counters(&self) -> CountersSnapshot {
        self.0.counters.snapshot()
    }

    /// The configured timeout and cap for a command.
    pub fn options(&self, info: &CommandInfo) -> CallOptions {
        self.0.options(info)
    }

    /// Sends a command and waits for its answer. Dropping the future does not take a command back
    /// that has left: its reply is consumed and thrown away.
    pub async fn call<C: Command>(
        &self,
        args: C,
        options: CallOptions,
    ) -> Result<C::Return, CallError> {
        let arguments = serde_json::to_string(&args)
            .map_err(|e| CallError::Agent(QgaError::generic(e.to_string())))?;
        let info = const { &C::INFO };
        let reply = self.call_raw(info, arguments, options).await?;
        let bad = |reason| CallError::BadReply { reason };
        match reply {
            Some(text) => text.decode::<C>().map_err(|error| match error {
                ReplyError::BadReply(reason) => bad(reason),
                error => bad(error.to_string()),
            }),
            None => serde_json::from_str("{}").map_err(|e| bad(e.to_string())),
        }
    }

    /// As [`call`](Self::call) with the arguments' text, and the answer as it came. No text for a
    /// success that is not answered.
    pub async fn call_raw(
        &self,
        info: &'static CommandInfo,
        arguments: String,
        options: CallOptions,
    ) -> Result<Option<ReplyText>, CallError> {
        let CallOptions { timeout, reply_cap, unless_disrupted } = options;
        let change = outdates(info).then(|| Change::begin(self));
        let answer =
            self.submit(Work::Call { info, arguments, reply_cap }, timeout, unless_disrupted).await;
        drop(change);
        answer
    }

    /// How many changes of the guest have begun or ended here.
    pub(super) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Relaxed)
    }

    /// Asks the agent anew what it can do. Not more often than once a second: whoever asks for what
    /// an agent does not have must not keep it busy.
    pub(crate) async fn renew_capabilities(&self, options: CallOptions) {
        let Some(before) = self.0.begin_renewal() else { return };
        // Frozen meanwhile, it would call almost everything disabled.
        if let Ok(info) = self.call(GuestInfo {}, options).await
            && self.link().state == LinkState::Ready
        {
            let (echoes_id, delimited) = (before.echoes_id, before.delimited_sync);
            self.0.set_capabilities(Capabilities::new(info, echoes_id, delimited));
        }
    }

    /// Completes a sync, and nothing else, once all before it has been answered.
    pub async fn resync(&self, timeout: Duration) -> Result<(), CallError> {
        self.submit(Work::Resync, timeout, None).await.map(drop)
    }

    /// Keeps the VM in the registry, and its connection open, until the pin is dropped.
    pub(crate) fn pin(&self) -> Pin {
        self.0.pins.fetch_add(1, Ordering::Relaxed);
        self.0.wake.notify_one();
        Pin(self.clone())
    }

    /// The process behind the socket when it was last connected to; `None` if there was none yet,
    /// or it cannot be told. Another one counts as a disruption.
    pub fn incarnation(&self) -> Option<Incarnation> {
        *lock(&self.0.incarnation)
    }

    /// How often the link has broken or gone silent, the guest was reset, or another process was
    /// found behind the socket.
    pub fn disruptions(&self) -> u64 {
        self.0.disruptions()
    }

    /// What the last disruption was, as a sentence.
    pub fn last_disruption(&self) -> Option<Cow<'static, str>> {
        lock(&self.0.disruption).clone()
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.0.is_pinned()
    }

    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.0.settings
    }

    pub(crate) fn shared(&self) -> &Arc<Vm> {
        &self.0
    }

    /// Tells the actor that the socket may have changed.
    pub(crate) fn kick(&self) {
        self.0.kicked.store(true, Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// Has a sync sent behind what is in flight. If it is answered first, what is in flight never
    /// will be, and ends as interrupted; until then, nothing changes.
    pub(crate) fn doubt(&self) {
        self.0.doubted.store(true, Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// Whether nothing but where its sockets are differs from this.
    pub(super) fn is_as(&self, config: &VmConfig) -> bool {
        let vm = &*self.0;
        vm.id == config.id
            && vm.labels == config.labels
            && *vm.owners == *config.owner_uids
            && vm.mode == config.mode
            && vm.left_alone == config.is_left_alone()
            && vm.listens == config.listens
            && vm.external_freeze == config.external_freeze
            && vm.qmp.is_some() == config.qmp.is_some()
    }

    /// Its sockets are there from now on. Returns whether they were elsewhere.
    pub(super) fn move_to(&self, config: &VmConfig) -> bool {
        let vm = &*self.0;
        let mut moved = false;
        if let (Some(monitor), Some(qmp)) = (&vm.qmp, &config.qmp) {
            moved |= monitor.move_to(qmp);
        }
        let mut place = vm.place.write().unwrap_or_else(PoisonError::into_inner);
        if *place.socket != *config.socket {
            *place = Place { socket: config.socket.as_path().into(), moves: place.moves + 1 };
            moved = true;
        }
        drop(place);
        if moved {
            self.kick();
        }
        moved
    }

    /// Ends the actor; calls that wait fail.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.wake.notify_one();
        if let Some(monitor) = &self.0.qmp {
            monitor.nudge();
        }
    }
}

/// A change of the guest under way. A read that begins now is answered after it, because the wire
/// keeps their order; one from before it must not count afterwards.
struct Change<'a>(&'a Vm);

impl<'a> Change<'a> {
    fn begin(vm: &'a VmHandle) -> Self {
        vm.0.changes.fetch_add(1, Ordering::Relaxed);
        Self(&vm.0)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Holds a VM and its connection; see [`VmHandle::pin`].
#[derive(Debug)]
pub(crate) struct Pin(VmHandle);

impl Drop for Pin {
    fn drop(&mut self) {
        let vm = &self.0.0;
        if vm.pins.fetch_sub(1, Ordering::Relaxed) == 1 {
            vm.wake.notify_one();
            vm.settings.unpinned.notify_one();
        }
    }
}

impl Vm {
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
    pub(super) fn pause(&self, reason: String) {
        let before = self.link.status().state;
        if self.link.pause(reason) {
            self.link_changed(before);
            self.wake.notify_one();
        }
    }

    /// The guest's CPUs run, or there is no telling any more.
    pub(super) fn resume(&self) {
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

    /// Something that spoils what is believed of the guest, seen elsewhere than on the link.
    pub(super) fn upset(&self, kind: EventKind, what: &'static str) {
        self.disrupted(what);
        tracing::info!(vm.id = %self.id, "{}: {what}", self.id);
        self.settings.events.publish(Event::new(kind).vm(&self.id).with("reason", what));
    }

    pub(crate) fn socket(&self) -> Arc<Path> {
        self.place.read().unwrap_or_else(PoisonError::into_inner).socket.clone()
    }

    /// How often its sockets have moved.
    pub(super) fn moves(&self) -> u32 {
        self.place.read().unwrap_or_else(PoisonError::into_inner).moves
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue<Box<Pending>>> {
        lock(&self.queue)
    }

    pub(crate) fn set_capabilities(&self, capabilities: Capabilities) {
        *lock(&self.capabilities) = Some(self.settings.agents.intern(capabilities));
    }

    /// What is known, if it is to be asked for again.
    fn begin_renewal(&self) -> Option<Arc<Capabilities>> {
        let mut renewed = lock(&self.renewed);
        if renewed.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
            return None;
        }
        *renewed = Some(Instant::now());
        lock(&self.capabilities).clone()
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
    pub(super) fn tell(&self, sign: Sign) {
        self.signs.add(sign);
        self.wake.notify_one();
    }
}

/// Nothing here panics while it holds a lock, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
