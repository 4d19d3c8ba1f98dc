//! The kinds of events.

use std::fmt;
use std::str::FromStr;

/// A text that is no [`EventKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kind of event")]
pub struct InvalidEventKind;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What kind of event it is. Kinds are only ever added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind { $($(#[$doc])* $variant,)+ }

        impl EventKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The kind as it stands in the API, in logs and in metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl FromStr for EventKind {
            type Err = InvalidEventKind;

            fn from_str(text: &str) -> Result<Self, InvalidEventKind> {
                match text { $($name => Ok(Self::$variant),)+ _ => Err(InvalidEventKind) }
            }
        }
    };
}

kinds! {
    /// A VM is known now.
    VmAdded = "vm.added",
    /// A VM is not known any more.
    VmRemoved = "vm.removed",
    /// Another process is behind a VM's socket: it was started afresh, or replaced.
    VmReplaced = "vm.replaced",
    /// QMP says that the guest was reset.
    VmReset = "vm.reset",
    /// QMP says that the guest was shut down.
    VmShutdown = "vm.shutdown",
    /// QMP says that the guest's kernel has panicked.
    VmPanicked = "vm.panicked",
    /// The link to a VM's agent is in another state.
    LinkChanged = "link.changed",
    /// A lease holds its VM frozen.
    FreezeFrozen = "freeze.frozen",
    /// A lease was renewed.
    FreezeRenewed = "freeze.renewed",
    /// A lease's time is over; the gateway thaws.
    FreezeExpired = "freeze.expired",
    /// A lease ended thawed.
    FreezeThawed = "freeze.thawed",
    /// The VM of a lease is gone.
    FreezeOrphaned = "freeze.orphaned",
    /// A VM is frozen, and not by this gateway.
    FreezeExternal = "freeze.external",
    /// A freeze failed or its outcome is unknown; the gateway thaws.
    FreezeRollback = "freeze.rollback",
    /// A thaw failed; the gateway goes on trying.
    FreezeThawFailing = "freeze.thaw_failing",
    /// A guest went down, or to sleep, as it was told.
    PowerDone = "power.done",
    /// A guest was told to go down or to sleep, and did not as far as can be seen.
    PowerFailed = "power.failed",
    /// Something went wrong that no other kind covers.
    Error = "error",
    /// Never published: stands for events that are not kept any more.
    Gap = "gap",
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
