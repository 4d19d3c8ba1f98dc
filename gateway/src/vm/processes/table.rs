//! All processes that are known, by VM and number. Bounded in all and per VM: results give way, the oldest
//! of the VM that has most of them, among those of the principal that has most. Processes that run never
//! do; of those, no VM and no principal has more than its [share](crate::vm::share).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::process::{Process, Start, Way};
use crate::config::Limits;
use crate::principal::Principal;
use crate::vm::VmId;
use crate::vm::share::{Full, Own, Taken};

/// All processes that are known. Shared by all VMs.
#[derive(Debug, Default)]
pub(crate) struct Processes(Mutex<HashMap<VmId, Row>>);

/// Those of one VM.
#[derive(Debug, Default)]
pub(super) struct Row {
    by_pid: BTreeMap<i64, Arc<Process>>,
    /// Whose are being started: each has a place already.
    starting: Vec<Option<Principal>>,
    /// Which ways are being followed, by a task each.
    followed: [bool; 2],
    wakes: [Arc<Notify>; 2],
}

/// As many processes are known as may be, and none of them has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// How many may be.
    pub(super) max: usize,
    /// Who has as many as that, or as its share of that; none for the VM's own limit.
    pub(super) full: Option<Full>,
}

/// The place of a process that is being started.
#[derive(Debug)]
pub(super) struct Place<'a> {
    table: &'a Processes,
    vm: &'a VmId,
    owner: Option<Principal>,
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
    pub(super) fn reserve<'a>(
        &'a self,
        vm: &'a VmId,
        owner: Option<&Principal>,
        limits: &Limits,
    ) -> Result<Place<'a>, NoRoom> {
        let mut rows = self.rows();
        forget_old(&mut rows, limits);
        let max = limits.processes;
        running(&rows, vm, owner).room(max).map_err(|full| NoRoom { max, full: Some(full) })?;
        let of_vm = rows.get(vm).map_or(0, Row::len);
        if of_vm >= limits.processes_per_vm && !forget_one(&mut rows, Some(vm), one) {
            return Err(NoRoom { max: limits.processes_per_vm, full: None });
        }
        let all: usize = rows.values().map(Row::len).sum();
        if all >= max && !forget_one(&mut rows, None, one) {
            return Err(NoRoom { max, full: Some(Full::Everybody) });
        }
        rows.entry(vm.clone()).or_default().starting.push(owner.cloned());
        Ok(Place { table: self, vm, owner: owner.cloned() })
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
        self.rows().get(vm).is_some_and(|row| !row.starting.is_empty())
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
            let at = row.starting.iter().position(|owner| *owner == self.owner);
            if let Some(at) = at {
                row.starting.swap_remove(at);
            }
        }
        drop_empty(&mut rows, self.vm);
    }
}

