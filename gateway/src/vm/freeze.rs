//! Freeze leases: who holds which VM's filesystems frozen, until when, and how it ended.
//!
//! Each lease has a [`Guardian`], a task of its own that freezes, waits and thaws. A caller that
//! hangs up leaves its lease to the guardian. The table here is only what everybody may read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use qga_proto::command::CommandInfo;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::VmId;
use super::boottime::BootTime;
use super::guardian::Guardian;
use super::handle::{CallError, VmHandle};
use super::lease::{Guard, Lease, LeaseId, LeaseState, Policy, ThawCause};
use super::registry::Registry;
use super::settings::Settings;
use crate::principal::Principal;

/// All leases, those that have ended included.
#[derive(Clone, Debug)]
pub struct Leases(Arc<Table>);

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct FreezeRequest {
    /// How long the freeze may hold once the last filesystem is frozen.
    pub ttl: Duration,
    /// How long freezing itself may take.
    pub freeze_timeout: Duration,
    /// Which mount points; all if none are named.
    pub mountpoints: Option<Vec<String>>,
    /// What happens when not everything freezes.
    pub policy: Policy,
    /// The caller's own note.
    pub label: Option<String>,
}

/// Why a freeze, a renewal or a thaw did not go as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FreezeError {
    /// A command failed. For a freeze: nothing is frozen. For a thaw: the gateway goes on trying.
    #[error(transparent)]
    Call(CallError),
    /// What goes before a freeze failed, so no freeze was sent.
    #[error("no freeze was sent: {}: {source}", command.name)]
    NotBegun {
        /// What failed.
        command: &'static CommandInfo,
        /// How.
        source: CallError,
    },
    /// The guest froze nothing.
    #[error("there was nothing to freeze")]
    NothingToFreeze,
    /// Somebody holds the VM frozen already.
    #[error("the VM is frozen already")]
    AlreadyFrozen {
        /// Their lease; none if it was not frozen through this gateway.
        lease: Option<LeaseId>,
    },
    /// The freeze was sent, and the guest refused it because somebody else had just frozen it.
    #[error("the VM was frozen by somebody else meanwhile")]
    FrozenMeanwhile,
    /// Fewer than were named could be frozen; everything was thawed again.
    #[error("only {frozen} of {wanted} mount points could be frozen; they were thawed again")]
    Incomplete {
        /// How many distinct mount points were named.
        wanted: u64,
        /// How many the guest froze.
        frozen: u64,
    },
    /// The freeze was sent and its reply did not come. The gateway is thawing: follow the lease.
    #[error("whether the guest froze is unknown, and it is being thawed: {source}")]
    OutcomeUnknown {
        /// The lease to follow.
        lease: LeaseId,
        /// What became of the command.
        source: CallError,
    },
    /// There is no such lease, or it ended too long ago.
    #[error("there is no such lease")]
    NotFound,
    /// The lease is over, or ending.
    #[error("the lease has ended")]
    Ended(Box<Lease>),
    /// More than the configuration allows.
    #[error("{what} is limited to {} s", max.as_secs_f64())]
    Limit {
        /// What.
        what: &'static str,
        /// The most.
        max: Duration,
    },
    /// The gateway is being stopped.
    #[error("the gateway is being stopped")]
    Stopping,
}

/// What a stop left.
#[derive(Clone, Debug, Default)]
pub struct ShutdownReport {
    /// Leases that were thawed.
    pub thawed: usize,
    /// Leases whose guests may still be frozen.
    pub left: Vec<Lease>,
}

/// What a guardian is told.
#[derive(Debug)]
pub(super) enum Control {
    Thaw { cause: ThawCause, reply: Reply },
    Renew { ttl: Duration, reply: Reply },
}

pub(super) type Reply = oneshot::Sender<Result<Lease, FreezeError>>;

#[derive(Debug)]
pub(super) struct Table {
    settings: Arc<Settings>,
    rows: Mutex<Rows>,
    /// How many leases are not over.
    active: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Rows {
    /// No lease is taken any more.
    stopping: bool,
    leases: HashMap<LeaseId, Row>,
    active: BTreeMap<VmId, LeaseId>,
    /// In the order of their ends.
    ended: VecDeque<(BootTime, LeaseId)>,
}

#[derive(Debug)]
struct Row {
    lease: Lease,
    guardian: mpsc::Sender<Control>,
}

impl Leases {
    /// An empty table with the registry's limits.
    pub fn new(registry: &Registry) -> Self {
        Self(Arc::new(Table {
            settings: registry.settings().clone(),
            rows: Mutex::default(),
            active: watch::Sender::new(0),
        }))
    }

