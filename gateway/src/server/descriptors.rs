//! How many descriptors the process may have, and how connections and VMs share them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::MAX_CONNECTIONS;

/// Listeners, logs, the runtime, and files that are open for a moment.
const OURS: u64 = 64;

/// The Unix socket and TCP.
const LISTENERS: u64 = 2;

/// Raises the limit as far as the process may, and says if it is still too low for so many VMs.
pub fn raise_descriptors(vms: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open descriptors cannot be raised");
        }
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    let needed = needed(vms);
    if limit < needed {
        tracing::warn!(
            "{limit} open descriptors are allowed (LimitNOFILE=, ulimit -n), and {vms} VMs need \
             {needed}: each listener takes {} connections at once",
            share(Some(limit))
        );
    }
}

/// A VM needs one for its connection; another is open while it is being made.
fn needed(vms: usize) -> u64 {
    let connections = LISTENERS * MAX_CONNECTIONS as u64;
    // At most half are for connections.
    OURS + connections + connections.max(2 * vms as u64)
}

/// How many connections a listener may have at once.
pub(super) fn max_connections() -> usize {
    share(getrlimit(Resource::Nofile).current)
}

/// Half of the descriptors are left to the VMs, however many connections there are.
fn share(limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return MAX_CONNECTIONS };
    let share = limit.saturating_sub(OURS) / 2 / LISTENERS;
    usize::try_from(share).unwrap_or(MAX_CONNECTIONS).clamp(1, MAX_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_half_to_the_vms() {
        assert_eq!(share(None), MAX_CONNECTIONS);
        assert_eq!(share(Some(131_072)), MAX_CONNECTIONS);
        assert_eq!(share(Some(1024)), 240);
        assert_eq!(share(Some(0)), 1);
        for vms in [0, 100, 10_000] {
            assert_eq!(share(Some(needed(vms))), MAX_CONNECTIONS);
        }
    }
}
