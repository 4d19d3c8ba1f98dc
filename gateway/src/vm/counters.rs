//! What went over one VM's wire, for metrics.

use crate::metrics::Counter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counters themselves.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)+ }

        /// The counters at one moment; all only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CountersSnapshot { $($(#[$doc])* pub $name: u64,)+ }

        impl Counters {
            pub(crate) fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.get(),)+ }
            }
        }
    };
}

counters! {
    /// Bytes received from the guest.
    bytes_received,
    /// Bytes sent to the guest.
    bytes_sent,
    /// Commands sent, syncs excepted.
    calls,
    /// Calls that ran out of time after they were sent.
    timeouts,
    /// Connections made.
    connections,
    /// Syncs begun.
    syncs,
    /// Syncs that were not answered in time.
    syncs_failed,
    /// Lines from the guest that answered nothing.
    dropped,
    /// Answers that were none of their command's.
    bad_replies,
}