    /// Freezes a VM under a new lease. Dropping the future does not stop it: the lease stays, and
    /// its TTL thaws.
    pub async fn freeze(
        &self,
        vm: &VmHandle,
        request: FreezeRequest,
        owner: Principal,
    ) -> Result<Lease, FreezeError> {
        let limits = self.0.settings.limits();
        within("ttl", request.ttl, limits.ttl_max)?;
        within("freeze_timeout", request.freeze_timeout, limits.freeze_timeout_max)?;
        let guardian = self.open(vm, request, owner, LeaseState::Freezing)?;
        let (started, outcome) = oneshot::channel();
        tokio::spawn(guardian.run(started));
        outcome.await.unwrap_or_else(|_| Err(torn_down()))
    }

    /// Thaws a VM that was not frozen through this gateway. What remains is a lease that has ended,
    /// for the record.
    pub async fn force_thaw(&self, vm: &VmHandle, owner: Principal) -> Result<Lease, FreezeError> {
        let request = FreezeRequest {
            ttl: Duration::ZERO,
            freeze_timeout: Duration::ZERO,
            mountpoints: None,
            policy: Policy::BestEffort,
            label: None,
        };
        let guardian = self.open(vm, request, owner, LeaseState::Thawing)?;
        let (started, outcome) = oneshot::channel();
        tokio::spawn(guardian.run_forced(started));
        outcome.await.unwrap_or_else(|_| Err(torn_down()))
    }

    /// Enters a lease into the table, with the guardian that is to see to it.
    fn open(
        &self,
        vm: &VmHandle,
        request: FreezeRequest,
        owner: Principal,
        state: LeaseState,
    ) -> Result<Guardian, FreezeError> {
        let id = LeaseId::random().map_err(|e| {
            let reason = format!("no random numbers for a lease id: {e}");
            FreezeError::Call(CallError::Interrupted { reason })
        })?;
        let windows = vm.capabilities().is_some_and(|agent| agent.windows());
        let lease = Lease {
            id: id.clone(),
            vm: vm.id().clone(),
            owner,
            label: request.label.clone(),
            policy: request.policy,
            state,
            filesystems: None,
            skipped: Vec::new(),
            ttl: request.ttl,
            created_at: SystemTime::now(),
            frozen_at: None,
            expires_at: None,
            thawed_at: None,
            thaw_cause: None,
            verdict: None,
            evidence: Vec::new(),
            thaw_error: None,
            max_hold_seconds: windows.then_some(super::guardian::VSS_HOLDS.as_secs()),
            guard: Guard::Gateway,
        };
        // Callers of one lease are few; a full channel makes them wait, not the guardian.
        let (control, commands) = mpsc::channel(8);
        self.0.insert(lease, control)?;
        Ok(Guardian::new(self.0.clone(), vm.clone(), id, request, commands))
    }

    /// All leases, oldest first.
    pub fn list(&self) -> Vec<Lease> {
        let mut leases: Vec<_> =
            self.0.rows().leases.values().map(|row| row.lease.clone()).collect();
        leases.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        leases
    }

    /// The lease with that id, present or past.
    pub fn get(&self, id: &LeaseId) -> Option<Lease> {
        self.0.rows().leases.get(id).map(|row| row.lease.clone())
    }

    /// The lease that holds, or is about to hold, that VM.
    pub fn active_on(&self, vm: &VmId) -> Option<Lease> {
        let rows = self.0.rows();
        rows.active.get(vm).and_then(|id| rows.leases.get(id)).map(|row| row.lease.clone())
    }

    /// Starts a lease's time to live anew.
    pub async fn renew(&self, id: &LeaseId, ttl: Duration) -> Result<Lease, FreezeError> {
        within("ttl", ttl, self.0.settings.limits().ttl_max)?;
        self.control(id, |reply| Control::Renew { ttl, reply }).await.and_then(|lease| {
            if lease.ended() { Err(FreezeError::Ended(lease.into())) } else { Ok(lease) }
        })
    }

