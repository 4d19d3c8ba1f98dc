//! What went over one VM's wire, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counters themselves; written by the VM's actor alone.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)+ }

        /// The counters at one moment; all only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CountersSnapshot { $($(#[$doc])* pub $name: u64,)+ }

        impl Counters {
            pub(crate) fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.0.load(Ordering::Relaxed),)+ }
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
}

/// A number that grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
}
