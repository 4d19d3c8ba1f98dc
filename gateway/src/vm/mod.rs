//! VMs, the way to their agents, and freeze leases.
//!
//! [`Registry`] knows the VMs and finds new ones; a [`VmHandle`] sends typed calls to the one task
//! that owns a VM's socket; [`Leases`] owns freezes.

mod actor;
mod boottime;
mod capabilities;
mod counters;
mod discovery;
mod events;
mod freeze;
mod guardian;
mod handle;
mod id;
mod incarnation;
mod lease;
mod link;
mod queue;
mod registry;
mod session;
mod sock_diag;
mod socket;
mod timer;
mod verdict;
mod watch;

pub use capabilities::{Capabilities, CommandState};
pub use counters::CountersSnapshot;
pub use events::{
    Delivery, Event, EventId, EventKind, Events, InvalidEventId, InvalidEventKind, Published,
    Subscription, TooManySubscribers,
};
pub use freeze::{
    FreezeError, FreezeRequest, LeaseUnwritable, Leases, ShutdownReport, Started, Unwritten,
};
pub use handle::{CallError, CallOptions, VmHandle};
pub use id::{InvalidVmId, VmId};
pub use incarnation::Incarnation;
pub use lease::{
    Guard, InvalidLeaseId, Lease, LeaseId, LeaseState, Member, Order, Policy, ThawCause, Verdict,
};
pub use link::{LinkState, LinkStatus};
pub use registry::Registry;
