//! What all VMs share, with the bounds that a reload of the configuration may change.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::capabilities::Interner;
use super::events::Events;
use super::handle::VmHandle;
use super::id::VmId;
use super::power::PowerWatches;
use super::processes::Processes;
use super::reads::Reads;
use super::transfer::Transfers;
use crate::config::{Config, Limits, Timeouts};
use crate::metrics::{CommandFigures, FreezeFigures};
use crate::store::HandleLog;

/// What all VMs share.
#[derive(Debug)]
pub(crate) struct Settings {
    limits: RwLock<Arc<Limits>>,
    timeouts: RwLock<Arc<Timeouts>>,
    /// How often guests are asked for what the figures show; 0 for never.
    pub(super) refresh: watch::Sender<Duration>,
    pub(crate) agents: Interner,
    pub(crate) events: Events,
    pub(crate) power: PowerWatches,
    pub(crate) reads: Reads,
    pub(crate) processes: Processes,
    pub(crate) transfers: Transfers,
    /// Where it is kept which files they have open; absent where nothing outlives the process.
    handles: OnceLock<HandleLog>,
    pub(crate) commands: CommandFigures,
    pub(crate) freezes: FreezeFigures,
    /// Wakes the discovery: a VM that was kept for its lease may go.
    pub(crate) unpinned: Notify,
}

impl Settings {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            limits: RwLock::new(Arc::new(config.limits.clone())),
            timeouts: RwLock::new(Arc::new(config.timeouts.clone())),
            refresh: watch::Sender::new(config.metrics.refresh),
            agents: Interner::default(),
            events: Events::new(&config.limits),
            power: PowerWatches::default(),
            reads: Reads::default(),
            processes: Processes::default(),
            transfers: Transfers::default(),
            handles: OnceLock::new(),
            commands: CommandFigures::default(),
            freezes: FreezeFigures::default(),
            unpinned: Notify::new(),
        })
    }

    /// The bounds as they are now. What has begun under others may end under them.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn timeouts(&self) -> Arc<Timeouts> {
        self.timeouts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it is kept which files transfers have open.
    pub(crate) fn keep_handles(&self, log: HandleLog) {
        let _ = self.handles.set(log);
    }

    /// A transfer has this file open. Where no process is known behind the socket, it could not be told
    /// later whether that is still the same.
    pub(super) fn handle_opened(&self, vm: &VmHandle, handle: i64) {
        if let (Some(log), Some(process)) = (self.handles.get(), vm.incarnation()) {
            log.opened(vm.id(), handle, process);
        }
    }

    /// It is closed, or nobody can say any more whose it is.
    pub(super) fn handle_closed(&self, vm: &VmId, handle: i64) {
        if let Some(log) = self.handles.get() {
            log.closed(vm, handle);
        }
    }

    pub(super) fn reload(&self, config: &Config) {
        let Config { limits, timeouts, metrics, .. } = config;
        self.refresh
            .send_if_modified(|now| std::mem::replace(now, metrics.refresh) != metrics.refresh);
        let (limits, timeouts) = (Arc::new(limits.clone()), Arc::new(timeouts.clone()));
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        *self.timeouts.write().unwrap_or_else(PoisonError::into_inner) = timeouts;
    }
}
