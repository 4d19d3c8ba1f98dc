//! All families of figures. docs/metrics.md describes each one; a test holds the two together.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows, until the gateway is started anew.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Who gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everybody, for the VMs that they may observe.
    Vm,
    /// Those who may observe every VM: it tells of all of them.
    Gateway,
}

/// A family of samples.
#[derive(Debug)]
pub(crate) struct Family {
    /// Without the `_total` of a counter's samples.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The last word of the name, where it has one.
    pub(crate) unit: Option<&'static str>,
    /// A sentence.
    pub(crate) help: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) scope: Scope,
}

macro_rules! families {
    ($($ident:ident = $scope:ident $kind:ident $name:literal $([$unit:literal])? ($($label:literal)*) $help:literal;)+) => {
        $(
            pub(crate) static $ident: Family = Family {
                name: $name,
                kind: Kind::$kind,
                unit: families!(@unit $($unit)?),
                help: $help,
                labels: &[$($label),*],
                scope: Scope::$scope,
            };
        )+

        /// Every family that there is.
        #[cfg(test)]
        pub(crate) static ALL: &[&Family] = &[$(&$ident),+];
    };
    (@unit) => { None };
    (@unit $unit:literal) => { Some($unit) };
}

families! {
    BUILD_INFO = Vm Gauge "qga_gateway_build_info" ("version") "The gateway's version; always 1.";
    VMS = Vm Gauge "qga_vms" ("state") "VMs by the state of their link.";
    LINK_STATE = Vm Gauge "qga_vm_link_state" ("vm" "state") "The state of the link to the VM's agent: 1 with the state that it is in.";
    LINK_SINCE = Vm Gauge "qga_vm_link_since_timestamp_seconds" ["seconds"] ("vm") "When the link entered its state.";
    AGENT_INFO = Vm Gauge "qga_vm_agent_info" ("vm" "version") "The version of the VM's agent, as it says; always 1.";
    QUEUE_DEPTH = Vm Gauge "qga_vm_queue_depth" ("vm") "Calls that wait for the VM's wire.";
    CALLS = Vm Counter "qga_vm_calls" ("vm") "Commands sent to the agent, syncs excepted.";
    TIMEOUTS = Vm Counter "qga_vm_timeouts" ("vm") "Commands that were sent and not answered in time.";
    BAD_REPLIES = Vm Counter "qga_vm_bad_replies" ("vm") "Answers that were none of the command's.";
    DROPPED = Vm Counter "qga_vm_dropped_lines" ("vm") "Lines from the agent that answered nothing.";
    RECEIVED = Vm Counter "qga_vm_received_bytes" ["bytes"] ("vm") "Bytes received from the agent.";
    SENT = Vm Counter "qga_vm_sent_bytes" ["bytes"] ("vm") "Bytes sent to the agent.";
    CONNECTIONS = Vm Counter "qga_vm_connections" ("vm") "Connections made to the VM's socket.";
    SYNCS = Vm Counter "qga_vm_syncs" ("vm") "Syncs begun.";
    SYNC_FAILURES = Vm Counter "qga_vm_sync_failures" ("vm") "Syncs that were not answered in time.";
    DISRUPTIONS = Vm Counter "qga_vm_disruptions" ("vm") "Losses of the link, silences, resets and replacements of the VM.";
    LEASE_STATE = Vm Gauge "qga_vm_lease_state" ("vm" "state" "guard") "The VM's active freeze lease: 1 with the state that it is in.";
    FROZEN_AT = Vm Gauge "qga_vm_frozen_timestamp_seconds" ["seconds"] ("vm") "When the VM of an active lease froze.";
    EXPIRES_AT = Vm Gauge "qga_vm_lease_expires_timestamp_seconds" ["seconds"] ("vm") "When the VM's active lease thaws by itself.";
    LAST_THAW = Vm Gauge "qga_vm_last_thaw_timestamp_seconds" ["seconds"] ("vm" "cause" "verdict") "When the VM's last lease ended, with why and how well it held.";
    GUEST_FILESYSTEMS = Vm Gauge "qga_guest_filesystems" ("vm") "Filesystems in the guest's last answer; more than 64 are not shown one by one.";
    GUEST_SIZE = Vm Gauge "qga_guest_filesystem_size_bytes" ["bytes"] ("vm" "mountpoint" "device" "fstype") "Bytes that users can have in all, as the guest last said.";
    GUEST_USED = Vm Gauge "qga_guest_filesystem_used_bytes" ["bytes"] ("vm" "mountpoint" "device" "fstype") "Bytes in use, as the guest last said.";
    GUEST_LOAD = Vm Gauge "qga_guest_load" ("vm" "window") "Load average over 1m, 5m and 15m, as the guest last said.";
    GUEST_AGE = Vm Gauge "qga_guest_answer_age_seconds" ["seconds"] ("vm" "command") "How old the guest's answer is that the figures above are from.";

    COMMAND_SECONDS = Gateway Histogram "qga_command_seconds" ["seconds"] ("command") "From sending a command to its end, for all VMs.";
    COMMAND_OUTCOMES = Gateway Counter "qga_command_outcomes" ("command" "outcome") "Commands by how they ended.";
    QUEUE_WAIT = Gateway Histogram "qga_queue_wait_seconds" ["seconds"] () "How long calls waited before they were sent.";
    LEASES = Gateway Gauge "qga_leases" ("state") "Active freeze leases by state.";
    LEASED_VMS = Gateway Gauge "qga_leased_vms" () "VMs held by active leases.";
    THAWS = Gateway Counter "qga_thaws" ("cause") "VMs whose freeze ended, by cause.";
    VERDICTS = Gateway Counter "qga_verdicts" ("verdict") "VMs whose freeze ended, by verdict.";
    HELD = Gateway Histogram "qga_freeze_held_seconds" ["seconds"] () "How long VMs were held frozen.";
    REQUESTS = Gateway Counter "qga_http_requests" ("route" "method" "status") "HTTP requests by class of status.";
    REQUEST_SECONDS = Gateway Histogram "qga_http_request_seconds" ["seconds"] ("route" "method") "From a request's headers to its answer's.";
    IN_FLIGHT = Gateway Gauge "qga_http_requests_in_flight" () "HTTP requests that wait for their answer's headers.";
    SUBSCRIBERS = Gateway Gauge "qga_event_subscribers" () "Clients that follow the events.";
    EVENTS = Gateway Counter "qga_events" () "Events published.";
    STATE_WRITE = Gateway Histogram "qga_state_write_seconds" ["seconds"] () "Writes of the gateway's state, fsync included.";
    STATE_FAILURES = Gateway Counter "qga_state_write_failures" () "Writes of the gateway's state that failed.";
    STATE_WRITABLE = Gateway Gauge "qga_state_writable" () "Whether the last write of the state came out well.";
    SPANS = Gateway Counter "qga_trace_spans" ("outcome") "Requests of traces by whether the collector took them; only if there is one.";
    TASKS = Gateway Gauge "qga_tasks" () "Tasks that live in the gateway.";
    PROCESS_CPU = Gateway Counter "process_cpu_seconds" ["seconds"] () "Processor time of user and system.";
    PROCESS_RESIDENT = Gateway Gauge "process_resident_memory_bytes" ["bytes"] () "Resident memory.";
    PROCESS_VIRTUAL = Gateway Gauge "process_virtual_memory_bytes" ["bytes"] () "Virtual memory.";
    PROCESS_FDS = Gateway Gauge "process_open_fds" () "Open file descriptors.";
    PROCESS_MAX_FDS = Gateway Gauge "process_max_fds" () "The most file descriptors that may be open.";
    PROCESS_THREADS = Gateway Gauge "process_threads" () "Threads.";
    PROCESS_START = Gateway Gauge "process_start_time_seconds" ["seconds"] () "When the gateway started.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut names = BTreeSet::new();
        for family in ALL {
            let Family { name, unit, help, labels, kind, scope } = family;
            assert!(names.insert(name), "{name} twice");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert!(!name.ends_with("_total") && !name.ends_with("_count"), "{name}");
            assert!(unit.is_none_or(|unit| name.ends_with(&format!("_{unit}"))), "{name}");
            assert!(help.ends_with('.') && !help.contains(['\n', '\\']), "{name}");
            let of_vm = labels.first() == Some(&"vm");
            assert!(*scope == Scope::Vm || !of_vm, "{name}: names VMs to all");
            assert!(*kind != Kind::Histogram || !of_vm, "{name}: a histogram per VM is too much");
        }
    }

    #[test]
    fn the_guide_lists_each_family_as_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let guide = std::fs::read_to_string(path).expect("the guide");
        let listed: BTreeSet<String> = guide
            .lines()
            .filter(|line| line.starts_with("| `qga_") || line.starts_with("| `process_"))
            .map(|line| line.split(" | ").take(3).collect::<Vec<_>>().join(" | "))
            .collect();
        let there: BTreeSet<String> = ALL
            .iter()
            .map(|family| {
                let suffix = if family.kind == Kind::Counter { "_total" } else { "" };
                let labels: Vec<_> = family.labels.iter().map(|l| format!("`{l}`")).collect();
                let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(" ") };
                format!("| `{}{suffix}` | {} | {labels}", family.name, family.kind.as_str())
            })
            .collect();
        let missing: Vec<_> = there.difference(&listed).collect();
        let unknown: Vec<_> = listed.difference(&there).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "missing {missing:#?}, unknown {unknown:#?}"
        );
    }
}
