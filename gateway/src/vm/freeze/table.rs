//! All leases, those that have ended included, as everybody may read them and as they lie on disk.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::FreezeError;
use super::controls::{Controls, Line};
use super::transitions::{MemberStanding, Standing};
use crate::store::{Key, Kind, Records, Store, Unwritable};
use crate::vm::VmId;
use crate::vm::boottime::BootTime;
use crate::vm::events::Event;
use crate::vm::handle::VmHandle;
use crate::vm::lease::{self, Lease, LeaseId, LeaseState, Member};
use crate::vm::registry::Registry;
use crate::vm::settings::Settings;

pub(in crate::vm) struct Table {
    pub(super) registry: Registry,
    pub(super) settings: Arc<Settings>,
    pub(super) store: Store,
    rows: Mutex<Rows>,
    /// How many VMs are held by leases.
    pub(super) held: watch::Sender<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Rows {
    /// No lease is taken any more.
    pub(super) stopping: bool,
    pub(super) leases: HashMap<LeaseId, Row>,
    /// Which lease holds a VM.
    pub(super) active: BTreeMap<VmId, LeaseId>,
    /// In the order of their ends.
    ended: VecDeque<LeaseId>,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) lease: Lease,
    pub(super) keeper: Line,
}

impl Table {
    pub(super) fn new(registry: &Registry, store: Store) -> Self {
        Self {
            registry: registry.clone(),
            settings: registry.settings().clone(),
            store,
            rows: Mutex::default(),
            held: watch::Sender::new(0),
        }
    }

    /// Nothing panics under this lock but what `change` does, which leaves a lease whole.
    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a lease: one at a time per VM. The other end is its keeper's.
    pub(super) fn insert(&self, lease: Lease) -> Result<Controls, FreezeError> {
        let mut rows = self.rows();
        // Under the lock: a stop that has looked at all leases has no other one behind it.
        if rows.stopping {
            return Err(FreezeError::Stopping);
        }
        for member in &lease.members {
            if let Some(holder) = rows.active.get(&member.vm) {
                let error = FreezeError::AlreadyFrozen { lease: Some(holder.clone()) };
                return Err(match lease.sole() {
                    Some(_) => error,
                    None => FreezeError::Group {
                        vm: member.vm.clone(),
                        source: Box::new(error),
                        lease: None,
                        undone: true,
                    },
                });
            }
        }
        self.check_room(&rows, lease.members.len())?;
        Ok(self.enter(&mut rows, lease))
    }

    /// Whether a lease of so many VMs could be taken now, whichever they are.
    pub(super) fn would_take(&self, vms: usize) -> Result<(), FreezeError> {
        let rows = self.rows();
        if rows.stopping { Err(FreezeError::Stopping) } else { self.check_room(&rows, vms) }
    }

    fn check_room(&self, rows: &Rows, more: usize) -> Result<(), FreezeError> {
        let max = self.settings.limits().frozen_vms_max;
        let full = rows.active.len() + more > max;
        if full { Err(FreezeError::TooManyFrozen { max }) } else { Ok(()) }
    }

    /// As [`insert`](Self::insert), for a lease from before a restart: no limit holds it back.
    pub(super) fn restore(&self, lease: Lease) -> Option<Controls> {
        let mut rows = self.rows();
        if lease.ended() {
            rows.ended.push_back(lease.id.clone());
            rows.leases.insert(lease.id.clone(), Row { lease, keeper: Line::dead() });
            self.forget_old(&mut rows);
            return None;
        }
        Some(self.enter(&mut rows, lease))
    }

    fn enter(&self, rows: &mut Rows, lease: Lease) -> Controls {
        let (keeper, controls) = Line::new(CancellationToken::new());
        for member in lease.members.iter().filter(|member| !member.ended()) {
            rows.active.insert(member.vm.clone(), lease.id.clone());
        }
        rows.leases.insert(lease.id.clone(), Row { lease, keeper });
        self.held.send_replace(rows.active.len());
        controls
    }

    /// A new keeper's end, in place of one that is gone.
    pub(super) fn reattach(&self, id: &LeaseId) -> Option<Controls> {
        let mut rows = self.rows();
        let row = rows.leases.get_mut(id)?;
        let (keeper, controls) = row.keeper.again();
        row.keeper = keeper;
        Some(controls)
    }

    /// Reads a lease.
    pub(in crate::vm) fn read<T>(&self, id: &LeaseId, read: impl FnOnce(&Lease) -> T) -> Option<T> {
        self.rows().leases.get(id).map(|row| read(&row.lease))
    }

    /// Changes a lease. VMs that are done by then, and its history, are seen to.
    pub(in crate::vm) fn change<T>(
        &self,
        id: &LeaseId,
        change: impl FnOnce(&mut Lease) -> T,
    ) -> Option<T> {
        let mut guard = self.rows();
        let rows = &mut *guard;
        let row = rows.leases.get_mut(id)?;
        let before = row.lease.ended();
        let stood = Standing::of(&row.lease);
        let result = change(&mut row.lease);
        for event in stood.events(&row.lease) {
            self.tell(event);
        }
        stood.judged(&row.lease).for_each(|member| self.count(member));
        for member in row.lease.members.iter().filter(|member| member.ended()) {
            if rows.active.get(&member.vm) == Some(id) {
                rows.active.remove(&member.vm);
            }
        }
        let ends = row.lease.ended() && !before;
        if ends {
            rows.ended.push_back(id.clone());
            self.forget_old(rows);
        }
        let count = rows.active.len();
        // The end of a lease is waited for too, and comes behind those of its VMs.
        self.held.send_if_modified(|held| std::mem::replace(held, count) != count || ends);
        Some(result)
    }

