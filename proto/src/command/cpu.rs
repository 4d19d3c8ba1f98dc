//! `guest-get-vcpus`, `guest-set-vcpus`, `guest-get-cpustats`, `guest-get-load`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo, Right};

/// `guest-get-vcpus`: the processors and whether they are online (since 1.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetVcpus {}

impl Command for GuestGetVcpus {
    const INFO: CommandInfo = CommandInfo::query("guest-get-vcpus");
    type Return = Vec<LogicalProcessor>;
}

/// One processor of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogicalProcessor {
    /// The kernel's number of it.
    pub logical_id: i64,
    /// Whether it runs.
    pub online: bool,
    /// Whether it can be taken offline. Ignored when setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_offline: Option<bool>,
}

/// `guest-set-vcpus`: takes processors on- and offline; answers how many of the list were done,
/// from its start (since 1.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetVcpus {
    /// What is to be.
    pub vcpus: Vec<LogicalProcessor>,
}

impl Command for GuestSetVcpus {
    const INFO: CommandInfo = CommandInfo::change("guest-set-vcpus", Right::Configure);
    type Return = i64;
}

/// `guest-get-cpustats`: times by processor (since 7.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetCpustats {}

impl Command for GuestGetCpustats {
    const INFO: CommandInfo = CommandInfo::query("guest-get-cpustats");
    type Return = Vec<CpuStats>;
}

/// The times of one processor, by operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CpuStats {
    /// Linux.
    Linux(LinuxCpuStats),
    /// Another one; what it reports is left out.
    #[serde(other)]
    Other,
}

/// The times of one processor since boot, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinuxCpuStats {
    /// The kernel's number of it.
    pub cpu: i64,
    /// In user mode.
    pub user: u64,
    /// In user mode with low priority.
    pub nice: u64,
    /// In the kernel.
    pub system: u64,
    /// Idle.
    pub idle: u64,
    /// Waiting for I/O (since Linux 2.5.41).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iowait: Option<u64>,
    /// Serving interrupts (since Linux 2.6.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irq: Option<u64>,
    /// Serving soft interrupts (since Linux 2.6.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softirq: Option<u64>,
    /// Taken by the hypervisor (since Linux 2.6.11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<u64>,
    /// Running guests of its own (since Linux 2.6.24).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<u64>,
    /// Running guests of low priority (since Linux 2.6.33).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guestnice: Option<u64>,
}

/// `guest-get-load`: load averages (since 10.0).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetLoad {}

impl Command for GuestGetLoad {
    const INFO: CommandInfo = CommandInfo::query("guest-get-load");
    type Return = LoadAverage;
}

/// Load averages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoadAverage {
    /// Over one minute.
    pub load1m: f64,
    /// Over five minutes.
    pub load5m: f64,
    /// Over fifteen minutes.
    pub load15m: f64,
}
