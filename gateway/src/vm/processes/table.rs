//! All processes that are known, by VM and number. Bounded in all and per VM: the results that have
//! been kept for longest give way, and processes that run never do.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::process::{Process, Start, Way};
use crate::config::Limits;
use crate::vm::VmId;

/// All processes that are known. Shared by all VMs.
#[derive(Debug, Default)]
pub(crate) struct Processes(Mutex<HashMap<VmId, Row>>);

/// Those of one VM.
#[derive(Debug, Default)]
pub(super) struct Row {
    by_pid: BTreeMap<i64, Arc<Process>>,
    /// Being started: each has a place already.
    starting: usize,
    /// Which ways are being followed, by a task each.
    followed: [bool; 2],
    wakes: [Arc<Notify>; 2],
}

/// As many processes are known as may be, and none of them has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// How many may be.
    pub(super) max: usize,
    /// Which limit that is.
    pub(super) limit: &'static str,
}

/// The place of a process that is being started.
#[derive(Debug)]
pub(super) struct Place<'a> {
    table: &'a Processes,
    vm: &'a VmId,
}

pub(super) const EXTENSION: usize = 0;
pub(super) const STOCK: usize = 1;

pub(super) const fn way(way: &Way) -> usize {
    match way {
        Way::Extension { .. } => EXTENSION,
        Way::Stock { .. } => STOCK,
    }
}

impl Processes {
    /// Keeps a place for one more, if need be by forgetting results.
    pub(super) fn reserve<'a>(&'a self, vm: &'a VmId, limits: &Limits) -> Result<Place<'a>, Full> {
        let mut rows = self.rows();
        forget_old(&mut rows, limits);
        let of_vm = rows.get(vm).map_or(0, Row::len);
        if of_vm >= limits.processes_per_vm && !forget_oldest(&mut rows, Some(vm)) {
            let max = limits.processes_per_vm;
            return Err(Full { max, limit: "processes_per_vm" });
        }
        let all: usize = rows.values().map(Row::len).sum();
        if all >= limits.processes && !forget_oldest(&mut rows, None) {
            return Err(Full { max: limits.processes, limit: "processes" });
        }
        rows.entry(vm.clone()).or_default().starting += 1;
        Ok(Place { table: self, vm })
    }

    /// Enters a process that was started, or found. One that had its number before is gone.
    pub(super) fn enter(&self, vm: &VmId, start: Start) -> Arc<Process> {
        let mut rows = self.rows();
        let row = rows.entry(vm.clone()).or_default();
        let process = Arc::new(Process::new(start));
        if let Some(before) = row.by_pid.insert(process.pid, process.clone()) {
            before.lose("the guest has given its number to another process");
        }
        row.wakes[way(&process.way)].notify_one();
        process
    }

    pub(super) fn wake(&self, vm: &VmId, way: usize) -> Arc<Notify> {
        self.rows().entry(vm.clone()).or_default().wakes[way].clone()
    }

    pub(super) fn get(&self, vm: &VmId, pid: i64, limits: &Limits) -> Option<Arc<Process>> {
        let mut rows = self.rows();
        forget_old(&mut rows, limits);
        rows.get(vm)?.by_pid.get(&pid).cloned()
    }

    pub(super) fn list(&self, vm: &VmId, limits: &Limits) -> Vec<Arc<Process>> {
        let mut rows = self.rows();
        forget_old(&mut rows, limits);
        rows.get(vm).into_iter().flat_map(|row| row.by_pid.values().cloned()).collect()
    }

    /// Whether one is being started, which a list of the guest's may show already.
    pub(super) fn is_starting(&self, vm: &VmId) -> bool {
        self.rows().get(vm).is_some_and(|row| row.starting > 0)
    }

