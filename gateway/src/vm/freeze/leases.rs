//! The way in: what the API, the daemon and tests ask of freeze leases.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::controls::Line;
use super::supervise::{Start, spawn};
use super::table::Table;
use super::{FreezeError, FreezeRequest, defect, torn_down};
use crate::metrics::WriteFigures;
use crate::principal::Principal;
use crate::store::{Kind, LoadError, Records, Store};
use crate::vm::VmId;
use crate::vm::boottime::{BootTime, host_boot};
use crate::vm::call::CallError;
use crate::vm::handle::VmHandle;
use crate::vm::lease::{self, Lease, LeaseId, LeaseState, Member, Order, Policy, ThawCause};
use crate::vm::registry::Registry;

/// All leases, those that have ended included.
///
/// Those that are begun through it know under which key, if they were asked for under one.
#[derive(Clone, Debug)]
pub struct Leases(Arc<Table>, Option<Arc<str>>);

/// A freeze under way.
#[derive(Debug)]
pub struct Started {
    id: LeaseId,
    begun: oneshot::Receiver<Lease>,
    outcome: oneshot::Receiver<Result<Lease, FreezeError>>,
}

/// What a stop left.
#[derive(Clone, Debug, Default)]
pub struct ShutdownReport {
    /// VMs that were thawed.
    pub thawed: usize,
    /// Leases of which guests may still be frozen.
    pub left: Vec<Lease>,
}

impl Leases {
    /// An empty table with the registry's limits, which forgets everything with the process.
    pub fn new(registry: &Registry) -> Self {
        Self::over(registry, Store::in_memory())
    }

    /// The leases that the store holds, which go on as if the gateway had never been away. Must be
    /// called within a tokio runtime; returns at once.
    ///
    /// # Errors
    /// A record cannot be read. Nothing has been sent to a guest, or written, then.
    pub fn load(registry: &Registry, store: Store) -> Result<Self, LoadError> {
        let mut leases = Vec::new();
        for (name, record) in store.take(Kind::Lease) {
            let lease = lease::read(&record).map_err(|e| store.damaged(&format!("{name}: {e}")))?;
            leases.push(lease);
        }
        // Ended ones in the order of their ends, for the history's bound.
        leases.sort_by_key(|lease| lease.ended_at);
        let this = Self::over(registry, store);
        let boot = host_boot();
        for mut lease in leases {
            if lease.host_boot != boot {
                // Its times mean nothing now; what it held is to be looked at, and let go.
                lease.host_boot.clone_from(&boot);
                lease.deadline = lease.deadline.map(|_| BootTime::now());
                lease.hold_until = lease.deadline;
                for member in &mut lease.members {
                    member.frozen_boot = None;
                }
            }
            let id = lease.id.clone();
            if let Some(controls) = this.0.restore(lease) {
                spawn(this.0.clone(), id, controls, Start::Resume);
            }
        }
        Ok(this)
    }

    fn over(registry: &Registry, store: Store) -> Self {
        let table = Arc::new(Table::new(registry, store));
        let records: Weak<dyn Records> = Arc::downgrade(&(table.clone() as Arc<dyn Records>));
        table.store.mirror(Kind::Lease, records);
        Self(table, None)
    }

    /// The same leases, for a request whose answer is kept under that name.
    pub(crate) fn under(&self, reply_key: Option<&Arc<str>>) -> Self {
        Self(self.0.clone(), reply_key.cloned())
    }

    /// Freezes a VM under a new lease. Dropping the future does not stop it: the lease stays, and
    /// its TTL thaws.
    ///
    /// # Errors
    /// It is not frozen, or being thawed again.
    pub async fn freeze(
        &self,
        vm: &VmHandle,
        request: FreezeRequest,
        owner: Principal,
    ) -> Result<Lease, FreezeError> {
        self.begin(vec![vm.clone()], request, owner)?.outcome().await
    }

    /// Begins to freeze VMs, each named once and at least one, under a new lease.
    ///
    /// # Errors
    /// A limit, a VM that has a lease already, or a stop stands in the way. Nothing was sent.
    pub fn begin(
        &self,
        vms: Vec<VmHandle>,
        request: FreezeRequest,
        owner: Principal,
    ) -> Result<Started, FreezeError> {
        self.check_limits(&request)?;
        let lease = self.lease(&vms, request, owner, LeaseState::Freezing)?;
        let id = lease.id.clone();
        let controls = self.0.insert(lease)?;
        let (told_begun, begun) = oneshot::channel();
        let (told, outcome) = oneshot::channel();
        spawn(self.0.clone(), id.clone(), controls, Start::Freeze { vms, begun: told_begun, told });
        Ok(Started { id, begun, outcome })
    }

