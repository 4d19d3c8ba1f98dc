//! The task behind one VM of a freeze lease: it freezes, holds, and thaws until the guest says
//! thawed. When, and why, its keeper tells it.
//!
//! ```text
//!   ask --- freeze ordered --> freeze --- frozen ---> hold --- thaw ordered ---> thaw ---> end
//!    |                            |                   | ^                        | ^
//!    | unfit: nothing was sent    | refused           | | link back:             | | failed: pause,
//!    v                            v                   | | still frozen, ours     | | or until the
//!   end                          end                  v |                        v | link is back
//!                                 |                  away --- thawed, or  ---> end
//!                                 |                           not ours
//!                                 +--- reply lost, too few frozen ---------> thaw (rollback)
//! ```
//!
//! The freeze of the guest belongs to the lease, so no failure here gives it up while the guest may
//! be frozen; only a VM that stays away does, and one in which this freeze is not any more.

mod asking;
mod freezing;
mod holding;
mod looking;
mod missing;
mod preview;
mod thawing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};

pub use self::preview::{LeftOut, Preview, Prospect, preview};
use self::thawing::Thawing;
use super::VmId;
use super::boottime::BootTime;
use super::call::CallError;
use super::freeze::{FreezeError, Table};
use super::handle::{Pin, VmHandle};
use super::lease::{Guard, Lease, LeaseId, LeaseState, Member, Policy, ThawCause, cut};
use super::verdict::Facts;

/// VSS thaws by itself after this time, whatever anybody wants.
pub(super) const VSS_HOLDS: Duration = Duration::from_secs(10);

/// Where a guardian stands.
pub(super) struct Seat {
    pub(super) table: Arc<Table>,
    pub(super) lease: LeaseId,
    /// Its VM's place in the lease.
    pub(super) index: usize,
    pub(super) vm: VmId,
    /// Absent while the gateway does not know the VM, after a restart.
    pub(super) handle: Option<VmHandle>,
    pub(super) plan: Plan,
}

/// What is to be frozen, and how.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    mountpoints: Option<Vec<String>>,
    policy: Policy,
}

impl Plan {
    pub(super) fn of(lease: &Lease) -> Self {
        Self { mountpoints: lease.mountpoints.clone(), policy: lease.policy }
    }
}

/// How a guardian begins.
pub(super) enum Begin {
    /// It asks, tells whether the VM can be frozen, and waits for orders.
    Freeze { ready: oneshot::Sender<Result<(), FreezeError>> },
    /// It waits for the order to thaw what this gateway did not freeze.
    Force,
    /// The VM is, or may be, frozen by this lease.
    Resume,
}

/// What a keeper tells a guardian.
pub(super) enum Order {
    /// Freeze. `told` hears how it came out.
    Freeze { until: BootTime, told: oneshot::Sender<Froze> },
    /// Thaw until it is done. `told` hears of the end, or of the first attempt that failed.
    Thaw { cause: ThawCause, told: Told },
    /// Give the guest a new deadline, from now.
    Renew { deadline: Duration, told: Told },
}

pub(super) type Told = oneshot::Sender<Result<(), CallError>>;

/// How a freeze came out.
pub(super) enum Froze {
    Yes,
    /// It did not. What was frozen is thawed again, or, if the outcome is unknown, being thawed.
    No(FreezeError),
    /// The order to thaw came first.
    Stopped,
}

type Orders = mpsc::Receiver<Order>;

/// Sees to one VM until it has ended, or its keeper is gone.
pub(super) async fn run(mut seat: Seat, begin: Begin, mut orders: Orders) {
    let vm = match seat.handle.take() {
        Some(vm) => vm,
        None => match missing::wait(&seat, &mut orders).await {
            Some(vm) => vm,
            None => return,
        },
    };
    let mut guardian = Guardian::new(seat, vm);
    let held = match begin {
        Begin::Freeze { ready } => guardian.ask_and_freeze(ready, &mut orders).await,
        Begin::Force => true,
        Begin::Resume => {
            guardian.resume();
            true
        }
    };
    if held {
        guardian.hold(&mut orders).await;
    }
}