    pub(super) fn remove(&self, vm: &VmId, process: &Arc<Process>) {
        let mut rows = self.rows();
        let Some(row) = rows.get_mut(vm) else { return };
        if row.by_pid.get(&process.pid).is_some_and(|known| Arc::ptr_eq(known, process)) {
            row.by_pid.remove(&process.pid);
        }
        drop_empty(&mut rows, vm);
    }

    /// Forgets results that are old, or too many.
    pub(super) fn sweep(&self, limits: &Limits) {
        forget_old(&mut self.rows(), limits);
    }

    /// Whether the caller is to follow this way's processes from now on.
    pub(super) fn begin_following(&self, vm: &VmId, way: usize) -> bool {
        let mut rows = self.rows();
        let row = rows.entry(vm.clone()).or_default();
        !std::mem::replace(&mut row.followed[way], true)
    }

    /// Those that are to be followed; with none of them, following has ended.
    pub(super) fn live(&self, vm: &VmId, of: usize) -> Option<Vec<Arc<Process>>> {
        let mut rows = self.rows();
        let row = rows.get_mut(vm)?;
        let is_live = |process: &&Arc<Process>| way(&process.way) == of && !process.is_complete();
        let live: Vec<_> = row.by_pid.values().filter(is_live).cloned().collect();
        if !live.is_empty() {
            return Some(live);
        }
        row.followed[of] = false;
        drop_empty(&mut rows, vm);
        None
    }

    /// Following has ended without a word: its task panicked.
    pub(super) fn stop_following(&self, vm: &VmId, way: usize) {
        if let Some(row) = self.rows().get_mut(vm) {
            row.followed[way] = false;
        }
    }

    /// Nothing panics under this lock, and no call is waited for.
    fn rows(&self) -> MutexGuard<'_, HashMap<VmId, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut rows = self.table.rows();
        if let Some(row) = rows.get_mut(self.vm) {
            row.starting = row.starting.saturating_sub(1);
        }
        drop_empty(&mut rows, self.vm);
    }
}

impl Row {
    fn len(&self) -> usize {
        self.by_pid.len() + self.starting
    }
}

/// A VM without processes costs nothing.
fn drop_empty(rows: &mut HashMap<VmId, Row>, vm: &VmId) {
    if rows.get(vm).is_some_and(|row| row.len() == 0 && row.followed == [false; 2]) {
        rows.remove(vm);
    }
}

fn ended(process: &Process) -> Option<SystemTime> {
    let view = process.view();
    view.ended_at.filter(|_| view.complete)
}

/// Forgets the result that has been kept for longest, of that VM or of all.
fn forget_oldest(rows: &mut HashMap<VmId, Row>, vm: Option<&VmId>) -> bool {
    let of = rows.iter().filter(|(id, _)| vm.is_none_or(|vm| *id == vm));
    let oldest = of
        .flat_map(|(id, row)| row.by_pid.values().map(move |process| (id, process)))
        .filter_map(|(id, process)| Some((ended(process)?, id.clone(), process.pid)))
        .min();
    let Some((_, id, pid)) = oldest else { return false };
    if let Some(row) = rows.get_mut(&id) {
        row.by_pid.remove(&pid);
    }
    true
}

fn forget_old(rows: &mut HashMap<VmId, Row>, limits: &Limits) {
    let now = SystemTime::now();
    // A clock that was set back makes nothing old.
    let is_old =
        |at: SystemTime| now.duration_since(at).is_ok_and(|age| age >= limits.process_results);
    for row in rows.values_mut() {
        row.by_pid.retain(|_, process| !ended(process).is_some_and(is_old));
    }
    while ended_bytes(rows) > limits.process_results_bytes && forget_oldest(rows, None) {}
    rows.retain(|_, row| row.len() > 0 || row.followed != [false; 2]);
}

/// What results hold, all together.
fn ended_bytes(rows: &HashMap<VmId, Row>) -> usize {
    let all = rows.values().flat_map(|row| row.by_pid.values());
    all.filter(|process| process.is_complete()).map(|process| process.held()).sum()
}