    /// Whether [`begin`](Self::begin) would be refused for so many VMs, whatever their guests say.
    ///
    /// # Errors
    /// A limit or a stop stands in the way.
    pub fn would_begin(&self, vms: usize, request: &FreezeRequest) -> Result<(), FreezeError> {
        self.check_limits(request)?;
        self.0.would_take(vms)
    }

    fn check_limits(&self, request: &FreezeRequest) -> Result<(), FreezeError> {
        let limits = self.0.settings.limits();
        within("ttl", request.ttl, limits.ttl_max.min(limits.hold_max))?;
        within("freeze_timeout", request.freeze_timeout, limits.freeze_timeout_max)
    }

    /// Thaws a VM that was not frozen through this gateway. What remains is a lease that has ended,
    /// for the record.
    ///
    /// # Errors
    /// It could not be thawed. If it may have been all the same, the gateway goes on trying.
    pub async fn force_thaw(
        &self,
        vm: &VmHandle,
        owner: Principal,
        cause: ThawCause,
    ) -> Result<Lease, FreezeError> {
        let request = FreezeRequest {
            ttl: Duration::ZERO,
            freeze_timeout: Duration::ZERO,
            mountpoints: None,
            policy: Policy::BestEffort,
            order: Order::Parallel,
            all_or_nothing: true,
            label: None,
        };
        let vms = vec![vm.clone()];
        let mut lease = self.lease(&vms, request, owner, LeaseState::Thawing)?;
        lease.thaw_cause = Some(cause);
        for member in &mut lease.members {
            member.state = LeaseState::Thawing;
        }
        let id = lease.id.clone();
        let controls = self.0.insert(lease)?;
        let (told, outcome) = oneshot::channel();
        spawn(self.0.clone(), id, controls, Start::Force { vms, cause, told });
        outcome.await.unwrap_or_else(|_| Err(torn_down()))
    }

    fn lease(
        &self,
        vms: &[VmHandle],
        request: FreezeRequest,
        owner: Principal,
        state: LeaseState,
    ) -> Result<Lease, FreezeError> {
        let id = LeaseId::random().map_err(|e| {
            let reason = format!("no random numbers for a lease id: {e}");
            FreezeError::Call(CallError::Interrupted { reason })
        })?;
        Ok(Lease {
            id,
            owner,
            reply_key: self.1.as_deref().map(str::to_owned),
            label: request.label,
            policy: request.policy,
            order: request.order,
            all_or_nothing: request.all_or_nothing,
            mountpoints: request.mountpoints,
            freeze_timeout: request.freeze_timeout,
            ttl: request.ttl,
            state,
            created_at: SystemTime::now(),
            frozen_at: None,
            expires_at: None,
            thawed_at: None,
            thaw_cause: None,
            verdict: None,
            spread: None,
            members: vms.iter().map(|vm| Member::new(vm.id().clone())).collect(),
            ended_at: None,
            host_boot: host_boot(),
            deadline: None,
            hold_until: None,
        })
    }

    /// All leases, oldest first.
    pub fn list(&self) -> Vec<Lease> {
        self.select(|_| true)
    }

    /// The leases that are wanted, oldest first.
    pub fn select(&self, wanted: impl Fn(&Lease) -> bool) -> Vec<Lease> {
        let rows = self.0.rows();
        let leases = rows.leases.values().map(|row| &row.lease).filter(|lease| wanted(lease));
        let mut leases: Vec<Lease> = leases.cloned().collect();
        drop(rows);
        leases.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        leases
    }

    /// Looks at each lease, in no order. Nobody else can use them meanwhile.
    pub(crate) fn look(&self, look: impl FnMut(&Lease)) {
        self.0.rows().leases.values().map(|row| &row.lease).for_each(look);
    }

    /// How many VMs are held by leases.
    pub(crate) fn held(&self) -> usize {
        *self.0.held.borrow()
    }

    /// How writing them goes.
    pub(crate) fn writes(&self) -> &WriteFigures {
        self.0.store.figures()
    }

    /// The lease with that id, present or past.
    pub fn get(&self, id: &LeaseId) -> Option<Lease> {
        self.0.read(id, Clone::clone)
    }

    /// The lease that holds, or is about to hold, that VM.
    pub fn active_on(&self, vm: &VmId) -> Option<Lease> {
        let rows = self.0.rows();
        rows.active.get(vm).and_then(|id| rows.leases.get(id)).map(|row| row.lease.clone())
    }

    /// Whether a lease holds, or is about to hold, that VM.
    pub fn is_held(&self, vm: &VmId) -> bool {
        self.0.rows().active.contains_key(vm)
    }

    /// The last lease that held that VM.
    pub fn last_on(&self, vm: &VmId) -> Option<Lease> {
        let rows = self.0.rows();
        let leases = rows.leases.values().map(|row| &row.lease);
        let held = leases.filter(|lease| lease.member(vm).is_some());
        held.max_by_key(|lease| lease.created_at).cloned()
    }