impl Row {
    fn len(&self) -> usize {
        self.by_pid.len() + self.starting.len()
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

/// What takes a place for as long as it likes.
fn running(rows: &HashMap<VmId, Row>, vm: &VmId, owner: Option<&Principal>) -> Taken {
    let principal = owner.map(|_| Own::default());
    let mut taken = Taken { principal, ..Taken::default() };
    for (id, row) in rows {
        let running = row.by_pid.values().filter(|process| !process.is_complete());
        let owners = running.map(|process| process.owner.as_ref());
        for other in owners.chain(row.starting.iter().map(Option::as_ref)) {
            taken.add(id == vm, other == owner);
        }
    }
    taken
}

/// Forgets a result, of that VM or of any: the one that has been kept for longest, of the VM that has most
/// by `weight`, of the principal that has most.
fn forget_one(
    rows: &mut HashMap<VmId, Row>,
    vm: Option<&VmId>,
    weight: fn(&Process) -> usize,
) -> bool {
    let of = rows.iter().filter(|(id, _)| vm.is_none_or(|vm| *id == vm));
    let results: Vec<_> = of
        .flat_map(|(id, row)| row.by_pid.values().map(move |process| (id, process)))
        .filter_map(|(id, process)| Some((ended(process)?, id, process)))
        .collect();
    let mut principals = HashMap::<_, usize>::new();
    let mut vms = HashMap::<_, usize>::new();
    for (_, id, process) in &results {
        *principals.entry(&process.owner).or_default() += weight(process);
        *vms.entry((&process.owner, *id)).or_default() += weight(process);
    }
    let first = results.iter().max_by_key(|(ended, id, process)| {
        let owner = &process.owner;
        // The owner and the VM tell those apart that have as much.
        (principals[owner], owner, vms[&(owner, *id)], *id, Reverse((*ended, process.pid)))
    });
    let Some((id, pid)) = first.map(|(_, id, process)| ((*id).clone(), process.pid)) else {
        return false;
    };
    if let Some(row) = rows.get_mut(&id) {
        row.by_pid.remove(&pid);
    }
    true
}

/// Each result weighs the same.
fn one(_: &Process) -> usize {
    1
}

fn forget_old(rows: &mut HashMap<VmId, Row>, limits: &Limits) {
    let now = SystemTime::now();
    // A clock that was set back makes nothing old.
    let is_old =
        |at: SystemTime| now.duration_since(at).is_ok_and(|age| age >= limits.process_results);
    for row in rows.values_mut() {
        row.by_pid.retain(|_, process| !ended(process).is_some_and(is_old));
    }
    while ended_bytes(rows) > limits.process_results_bytes && forget_one(rows, None, Process::held)
    {
    }
    rows.retain(|_, row| row.len() > 0 || row.followed != [false; 2]);
}

/// What results hold, all together.
fn ended_bytes(rows: &HashMap<VmId, Row>) -> usize {
    let all = rows.values().flat_map(|row| row.by_pid.values());
    all.filter(|process| process.is_complete()).map(|process| process.held()).sum()
}

#[cfg(test)]
mod tests {
    use qga_proto::command::Overflow;

    use super::*;

    fn vm(id: &str) -> VmId {
        id.parse().expect("an id")
    }

    fn who(name: &str) -> Principal {
        Principal::new(name)
    }

    fn enter(table: &Processes, on: &VmId, pid: i64, owner: &Principal) -> Arc<Process> {
        let start = Start {
            pid,
            owner: Some(owner.clone()),
            program: "true".into(),
            started_at: SystemTime::now(),
            pty: false,
            way: Way::Stock { incarnation: None },
            overflow: Overflow::Drop,
            streams: [None, None],
            input: None,
            room: 1,
            pump: Arc::default(),
        };
        table.enter(on, start)
    }

    /// Starts what it gets room for.
    fn greedy(table: &Processes, on: &VmId, owner: &Principal, limits: &Limits) -> usize {
        for pid in 1.. {
            match table.reserve(on, Some(owner), limits) {
                Ok(_) => drop(enter(table, on, pid, owner)),
                Err(_) => break,
            }
        }
        table.list(on, limits).len()
    }

    #[test]
    fn four_vms_that_let_nothing_end_leave_room_for_others() {
        let (table, limits) = (Processes::default(), Limits::default());
        let (ann, bob) = (who("token:ann"), who("token:bob"));
        let got = ["a", "b", "c", "d", "e"].map(|id| greedy(&table, &vm(id), &ann, &limits));
        assert_eq!(got, [64, 32, 16, 8, 4]);
        let full = table.reserve(&vm("a"), Some(&ann), &limits).map(drop).expect_err("its share");
        assert_eq!((full.max, full.full), (256, Some(Full::Vm)));
        assert_eq!(greedy(&table, &vm("f"), &bob, &limits), 33);
    }

    #[test]
    fn a_caller_leaves_as_much_as_it_takes() {
        let (table, limits) = (Processes::default(), Limits { processes: 8, ..Limits::default() });
        let (ann, bob) = (who("token:ann"), who("token:bob"));
        let got = ["a", "b", "c", "d"].map(|id| greedy(&table, &vm(id), &ann, &limits));
        assert_eq!(got, [2, 1, 1, 0]);
        let full = table.reserve(&vm("d"), Some(&ann), &limits).map(drop).expect_err("its share");
        assert_eq!(full.full, Some(Full::Principal));
        assert!(table.reserve(&vm("a"), Some(&bob), &limits).is_ok());
    }

    #[test]
    fn results_give_way_where_there_are_most_of_them_the_oldest_first() {
        let (table, limits) = (Processes::default(), Limits { processes: 5, ..Limits::default() });
        let (ann, bob, a, b, c) = (who("token:ann"), who("token:bob"), vm("a"), vm("b"), vm("c"));
        for (on, pid, owner) in
            [(&c, 1, &bob), (&b, 1, &ann), (&a, 1, &ann), (&a, 2, &ann), (&c, 2, &bob)]
        {
            enter(&table, on, pid, owner).lose("it is over");
        }
        let pids =
            |on| table.list(on, &limits).iter().map(|process| process.pid).collect::<Vec<_>>();
        let place = table.reserve(&c, Some(&bob), &limits).expect("a result gives way");
        assert_eq!((pids(&a), pids(&b), pids(&c)), (vec![2], vec![1], vec![1, 2]));
        enter(&table, &c, 3, &bob);
        drop(place);
        drop(table.reserve(&a, Some(&ann), &limits).expect("a result gives way"));
        assert_eq!((pids(&a), pids(&b), pids(&c)), (vec![2], vec![1], vec![2, 3]));
    }
}
