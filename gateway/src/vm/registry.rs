//! All VMs that the gateway knows, by id.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Map;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::VmId;
use super::actor;
use super::discovery::{Discovery, Order, Plan, Reloaded};
use super::events::{Event, EventKind, Events};
use super::handle::VmHandle;
use super::qmp;
use super::settings::Settings;
use crate::config::{Config, Limits, VmConfig};

/// All VMs that the gateway knows.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    vms: RwLock<BTreeMap<VmId, VmHandle>>,
    settings: Arc<Settings>,
    /// To the discovery, which alone adds and removes VMs.
    order: mpsc::Sender<Order>,
    closed: CancellationToken,
}

impl Registry {
    /// Starts an actor for each configured VM, and the search for the others. Must be called
    /// within a tokio runtime; returns at once.
    pub fn start(config: &Config) -> Self {
        let (order, orders) = mpsc::channel(1);
        let registry = Self(Arc::new(Inner {
            vms: RwLock::default(),
            settings: Settings::new(config),
            order,
            closed: CancellationToken::new(),
        }));
        let discovery = Discovery::new(registry.clone(), Plan::new(config), orders);
        tokio::spawn(registry.0.closed.clone().run_until_cancelled_owned(discovery.run()));
        registry
    }

    /// Takes over a configuration: bounds at once, VMs where something about them has changed. Links
    /// of the others are not touched, and a VM with a lease stays as it is until that has ended.
    /// `None` if the registry is closed.
    pub async fn reload(&self, config: &Config) -> Option<Reloaded> {
        self.0.settings.reload(config);
        let (done, report) = oneshot::channel();
        self.0.order.send((Plan::new(config), done)).await.ok()?;
        report.await.ok()
    }

    /// The VM with that id.
    pub fn get(&self, id: &VmId) -> Option<VmHandle> {
        self.read(|vms| vms.get(id).cloned())
    }

    /// All VMs, ordered by id.
    pub fn list(&self) -> Vec<VmHandle> {
        self.read(|vms| vms.values().cloned().collect())
    }

    /// The VMs behind this id, or all of them, ordered by id. What is named need not exist.
    pub fn list_after(&self, id: Option<&str>) -> Vec<VmHandle> {
        let after = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|vms| {
            vms.range::<str, _>((after, Bound::Unbounded)).map(|(_, vm)| vm.clone()).collect()
        })
    }

    /// Ends all actors and the search. Calls that wait fail; what is frozen stays frozen, so
    /// [`Leases::shutdown`](super::Leases::shutdown) comes first.
    pub fn close(&self) {
        self.0.closed.cancel();
        for vm in self.list() {
            vm.close();
        }
    }

    /// Ends all transfers of files, and waits for a while until the guests have closed them.
    pub async fn end_transfers(&self, patience: Duration) {
        self.0.settings.transfers.end(patience).await;
    }

    /// What happens to VMs, links and leases.
    pub fn events(&self) -> &Events {
        &self.0.settings.events
    }

    /// The configured bounds as they are now.
    pub fn limits(&self) -> Arc<Limits> {
        self.0.settings.limits()
    }

    pub(super) fn closed(&self) -> &CancellationToken {
        &self.0.closed
    }

    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.0.settings
    }

    /// Adds a VM and starts its actor, unless its id is taken: then gives the holder back.
    pub(super) fn add(&self, config: VmConfig) -> Option<VmHandle> {
        let mut vms = self.0.vms.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = vms.get(&config.id) {
            return Some(holder.clone());
        }
        let vm = VmHandle::new(config, self.0.settings.clone());
        let added = Event::new(EventKind::VmAdded).vm(vm.id());
        let labels: Map<_, _> =
            vm.labels().iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        vms.insert(vm.id().clone(), vm.clone());
        // Before its actor can say anything of its link.
        self.events().publish(added.with("labels", labels));
        if vm.shared().qmp.is_some() {
            tokio::spawn(qmp::run(vm.shared().clone()));
        }
        tokio::spawn(supervise(vm));
        None
    }

    pub(super) fn remove(&self, id: &VmId) {
        let removed = self.0.vms.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(vm) = removed {
            vm.close();
            self.events().publish(Event::new(EventKind::VmRemoved).vm(id));
        }
    }

    fn read<T>(&self, read: impl FnOnce(&BTreeMap<VmId, VmHandle>) -> T) -> T {
        read(&self.0.vms.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a VM's actor, and should it ever panic, says so and runs it again.
async fn supervise(vm: VmHandle) {
    use std::panic::AssertUnwindSafe;
    let mut actor = Box::pin(actor::run(vm.shared().clone()));
    loop {
        let step = std::future::poll_fn(|cx| {
            let poll = AssertUnwindSafe(|| actor.as_mut().poll(cx));
            match std::panic::catch_unwind(poll) {
                Ok(poll) => poll.map(|()| true),
                Err(_) => std::task::Poll::Ready(false),
            }
        });
        if step.await {
            return;
        }
        tracing::error!(vm.id = %vm.id(), "{}: its actor panicked and starts afresh", vm.id());
        actor = Box::pin(actor::run(vm.shared().clone()));
    }
}
