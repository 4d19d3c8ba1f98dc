//! `guest-fstrim`, `guest-get-fsinfo`.

use serde::{Deserialize, Serialize};

use super::disk::DiskAddress;
use super::{Command, CommandInfo, Right};

/// `guest-fstrim`: tells the disks what is unused (since 1.2; with results since 2.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFstrim {
    /// The smallest stretch worth telling, in bytes; absent means 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
}

impl Command for GuestFstrim {
    const INFO: CommandInfo = CommandInfo::change("guest-fstrim", Right::Freeze).long();
    type Return = TrimReport;
}

/// What `guest-fstrim` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrimReport {
    /// One entry per filesystem; agents before 2.4 say nothing.
    #[serde(default)]
    pub paths: Vec<TrimResult>,
}

/// What became of one filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrimResult {
    /// Where it is mounted.
    pub path: String,
    /// Bytes trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<i64>,
    /// The smallest stretch that the filesystem told, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// Why it was not trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `guest-get-fsinfo`: mounted filesystems (since 2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetFsinfo {}

impl Command for GuestGetFsinfo {
    const INFO: CommandInfo = CommandInfo::query("guest-get-fsinfo");
    type Return = Vec<FilesystemInfo>;
}

/// One filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FilesystemInfo {
    /// The kernel's name of its device.
    pub name: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Its type, as `ext4`.
    #[serde(rename = "type")]
    pub fs_type: String,
    /// Bytes in use (since 3.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Bytes that users can have in all (since 3.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Bytes that root can have in all (since 9.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes_privileged: Option<u64>,
    /// The disks that it lies on.
    pub disk: Vec<DiskAddress>,
}
