//! What is known of freezes, for all threads to see at any time.
//!
//! The engine publishes; the poll thread answers `x-guest-fsfreeze-report` from here, so that the
//! answer does not depend on the kernel or on anything that the engine waits for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qga_proto::command::{
    FreezeResult, FreezeState, FsfreezeReport, LastThaw, LeaseRenewal, LeasedFreeze, LeasedThaw,
};

use super::phase::Phase;
use super::record::Record;

/// A call that has been in the kernel for this long is reported as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// Which agent, in which boot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) instance: String,
    pub(crate) boot_id: String,
}

impl Identity {
    /// Of this start of the agent.
    pub(super) fn new() -> Self {
        let read = |name: &str| {
            let path = format!("/proc/sys/kernel/random/{name}");
            std::fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
        };
        Self { instance: read("uuid"), boot_id: read("boot_id") }
    }
}

/// The engine's last word.
#[derive(Debug, Default)]
struct Snapshot {
    record: Record,
    calls: Vec<(String, Instant)>,
    predecessor: bool,
    hook: Option<&'static str>,
}

/// The report.
#[derive(Debug)]
pub(crate) struct SharedReport {
    identity: Identity,
    snapshot: Mutex<Snapshot>,
}

impl SharedReport {
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity, snapshot: Mutex::default() }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// `calls`: what is in the kernel, and since when; `predecessor`: so is the last agent.
    pub(super) fn publish(
        &self,
        record: &Record,
        calls: Vec<(String, Instant)>,
        predecessor: bool,
    ) {
        let mut snapshot = self.snapshot();
        snapshot.record = record.clone();
        snapshot.calls = calls;
        snapshot.predecessor = predecessor;
    }

    pub(super) fn publish_hook(&self, hook: Option<&'static str>) {
        self.snapshot().hook = hook;
    }

    /// The answer to `x-guest-fsfreeze-report`; `now_ms` is `CLOCK_BOOTTIME`.
    pub(super) fn read(&self, phase: Phase, now_ms: u64) -> FsfreezeReport {
        let snapshot = self.snapshot();
        let Record { generation, freeze, count, error, filesystems, last_thaw, .. } =
            &snapshot.record;
        let state = match phase {
            Phase::Thawed => FreezeState::Thawed,
            Phase::Freezing => FreezeState::Freezing,
            Phase::Frozen => FreezeState::Frozen,
            Phase::Thawing => FreezeState::Thawing,
        };
        let mut stuck: Vec<_> = snapshot
            .calls
            .iter()
            .filter(|(_, since)| since.elapsed() >= STUCK_AFTER)
            .map(|(path, _)| path.clone())
            .collect();
        if snapshot.predecessor {
            let left =
                filesystems.iter().filter(|filesystem| filesystem.freeze == FreezeResult::Freezing);
            for filesystem in left {
                if !stuck.contains(&filesystem.mountpoint) {
                    stuck.push(filesystem.mountpoint.clone());
                }
            }
        }
        let freeze = freeze.as_ref();
        FsfreezeReport {
            state,
            generation: *generation,
            agent_instance: self.identity.instance.clone(),
            boot_id: self.identity.boot_id.clone(),
            lease: freeze.and_then(|freeze| freeze.lease.clone()),
            since_ms: freeze.map(|freeze| now_ms.saturating_sub(freeze.since_ms)),
            deadline_ms: left_ms(&snapshot.record, now_ms),
            count: *count,
            error: error.clone(),
            filesystems: filesystems.clone(),
            stuck,
            hook: snapshot.hook.map(str::to_owned),
            last_thaw: last_thaw.as_ref().map(|thaw| LastThaw {
                cause: thaw.cause,
                ago_ms: now_ms.saturating_sub(thaw.at_ms),
                generation: thaw.generation,
                lease: thaw.lease.clone(),
                count: thaw.count,
                hook_error: thaw.hook_error.clone(),
                untold: thaw.untold,
            }),
        }
    }

    /// The answer to `x-guest-fsfreeze-freeze`.
    pub(super) fn leased_freeze(&self, record: &Record, count: u64, now_ms: u64) -> LeasedFreeze {
        LeasedFreeze {
            count,
            generation: record.generation,
            agent_instance: self.identity.instance.clone(),
            boot_id: self.identity.boot_id.clone(),
            deadline_ms: left_ms(record, now_ms),
            filesystems: record.filesystems.clone(),
        }
    }

    /// The answer to `x-guest-fsfreeze-renew`.
    pub(super) fn renewal(&self, record: &Record, now_ms: u64) -> LeaseRenewal {
        LeaseRenewal {
            generation: record.generation,
            agent_instance: self.identity.instance.clone(),
            deadline_ms: left_ms(record, now_ms),
        }
    }

    /// The answer to `x-guest-fsfreeze-thaw`.
    pub(super) fn leased_thaw(&self, record: &Record, count: u64) -> LeasedThaw {
        LeasedThaw {
            count,
            generation: record.generation,
            agent_instance: self.identity.instance.clone(),
            boot_id: self.identity.boot_id.clone(),
            filesystems: record.filesystems.clone(),
        }
    }

    fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn left_ms(record: &Record, now_ms: u64) -> Option<u64> {
    record.deadline_ms().map(|deadline| deadline.saturating_sub(now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_differ_and_boots_do_not() {
        let (one, other) = (Identity::new(), Identity::new());
        assert_ne!(one.instance, other.instance);
        assert_eq!(one.boot_id, other.boot_id);
        assert_eq!((one.boot_id.len(), one.instance.len()), (36, 36));
    }
}