    /// Starts a lease's time to live anew.
    ///
    /// # Errors
    /// It is not renewed: it ends when it would have.
    pub async fn renew(&self, id: &LeaseId, ttl: Duration) -> Result<Lease, FreezeError> {
        within("ttl", ttl, self.0.settings.limits().ttl_max)?;
        let (reply, answer) = oneshot::channel();
        match self.line(id)? {
            Some(line) => line.renew(ttl, reply).await,
            None => drop(reply),
        }
        let renewed = answer.await.unwrap_or_else(|_| self.ended(id))?;
        if renewed.ended() { Err(FreezeError::Ended(renewed.into())) } else { Ok(renewed) }
    }

    /// Thaws. A lease that is over is answered as it ended.
    ///
    /// # Errors
    /// This attempt failed; the gateway goes on trying.
    pub async fn thaw(&self, id: &LeaseId) -> Result<Lease, FreezeError> {
        let (reply, answer) = oneshot::channel();
        match self.line(id)? {
            Some(line) => line.thaw(reply).await,
            None => drop(reply),
        }
        answer.await.unwrap_or_else(|_| self.ended(id))
    }

    /// Takes no new leases and leaves those that there are, for a gateway that is started next and
    /// goes on with them.
    pub fn hand_over(&self) {
        self.0.rows().stopping = true;
    }

    /// Thaws, for a stop, what nobody would be left to thaw: a lease that all its guests' agents
    /// know goes on without a gateway. Takes no new leases, and no longer than `grace`.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let until = Instant::now() + grace;
        let (before, held) = {
            let mut rows = self.0.rows();
            rows.stopping = true;
            let durable = self.0.store.path().is_some();
            let persists = |id: &LeaseId| {
                rows.leases.get(id).is_some_and(|row| {
                    let lease = &row.lease;
                    durable
                        && lease.state == LeaseState::Frozen
                        && lease.guard() == lease::Guard::GatewayAndAgent
                })
            };
            let mut held: Vec<_> =
                rows.active.values().filter(|id| !persists(id)).cloned().collect();
            let before = held.len();
            held.sort_unstable();
            held.dedup();
            (before, held)
        };
        for id in &held {
            // A keeper that takes over from one that panicked hears of it too.
            if let Some(row) = self.0.rows().leases.get(id) {
                row.keeper.stop();
            }
        }
        let mut active = self.0.held.subscribe();
        let done = || held.iter().all(|id| self.0.read(id, Lease::ended).unwrap_or(true));
        // Not with `wait_for`: it asks under the channel's lock, which is taken under the table's.
        let all = async { while !done() && active.changed().await.is_ok() {} };
        let _ = timeout_at(until, all).await;
        let left = held.iter().filter_map(|id| self.get(id));
        let left: Vec<Lease> =
            left.filter(|lease| lease.members.iter().any(|member| !member.ended())).collect();
        let frozen = |lease: &Lease| lease.members.iter().filter(|member| !member.ended()).count();
        let thawed = before.saturating_sub(left.iter().map(frozen).sum());
        ShutdownReport { thawed, left }
    }

    /// To the keeper of a lease; `None` if it has ended.
    fn line(&self, id: &LeaseId) -> Result<Option<Line>, FreezeError> {
        let rows = self.0.rows();
        let row = rows.leases.get(id).ok_or(FreezeError::NotFound)?;
        Ok((!row.lease.ended()).then(|| row.keeper.clone()))
    }

    /// A lease whose keeper has nothing to say any more: it has ended, or panicked, and another
    /// takes over.
    fn ended(&self, id: &LeaseId) -> Result<Lease, FreezeError> {
        match self.get(id) {
            Some(lease) if lease.ended() => Ok(lease),
            Some(_) => Err(defect()),
            None => Err(FreezeError::NotFound),
        }
    }
}

impl Started {
    /// The lease's id.
    pub fn id(&self) -> &LeaseId {
        &self.id
    }

    /// The lease as it is begun: on disk, and no freeze sent before.
    ///
    /// # Errors
    /// No freeze was or will be sent.
    pub async fn begun(self) -> Result<Lease, FreezeError> {
        match self.begun.await {
            Ok(lease) => Ok(lease),
            // It did not come so far, and that is the outcome.
            Err(_) => self.outcome.await.unwrap_or_else(|_| Err(torn_down())),
        }
    }

    /// The lease with everything frozen.
    ///
    /// # Errors
    /// It is not frozen, or being thawed again.
    pub async fn outcome(self) -> Result<Lease, FreezeError> {
        self.outcome.await.unwrap_or_else(|_| Err(torn_down()))
    }
}

fn within(what: &'static str, asked: Duration, max: Duration) -> Result<(), FreezeError> {
    if asked <= max { Ok(()) } else { Err(FreezeError::Limit { what, max }) }
}
