//! The words that describe a lease, in the API, in logs and on disk.

use std::fmt;

/// Writes each enum's name table once.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name as it is written in the API, in logs and in metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}

names! {
    /// What happens when not everything freezes.
    Policy {
        /// Everything asked for is frozen, or the freeze fails and everything is thawed.
        Required = "required",
        /// What could be frozen is, and the rest is named.
        BestEffort = "best_effort",
    }

    /// In which order the VMs of a lease freeze; they thaw in the reverse one.
    Order {
        /// All at once.
        Parallel = "parallel",
        /// One after the other, as named.
        Sequential = "sequential",
    }

    /// Where a lease stands, or one of its VMs.
    LeaseState {
        /// The freeze is under way.
        Freezing = "freezing",
        /// The guest said that it is frozen.
        Frozen = "frozen",
        /// The thaw is under way, or being retried.
        Thawing = "thawing",
        /// A VM did not freeze, and so those that did are being thawed again.
        RollingBack = "rolling_back",
        /// Over: the guest said that it is thawed.
        Thawed = "thawed",
        /// Over: it never held.
        Failed = "failed",
        /// The VM is gone.
        Orphaned = "orphaned",
    }

    /// Why a lease was thawed.
    ThawCause {
        /// Somebody asked.
        Requested = "requested",
        /// Its time was over.
        Expired = "expired",
        /// The freeze did not come out as asked for.
        Rollback = "rollback",
        /// Somebody else thawed, or the guest did by itself.
        External = "external",
        /// The gateway was stopped.
        Shutdown = "shutdown",
        /// Somebody asked to thaw what was not frozen through this gateway.
        Forced = "forced",
    }

    /// Whether the filesystems stood still from freeze to thaw.
    Verdict {
        /// The agent proves it.
        Held = "held",
        /// The counts agree and no reset or reconnect was seen: the best a stock agent can show.
        CountsAgree = "counts_agree",
        /// They did not.
        Lost = "lost",
        /// Some were never frozen.
        Partial = "partial",
        /// There is no telling.
        Unknown = "unknown",
    }

    /// Who thaws when a lease's time is over.
    Guard {
        /// The gateway alone.
        Gateway = "gateway",
        /// The gateway, and the agent by itself a little later.
        GatewayAndAgent = "gateway+agent",
    }
}

impl Verdict {
    /// Of two, the one that promises less.
    pub(crate) fn worse(self, other: Self) -> Self {
        let rank = |verdict| match verdict {
            Self::Held => 0,
            Self::CountsAgree => 1,
            Self::Partial => 2,
            Self::Unknown => 3,
            Self::Lost => 4,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}
