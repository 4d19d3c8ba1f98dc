//! Freeze leases: who holds which VM's filesystems frozen, until when, and how it ended.
//!
//! Each lease has a [`keeper`], a task of its own, and each VM in it a
//! [`guardian`](super::guardian), which freezes, waits and thaws. A caller that hangs up leaves its
//! lease to them. The [`table`] is what everybody may read, and what the store keeps on disk: no
//! freeze is sent before its lease is there.
//!
//! ```text
//!   create: VMs taken --> asked (sync, status) --> on disk --> freeze --> on disk --> 201
//! ```

mod controls;
mod keeper;
mod leases;
mod supervise;
mod table;
mod transitions;

use std::time::Duration;

use qga_proto::command::CommandInfo;
use tokio::sync::oneshot;

use super::VmId;
use super::call::CallError;
use super::lease::{Lease, LeaseId, Order, Policy};
use crate::store::Unwritable;

pub use leases::{Leases, ShutdownReport, Started};
pub(super) use table::Table;

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct FreezeRequest {
    /// How long the freeze may hold once the last filesystem is frozen.
    pub ttl: Duration,
    /// How long freezing itself may take.
    pub freeze_timeout: Duration,
    /// Which mount points; all if none are named.
    pub mountpoints: Option<Vec<String>>,
    /// What happens when not everything of a VM freezes.
    pub policy: Policy,
    /// In which order several VMs freeze.
    pub order: Order,
    /// Whether all VMs are thawed again if one does not freeze.
    pub all_or_nothing: bool,
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
    /// Something named is no mount point of the guest. Nothing was sent.
    #[error("no mount point of the guest: {}", names.join(", "))]
    NoMountPoint {
        /// What was named.
        names: Vec<String>,
    },
    /// Fewer than were named could be frozen; everything was thawed again.
    #[error("only {frozen} of {wanted} mount points could be frozen; they were thawed again")]
    Incomplete {
        /// How many distinct mount points were named.
        wanted: u64,
        /// How many the guest froze.
        frozen: u64,
    },
    /// The agent says which filesystems it could not freeze; everything was thawed again.
    #[error("not frozen: {}; the others were thawed again", skipped.join(", "))]
    Skipped {
        /// Where they are mounted, each with the reason.
        skipped: Vec<String>,
    },
    /// The freeze was sent and its reply did not come. The gateway is thawing: follow the lease.
    #[error("whether the guest froze is unknown, and it is being thawed: {source}")]
    OutcomeUnknown {
        /// The lease to follow.
        lease: LeaseId,
        /// What became of the command.
        source: CallError,
    },
    /// One VM of several did not freeze.
    #[error("VM {vm} did not freeze: {source}")]
    Group {
        /// Which.
        vm: VmId,
        /// Why.
        source: Box<Self>,
        /// The lease, if one was begun: it shows what became of the others.
        lease: Option<LeaseId>,
        /// None of the others is frozen any more.
        undone: bool,
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
    /// The lease has been held for as long as any may.
    #[error("a lease is held for {} s at most, and {} s are left", max.as_secs(), left.as_secs())]
    HoldLimit {
        /// The most.
        max: Duration,
        /// What is left of it.
        left: Duration,
    },
    /// As many VMs are frozen as may be.
    #[error("{max} VMs may be frozen at once")]
    TooManyFrozen {
        /// The most.
        max: usize,
    },
    /// The lease could not be written to disk.
    #[error(transparent)]
    Unwritable(#[from] LeaseUnwritable),
    /// The gateway is being stopped.
    #[error("the gateway is being stopped")]
    Stopping,
}

/// What a disk that takes nothing means for a lease.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{source}")]
pub struct LeaseUnwritable {
    /// What the disk says.
    #[source]
    pub source: Unwritable,
    /// When it happened.
    pub when: Unwritten,
}

/// What could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten {
    /// A new lease: nothing was sent to any guest.
    Begin,
    /// A lease whose guests had frozen: they are thawed again.
    Frozen,
    /// A renewal: the lease ends when it would have without it.
    Renewal,
}

pub(super) type Reply = oneshot::Sender<Result<Lease, FreezeError>>;

pub(super) fn torn_down() -> FreezeError {
    FreezeError::Call(CallError::Interrupted { reason: "the gateway is going down".into() })
}

/// What a task's callers are told when it has panicked. Another takes over.
pub(super) fn defect() -> FreezeError {
    let reason = "a defect of the gateway: see its log".into();
    FreezeError::Call(CallError::Interrupted { reason })
}