    /// Changes one VM of a lease.
    pub(in crate::vm) fn change_member<T>(
        &self,
        id: &LeaseId,
        index: usize,
        change: impl FnOnce(&mut Member) -> T,
    ) -> Option<T> {
        let mut guard = self.rows();
        let rows = &mut *guard;
        let member = rows.leases.get_mut(id)?.lease.members.get_mut(index)?;
        let stood = MemberStanding::of(member);
        let result = change(member);
        if let Some(event) = stood.event(member) {
            self.tell(event.lease(id));
        }
        if stood.is_news(member) {
            self.count(member);
        }
        if member.ended() && rows.active.get(&member.vm) == Some(id) {
            rows.active.remove(&member.vm);
            self.held.send_replace(rows.active.len());
        }
        Some(result)
    }

    /// Counts a VM that has just got its verdict.
    fn count(&self, member: &Member) {
        let held = member.frozen_boot.map(|frozen| BootTime::now() - frozen);
        if let Some(verdict) = member.verdict {
            self.settings.freezes.note(member.thaw_cause, verdict, held);
        }
    }

    /// Takes away a lease that never came to be.
    pub(super) fn remove(&self, id: &LeaseId) {
        let mut rows = self.rows();
        if let Some(row) = rows.leases.remove(id) {
            for member in &row.lease.members {
                if rows.active.get(&member.vm) == Some(id) {
                    rows.active.remove(&member.vm);
                }
            }
        }
        self.held.send_replace(rows.active.len());
        drop(rows);
        self.note(id);
    }

    /// Tells those who follow the events.
    pub(in crate::vm) fn tell(&self, event: Event) {
        self.registry.events().publish(event);
    }

    /// Tells them what is to be told of a lease as it is now.
    pub(super) fn tell_of(&self, id: &LeaseId, events: fn(&Lease) -> Vec<Event>) {
        for event in self.read(id, events).unwrap_or_default() {
            self.tell(event);
        }
    }

    /// The VM of that id, if the gateway knows one.
    pub(in crate::vm) fn vm(&self, id: &VmId) -> Option<VmHandle> {
        self.registry.get(id)
    }

    /// Whether a lease's VMs are to be thawed by now.
    pub(in crate::vm) fn is_overdue(&self, id: &LeaseId) -> bool {
        let overdue = |lease: &Lease| {
            lease.state != LeaseState::Frozen
                || lease.deadline.is_none_or(|deadline| deadline.remaining().is_zero())
        };
        self.read(id, overdue).unwrap_or(true)
    }

    /// How long a VM that is gone is waited for.
    pub(in crate::vm) fn orphan_bound(&self) -> Duration {
        self.settings.limits().orphan
    }

    /// Has a new lease written, and its request with it: neither is on disk without the other.
    pub(super) async fn write_new(&self, id: &LeaseId) -> Result<(), Unwritable> {
        let request = self.read(id, request_key).flatten();
        self.store.sync(std::iter::once(key(id)).chain(request)).await
    }

    /// Has a lease written as it is now.
    pub(super) async fn write(&self, id: &LeaseId) -> Result<(), Unwritable> {
        self.store.sync([key(id)]).await
    }

    /// Has a lease written now, without anybody who waits for it.
    pub(super) fn hasten(&self, id: &LeaseId) {
        self.store.hasten(key(id));
    }

    /// Has a lease written before long.
    pub(in crate::vm) fn note(&self, id: &LeaseId) {
        self.store.note(key(id));
    }

    fn forget_old(&self, rows: &mut Rows) {
        let limits = self.settings.limits();
        let now = SystemTime::now();
        while let Some(id) = rows.ended.front() {
            let ended = rows.leases.get(id).and_then(|row| row.lease.ended_at);
            // A clock that was set back makes nothing old.
            let age =
                ended.map_or(limits.ended_lease, |at| now.duration_since(at).unwrap_or_default());
            if rows.ended.len() <= limits.ended_leases && age < limits.ended_lease {
                break;
            }
            if let Some(id) = rows.ended.pop_front() {
                rows.leases.remove(&id);
                self.note(&id);
            }
        }
    }
}

impl Records for Table {
    fn record(&self, name: &str) -> Option<Vec<u8>> {
        let id: LeaseId = name.parse().ok()?;
        // Cloned, so that nobody waits while it is put into words.
        let lease = self.read(&id, Clone::clone)?;
        Some(lease::write(&lease))
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("store", &self.store).finish_non_exhaustive()
    }
}

fn key(id: &LeaseId) -> Key {
    Key { kind: Kind::Lease, name: id.as_str().into() }
}

/// The record of the request that a lease was asked for by, if its answer is kept.
fn request_key(lease: &Lease) -> Option<Key> {
    let name = lease.reply_key.as_deref()?;
    Some(Key { kind: Kind::Reply, name: name.into() })
}