    /// Thaws. A lease that is over is answered as it ended. An error means that this attempt
    /// failed; the gateway goes on trying.
    pub async fn thaw(&self, id: &LeaseId) -> Result<Lease, FreezeError> {
        self.control(id, |reply| Control::Thaw { cause: ThawCause::Requested, reply }).await
    }

    /// Thaws everything, for a stop: nobody would be left to do it. Takes no new leases, and no
    /// longer than `grace`.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let until = Instant::now() + grace;
        let held: Vec<LeaseId> = {
            let mut rows = self.0.rows();
            rows.stopping = true;
            rows.active.values().cloned().collect()
        };
        for id in &held {
            let guardian = self.0.rows().leases.get(id).map(|row| row.guardian.clone());
            let (reply, _) = oneshot::channel();
            let thaw = Control::Thaw { cause: ThawCause::Shutdown, reply };
            if let Some(guardian) = guardian {
                // One that is gone, or has its hands full of thaws, needs no telling.
                let _ = guardian.try_send(thaw);
            }
        }
        let mut active = self.0.active.subscribe();
        let _ = timeout_at(until, active.wait_for(|count| *count == 0)).await;
        let left: Vec<Lease> =
            held.iter().filter_map(|id| self.get(id)).filter(|lease| !lease.ended()).collect();
        ShutdownReport { thawed: held.len() - left.len(), left }
    }

    async fn control(
        &self,
        id: &LeaseId,
        control: impl FnOnce(Reply) -> Control,
    ) -> Result<Lease, FreezeError> {
        let guardian = {
            let rows = self.0.rows();
            let row = rows.leases.get(id).ok_or(FreezeError::NotFound)?;
            if row.lease.ended() {
                return Ok(row.lease.clone());
            }
            row.guardian.clone()
        };
        let (reply, answer) = oneshot::channel();
        if guardian.send(control(reply)).await.is_ok()
            && let Ok(result) = answer.await
        {
            return result;
        }
        // The guardian ended meanwhile.
        self.get(id).filter(Lease::ended).ok_or(FreezeError::NotFound)
    }
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One active lease per VM.
    fn insert(&self, lease: Lease, guardian: mpsc::Sender<Control>) -> Result<(), FreezeError> {
        let mut rows = self.rows();
        // Under the lock: a stop that has looked at all leases has no other one behind it.
        if rows.stopping {
            return Err(FreezeError::Stopping);
        }
        if let Some(holder) = rows.active.get(&lease.vm) {
            return Err(FreezeError::AlreadyFrozen { lease: Some(holder.clone()) });
        }
        rows.active.insert(lease.vm.clone(), lease.id.clone());
        rows.leases.insert(lease.id.clone(), Row { lease, guardian });
        self.active.send_replace(rows.active.len());
        Ok(())
    }

    /// Changes a lease; one that is over by then frees its VM. Gives the lease as it is now.
    pub(super) fn update(&self, id: &LeaseId, change: impl FnOnce(&mut Lease)) -> Option<Lease> {
        let mut rows = self.rows();
        let row = rows.leases.get_mut(id)?;
        let before = row.lease.ended();
        change(&mut row.lease);
        let lease = row.lease.clone();
        if lease.ended() && !before {
            rows.active.remove(&lease.vm);
            rows.ended.push_back((BootTime::now(), id.clone()));
            self.forget_old(&mut rows);
            self.active.send_replace(rows.active.len());
        }
        Some(lease)
    }

    /// Takes away a lease that never came to be.
    pub(super) fn remove(&self, id: &LeaseId) {
        let mut rows = self.rows();
        if let Some(row) = rows.leases.remove(id) {
            rows.active.remove(&row.lease.vm);
        }
        self.active.send_replace(rows.active.len());
    }

    fn forget_old(&self, rows: &mut Rows) {
        let limits = self.settings.limits();
        let now = BootTime::now();
        while let Some((at, _)) = rows.ended.front() {
            if rows.ended.len() <= limits.ended_leases && now - *at <= limits.ended_lease {
                break;
            }
            if let Some((_, id)) = rows.ended.pop_front() {
                rows.leases.remove(&id);
            }
        }
    }
}

fn within(what: &'static str, asked: Duration, max: Duration) -> Result<(), FreezeError> {
    if asked <= max { Ok(()) } else { Err(FreezeError::Limit { what, max }) }
}

pub(super) fn torn_down() -> FreezeError {
    FreezeError::Call(CallError::Interrupted { reason: "the gateway is going down".into() })
}
