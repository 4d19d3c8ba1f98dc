//! Bounds and times, each with its default.

use std::time::Duration;

use serde::Deserialize;

use super::fields;

/// Bounds on memory, time and numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Calls that may wait for one VM.
    pub queue_depth: usize,
    /// Longest reply line that any command may bring.
    pub reply_cap_bytes: usize,
    /// How long a call waits for a link that is being made.
    #[serde(rename = "connect_wait_seconds", deserialize_with = "fields::seconds")]
    pub connect_wait: Duration,
    /// How long a sync may take before the link counts as silent.
    #[serde(rename = "sync_seconds", deserialize_with = "fields::seconds")]
    pub sync: Duration,
    /// First pause after a failed connection or sync; it doubles from there.
    #[serde(rename = "backoff_min_seconds", deserialize_with = "fields::seconds")]
    pub backoff_min: Duration,
    /// Longest pause.
    #[serde(rename = "backoff_max_seconds", deserialize_with = "fields::seconds")]
    pub backoff_max: Duration,
    /// How long an on-demand link stays after its last call.
    #[serde(rename = "idle_disconnect_seconds", deserialize_with = "fields::seconds")]
    pub idle_disconnect: Duration,
    /// How long a persistent link may idle before a sync asks whether the agent still answers; 0
    /// for ever. It is up to a quarter longer, so that not all VMs are asked at once.
    #[serde(rename = "keepalive_seconds", deserialize_with = "fields::seconds_or_none")]
    pub keepalive: Duration,
    /// How often sockets are looked for without being told by the kernel.
    #[serde(rename = "rescan_seconds", deserialize_with = "fields::seconds")]
    pub rescan: Duration,
    /// A lease's time to live, if its caller names none.
    #[serde(rename = "ttl_default_seconds", deserialize_with = "fields::seconds")]
    pub ttl_default: Duration,
    /// Longest time to live.
    #[serde(rename = "ttl_max_seconds", deserialize_with = "fields::seconds")]
    pub ttl_max: Duration,
    /// Bound on freezing, if the caller names none.
    #[serde(rename = "freeze_timeout_default_seconds", deserialize_with = "fields::seconds")]
    pub freeze_timeout_default: Duration,
    /// Longest bound on freezing.
    #[serde(rename = "freeze_timeout_max_seconds", deserialize_with = "fields::seconds")]
    pub freeze_timeout_max: Duration,
    /// Longest that a lease is held, all renewals together.
    #[serde(rename = "hold_max_seconds", deserialize_with = "fields::seconds")]
    pub hold_max: Duration,
    /// Most VMs that may be held by leases at once.
    pub frozen_vms_max: usize,
    /// How much later than the gateway an agent that can thaws by itself.
    #[serde(rename = "guest_margin_seconds", deserialize_with = "fields::seconds")]
    pub guest_margin: Duration,
    /// The most that a request may ask for with `timeout_seconds`.
    #[serde(rename = "call_timeout_max_seconds", deserialize_with = "fields::seconds")]
    pub call_timeout_max: Duration,
    /// How long it is looked for whether a guest shuts down or suspends as told.
    #[serde(rename = "power_watch_seconds", deserialize_with = "fields::seconds")]
    pub power_watch: Duration,
    /// How long a lease whose VM is gone is held for the VM to come back.
    #[serde(rename = "orphan_seconds", deserialize_with = "fields::seconds")]
    pub orphan: Duration,
    /// Ended leases that stay readable.
    pub ended_leases: usize,
    /// What they may take of memory.
    pub ended_leases_bytes: usize,
    /// How long they stay readable.
    #[serde(rename = "ended_lease_seconds", deserialize_with = "fields::seconds")]
    pub ended_lease: Duration,
    /// Requests with an `Idempotency-Key` whose answers are kept, for a day.
    pub idempotency_keys: usize,
    /// How long a stop may take to thaw what is frozen.
    #[serde(rename = "shutdown_grace_seconds", deserialize_with = "fields::seconds")]
    pub shutdown_grace: Duration,
    /// Events kept for subscribers that come back.
    pub events_kept: usize,
    /// What they may take of memory.
    pub events_kept_bytes: usize,
    /// What the answers of all VMs may take of memory that are kept for those who take older ones.
    pub answers_bytes: usize,
    /// The most of that for one VM.
    pub answers_vm_bytes: usize,
    /// Processes that are known, running or ended.
    pub processes: usize,
    /// The most of them of one VM.
    pub processes_per_vm: usize,
    /// How much is kept of each stream of a process's output.
    pub process_output_bytes: usize,
    /// How long the result of a process is kept.
    #[serde(rename = "process_results_seconds", deserialize_with = "fields::seconds")]
    pub process_results: Duration,
    /// What the output of processes that have ended may take of memory.
    pub process_results_bytes: usize,
    /// How many may read one process's output at once.
    pub process_readers: usize,
    /// Requests of one principal per second; 0 for any number. Thaws are not counted.
    pub requests_per_second: u32,
    /// How many of them may come at once.
    pub requests_burst: u32,
    /// What the bodies of requests in hand may take of memory, but for those that are streamed.
    pub request_bodies_bytes: usize,
    /// Tickets that are not used yet.
    pub tickets: usize,
    /// How many may follow the events at once.
    pub event_subscribers: usize,
    /// Files that may be transferred at once, of all VMs.
    pub transfers: usize,
    /// Files that may be transferred at once, of one VM; and that one principal may have open on it.
    pub transfers_vm: usize,
    /// How long a transfer waits for a guest that is frozen or paused.
    #[serde(rename = "transfer_pause_seconds", deserialize_with = "fields::seconds")]
    pub transfer_pause: Duration,
    /// How long the beginning of an upload that was broken off is kept.
    #[serde(rename = "upload_resume_seconds", deserialize_with = "fields::seconds")]
    pub upload_resume: Duration,
    /// How many of them are kept.
    pub uploads_kept: usize,
    /// How often a subscriber is shown that the connection lives.
    #[serde(rename = "event_heartbeat_seconds", deserialize_with = "fields::seconds")]
    pub event_heartbeat: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            queue_depth: 64,
            reply_cap_bytes: 72 << 20, // qemu-ga reads 48 MiB at most, which is 64 MiB of base64
            connect_wait: seconds(2),
            sync: seconds(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: seconds(30),
            idle_disconnect: seconds(3),
            keepalive: seconds(60),
            rescan: seconds(30),
            ttl_default: seconds(60),
            ttl_max: seconds(3600),
            freeze_timeout_default: seconds(30),
            freeze_timeout_max: seconds(600),
            hold_max: seconds(6 * 3600),
            frozen_vms_max: 10_000,
            guest_margin: seconds(10),
            call_timeout_max: seconds(3600),
            power_watch: seconds(180),
            orphan: seconds(3600),
            ended_leases: 10_000,
            ended_leases_bytes: 64 << 20,
            ended_lease: seconds(7 * 86_400),
            idempotency_keys: 10_000,
            shutdown_grace: seconds(30),
            events_kept: 10_000,
            events_kept_bytes: 4 << 20,
            answers_bytes: 16 << 20,
            answers_vm_bytes: 256 << 10,
            processes: 256,
            processes_per_vm: 64,
            process_output_bytes: 1 << 20,
            process_results: seconds(600),
            process_results_bytes: 64 << 20,
            process_readers: 32,
            requests_per_second: 0,
            requests_burst: 100,
            request_bodies_bytes: 256 << 20,
            tickets: 1000,
            event_subscribers: 128,
            transfers: 256,
            transfers_vm: 64,
            transfer_pause: seconds(600),
            upload_resume: seconds(600),
            uploads_kept: 64,
            event_heartbeat: seconds(15),
        }
    }
}