struct Guardian {
    table: Arc<Table>,
    lease: LeaseId,
    index: usize,
    plan: Plan,
    /// What is named and no mount point.
    unknown: Vec<String>,
    vm: VmHandle,
    facts: Facts,
    thawing: Thawing,
    frozen_at: Option<BootTime>,
    /// The link's disruptions when the freeze began.
    disruptions: u64,
    /// Those that were there when the guest was last seen frozen by this lease; `None`: never by
    /// this guardian.
    seen: Option<u64>,
    /// Another guardian, or another run of the gateway, began this freeze.
    resumed: bool,
    _pin: Pin,
}

impl Guardian {
    fn new(seat: Seat, vm: VmHandle) -> Self {
        let Seat { table, lease, index, plan, .. } = seat;
        let disruptions = vm.disruptions();
        Self {
            table,
            lease,
            index,
            plan,
            unknown: Vec::new(),
            facts: Facts::default(),
            thawing: Thawing::default(),
            frozen_at: None,
            disruptions,
            seen: Some(disruptions),
            resumed: false,
            _pin: vm.pin(),
            vm,
        }
    }

    /// Takes up what the table knows of a freeze that another guardian began.
    fn resume(&mut self) {
        self.seen = None;
        self.resumed = true;
        let Some(member) = self.read(Clone::clone) else { return };
        self.facts = Facts {
            frozen: member.filesystems,
            incomplete: member.incomplete,
            leased: member.guard == Guard::GatewayAndAgent,
            began: member.agent,
            max_hold: member.max_hold_seconds.map(Duration::from_secs),
            // What the link did meanwhile, nobody knows.
            disrupted: true,
            ..Facts::default()
        };
        self.frozen_at = member.frozen_boot;
        // A thaw may have left before.
        self.thawing.sent = member.state == LeaseState::Thawing;
    }

    fn read<T>(&self, read: impl FnOnce(&Member) -> T) -> Option<T> {
        self.table.read(&self.lease, |lease| lease.members.get(self.index).map(read)).flatten()
    }

    fn change(&self, change: impl FnOnce(&mut Member)) {
        self.table.change_member(&self.lease, self.index, change);
    }

    /// Whether the guest knows this freeze by the lease's name.
    fn leased(&self) -> bool {
        self.facts.leased
    }

    /// It never froze: nothing needs to be thawed.
    fn fail(&self, error: &FreezeError) {
        self.change(|member| {
            member.state = LeaseState::Failed;
            member.note(format!("not frozen: {error}"));
        });
    }

    /// The guest is thawed.
    fn end(&mut self, cause: ThawCause, complaint: Option<String>) {
        self.facts.disrupted |= self.vm.disruptions() != self.disruptions;
        self.facts.held = self.frozen_at.map_or(Duration::ZERO, |at| BootTime::now() - at);
        self.facts.rolled_back = cause == ThawCause::Rollback;
        let (verdict, because) = self.facts.judge();
        let cause = if self.facts.found_thawed { ThawCause::External } else { cause };
        self.change(|member| {
            member.state = match cause {
                ThawCause::Rollback => LeaseState::Failed,
                _ => LeaseState::Thawed,
            };
            member.thawed_at = Some(SystemTime::now());
            member.thaw_cause = Some(cause);
            member.verdict = Some(verdict);
            member.note(because);
            member.thaw_error = complaint.map(cut);
        });
    }

    /// The VM is gone, or is not the one that was frozen.
    fn lose(&mut self, cause: ThawCause, why: Option<String>) {
        self.facts.gone = why.is_none();
        self.facts.not_ours = why;
        let (verdict, because) = self.facts.judge();
        self.change(|member| {
            member.state = LeaseState::Orphaned;
            member.thaw_cause = Some(cause);
            member.verdict = Some(verdict);
            member.note(because);
        });
    }
}
