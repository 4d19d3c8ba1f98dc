//! What the rest of the gateway holds of a VM: a cheap clone that sends typed calls to its actor.

mod shared;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qga_proto::command::{Command, CommandInfo, GuestInfo};
use qga_proto::{QgaError, ReplyError, ReplyText};
use tokio::sync::watch;

pub(super) use super::call::{CallError, CallOptions};
use super::capabilities::Capabilities;
use super::counters::CountersSnapshot;
use super::link::{LinkState, LinkStatus};
use super::open_files::OpenFiles;
pub(super) use super::pending::{Arguments, Pending, Work};
use super::reads::outdates;
use super::settings::Settings;
use super::{Incarnation, VmId};
use crate::config::{ExternalFreeze, Mode, VmConfig};
pub(crate) use shared::Vm;
use shared::lock;

/// A VM, as the rest of the gateway knows it.
#[derive(Clone, Debug)]
pub struct VmHandle(Arc<Vm>);

impl VmHandle {
    pub(crate) fn new(config: VmConfig, settings: Arc<Settings>) -> Self {
        Self(Arc::new(Vm::new(config, settings)))
    }

    /// The VM's id.
    pub fn id(&self) -> &VmId {
        &self.0.id
    }

    /// Its labels.
    pub fn labels(&self) -> Arc<BTreeMap<String, String>> {
        self.0.labels()
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

    /// Whose the files are that are open in the guest.
    pub(crate) fn open_files(&self) -> &OpenFiles {
        &self.0.open_files
    }

    /// How many calls wait for the wire.
    pub(crate) fn queue_depth(&self) -> usize {
        self.0.queue().len()
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
        let bad = |reason| {
            self.0.counters.bad_replies.add(1);
            CallError::BadReply { reason }
        };
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
        let work = Work::Call { info, arguments: Arguments::Text(arguments), reply_cap };
        let answer = self.submit(work, timeout, unless_disrupted).await;
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
        self.0.is_as(config)
    }

    /// It has the labels of this from now on, and all else as before. Returns whether it had others.
    pub(super) fn relabel(&self, config: &VmConfig) -> bool {
        self.0.relabel(&config.labels)
    }

    /// Its sockets are there from now on. Returns whether they were elsewhere.
    pub(super) fn move_to(&self, config: &VmConfig) -> bool {
        let moved = self.0.move_to(config);
        if moved {
            self.kick();
        }
        moved
    }

    /// Ends the actor; calls that wait fail.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.open_files.empty();
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