/// How long a command of each class may take, from the call to its reply.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Ping, info, sync, status.
    #[serde(rename = "session_seconds", deserialize_with = "fields::seconds")]
    pub session: Duration,
    /// File handles.
    #[serde(rename = "file_seconds", deserialize_with = "fields::seconds")]
    pub file: Duration,
    /// Putting an uploaded file in its place, which writes it to the guest's disk first.
    #[serde(rename = "commit_seconds", deserialize_with = "fields::seconds")]
    pub commit: Duration,
    /// Freezing, where no lease bounds it.
    #[serde(rename = "freeze_seconds", deserialize_with = "fields::seconds")]
    pub freeze: Duration,
    /// Thawing.
    #[serde(rename = "thaw_seconds", deserialize_with = "fields::seconds")]
    pub thaw: Duration,
    /// Trimming.
    #[serde(rename = "trim_seconds", deserialize_with = "fields::seconds")]
    pub trim: Duration,
    /// Shutting down and suspending.
    #[serde(rename = "shutdown_seconds", deserialize_with = "fields::seconds")]
    pub shutdown: Duration,
    /// Everything else.
    #[serde(rename = "other_seconds", deserialize_with = "fields::seconds")]
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            session: seconds(10),
            file: seconds(30),
            commit: seconds(300),
            freeze: seconds(60),
            thaw: seconds(180),
            trim: seconds(600),
            shutdown: seconds(60),
            other: seconds(30),
        }
    }
}
