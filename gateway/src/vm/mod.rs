//! VMs, the way to their agents, and freeze leases.
//!
//! [`Registry`] knows the VMs and finds new ones; a [`VmHandle`] sends typed calls to the one task
//! that owns a VM's socket; [`Leases`] owns freezes.

mod actor;
mod boottime;
mod buffer;
mod call;
mod capabilities;
mod counters;
mod discovery;
mod door;
mod events;
mod external;
mod foreign;
mod freeze;
mod guardian;
mod handle;
mod id;
mod incarnation;
mod lease;
mod link;
mod open_files;
mod pending;
mod power;
mod processes;
mod qmp;
mod queue;
mod reads;
mod refresh;
mod registry;
mod session;
mod settings;
mod share;
mod signs;
mod sock_diag;
mod sock_table;
mod socket;
mod surplus;
mod timer;
pub(crate) mod transfer;
mod verdict;
mod watch;

pub use call::{CallError, CallOptions};
pub use capabilities::{Capabilities, CommandState};
pub use counters::CountersSnapshot;
pub use discovery::Reloaded;
pub use events::{
    Delivery, Event, EventId, EventKind, Events, InvalidEventId, InvalidEventKind, Published,
    Subscription, TooManySubscribers,
};
pub use external::watch_external;
pub(crate) use foreign::foreign;
pub use freeze::{
    FreezeError, FreezeRequest, LeaseUnwritable, Leases, ShutdownReport, Started, Unwritten,
};
pub use guardian::{LeftOut, Preview, Prospect, preview};
pub use handle::VmHandle;
pub use id::{InvalidVmId, VmId};
pub use incarnation::Incarnation;
pub use lease::{
    Guard, InvalidLeaseId, Lease, LeaseId, LeaseState, Member, Order, Policy, ThawCause, Verdict,
};
pub use link::{LinkState, LinkStatus};
pub(crate) use open_files::{Access, OpenFile, OpenFiles, Opening, TooManyOpen, Whose};
pub use power::PowerOrder;
pub use processes::{
    Input, InputError, InputWriter, OutputReader, Piece, Process, ProcessError, ProcessOrder,
    ProcessState, ProcessView, TooManyReaders,
};
pub use reads::Snapshot;
pub(crate) use reads::translate;
pub use refresh::refresh_guests;
pub use registry::Registry;
pub use share::Full;
pub use sock_table::Holder;
pub(crate) use sock_table::SocketTable;
