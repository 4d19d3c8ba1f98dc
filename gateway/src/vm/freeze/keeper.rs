//! The task behind one lease: it has its VMs frozen, waits for what ends it, and has them thawed.
//!
//! ```text
//!   ask all --> on disk --> freeze --> on disk --> hold --- DELETE, deadline, stop --> end --> over
//!      |           |           |                    | ^                                ^
//!      | one is    | disk      | one failed         +-+ renew: guests and disk          |
//!      v not fit   v full      v                    |                                  |
//!     over        over        roll back ------------|----------------------------------+
//!                                                   +--- all VMs ended by themselves --+
//! ```
//!
//! What happens to one VM is its guardian's to decide; here is what they have in common: the disk,
//! the deadline, the order, and who is told.

mod ending;
mod freezing;
mod holding;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};

use super::controls::Controls;
use super::supervise::Start;
use super::table::Table;
use super::{FreezeError, LeaseUnwritable, Unwritten};
use crate::vm::VmId;
use crate::vm::guardian::{self, Begin, Order, Plan};
use crate::vm::handle::VmHandle;
use crate::vm::lease::{Lease, LeaseId, LeaseState, Member, ThawCause};

/// Before the next guardian takes over from one that panicked.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Keeper {
    table: Arc<Table>,
    id: LeaseId,
    controls: Controls,
    posts: Vec<Post>,
    guardians: JoinSet<()>,
    which: HashMap<Id, usize>,
}

/// One VM, as its lease's keeper sees it.
struct Post {
    vm: VmId,
    handle: Option<VmHandle>,
    /// Its guardian; absent before it starts and after it has ended.
    orders: Option<mpsc::Sender<Order>>,
}

impl Keeper {
    pub(super) fn new(table: Arc<Table>, id: LeaseId, controls: Controls) -> Self {
        Self {
            table,
            id,
            controls,
            posts: Vec::new(),
            guardians: JoinSet::new(),
            which: HashMap::new(),
        }
    }

    /// Sees the lease through.
    pub(super) async fn run(mut self, start: Start) {
        let (cause, waiting) = match start {
            Start::Freeze { vms, begun, told } => {
                self.man(vms);
                match self.freeze(begun, told).await {
                    freezing::Came::Held => self.hold().await,
                    freezing::Came::ToNothing => return,
                    freezing::Came::ToEnd(cause, waiting) => (cause, waiting),
                }
            }
            Start::Force { vms, cause, told } => {
                self.man(vms);
                if !self.force(cause, told).await {
                    return;
                }
                (cause, Vec::new())
            }
            Start::Resume => match self.resume() {
                Some(LeaseState::Frozen) => self.hold().await,
                Some(state) => (self.cause_of(state), Vec::new()),
                None => return,
            },
        };
        self.end(cause, waiting).await;
    }

    fn man(&mut self, vms: Vec<VmHandle>) {
        let post = |vm: VmHandle| Post { vm: vm.id().clone(), handle: Some(vm), orders: None };
        self.posts = vms.into_iter().map(post).collect();
    }

    /// Has each VM that is not done looked after again.
    fn resume(&mut self) -> Option<LeaseState> {
        let (state, vms) = self.table.read(&self.id, |lease| {
            let vms = lease.members.iter().map(|member| (member.vm.clone(), member.ended()));
            (lease.state, vms.collect::<Vec<_>>())
        })?;
        for (index, (vm, ended)) in vms.into_iter().enumerate() {
            let handle = self.table.registry.get(&vm);
            self.posts.push(Post { vm, handle, orders: None });
            if !ended {
                self.start(index, Begin::Resume);
            }
        }
        Some(state)
    }

    /// Why a lease that was not held when the gateway went away is thawed.
    fn cause_of(&self, state: LeaseState) -> ThawCause {
        let noted = self.table.read(&self.id, |lease| lease.thaw_cause).flatten();
        match state {
            LeaseState::Thawing => noted.unwrap_or(ThawCause::Rollback),
            _ => ThawCause::Rollback,
        }
    }

    /// Starts the guardian of a VM.
    fn start(&mut self, index: usize, begin: Begin) {
        let Some(plan) = self.table.read(&self.id, Plan::of) else { return };
        let Some(post) = self.posts.get_mut(index) else { return };
        let (sender, orders) = mpsc::channel(4);
        post.orders = Some(sender);
        let seat = guardian::Seat {
            table: self.table.clone(),
            lease: self.id.clone(),
            index,
            vm: post.vm.clone(),
            handle: post.handle.clone(),
            plan,
        };
        let task = self.guardians.spawn(guardian::run(seat, begin, orders));
        self.which.insert(task.id(), index);
    }

    /// A guardian is done. One that panicked has a successor: gives which VM's.
    async fn relieve(&mut self, done: Result<(Id, ()), JoinError>) -> Option<usize> {
        let (id, panicked) = match done {
            Ok((id, ())) => (id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let index = self.which.remove(&id)?;
        let post = self.posts.get_mut(index)?;
        post.orders = None;
        let vm = post.vm.clone();
        if !panicked || self.has_ended(index) {
            return None;
        }
        tracing::error!(
            vm.id = %vm, lease.id = %self.id,
            "{vm}: the guardian of {} panicked, which is a defect; another takes over", self.id
        );
        tokio::time::sleep(PAUSE).await;
        self.start(index, Begin::Resume);
        Some(index)
    }

    fn has_ended(&self, index: usize) -> bool {
        let ended = |lease: &Lease| lease.members.get(index).is_none_or(Member::ended);
        self.table.read(&self.id, ended).unwrap_or(true)
    }

    fn state(&self, index: usize) -> Option<LeaseState> {
        self.table.read(&self.id, |lease| lease.members.get(index).map(|m| m.state)).flatten()
    }

    fn all_ended(&self) -> bool {
        let all = |lease: &Lease| lease.members.iter().all(Member::ended);
        self.table.read(&self.id, all).unwrap_or(true)
    }

    fn order(&self, index: usize, order: Order) {
        // One that is gone, or has four orders before it, needs no telling: whoever waits for the
        // answer sees the order dropped.
        if let Some(orders) = self.posts.get(index).and_then(|post| post.orders.as_ref()) {
            let _ = orders.try_send(order);
        }
    }

    /// The lease as it is, for an answer.
    fn lease(&self) -> Result<Lease, FreezeError> {
        self.table.read(&self.id, Clone::clone).ok_or(FreezeError::NotFound)
    }

    fn ended_error(&self) -> FreezeError {
        match self.lease() {
            Ok(lease) => FreezeError::Ended(lease.into()),
            Err(error) => error,
        }
    }

    /// Writes the lease as it is now, and waits for it.
    async fn persist(&self, when: Unwritten) -> Result<(), FreezeError> {
        let written = match when {
            Unwritten::Begin => self.table.write_new(&self.id).await,
            Unwritten::Frozen | Unwritten::Renewal => self.table.write(&self.id).await,
        };
        written.map_err(|source| LeaseUnwritable { source, when }.into())
    }
}
