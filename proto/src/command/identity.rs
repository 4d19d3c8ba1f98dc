//! `guest-get-host-name`, `guest-get-users`, `guest-get-timezone`, `guest-get-osinfo`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo};

/// `guest-get-host-name` (since 2.10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetHostName {}

impl Command for GuestGetHostName {
    const INFO: CommandInfo = CommandInfo::query("guest-get-host-name");
    type Return = HostName;
}

/// What `guest-get-host-name` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostName {
    /// The host's name.
    pub host_name: String,
}

/// `guest-get-users`: who is logged in (since 2.10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetUsers {}

impl Command for GuestGetUsers {
    const INFO: CommandInfo = CommandInfo::query("guest-get-users");
    type Return = Vec<User>;
}

/// One user who is logged in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct User {
    /// The user's name.
    pub user: String,
    /// Windows: the user's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The earliest of the user's logins, in seconds since 1970 UTC.
    pub login_time: f64,
}

/// `guest-get-timezone` (since 2.10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetTimezone {}

impl Command for GuestGetTimezone {
    const INFO: CommandInfo = CommandInfo::query("guest-get-timezone");
    type Return = Timezone;
}

/// What `guest-get-timezone` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Timezone {
    /// Its abbreviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Seconds east of UTC, now.
    pub offset: i64,
}

/// `guest-get-osinfo` (since 2.10).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetOsinfo {}

impl Command for GuestGetOsinfo {
    const INFO: CommandInfo = CommandInfo::query("guest-get-osinfo");
    type Return = OsInfo;
}

/// What `guest-get-osinfo` answers: uname(2) and os-release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[expect(missing_docs, reason = "the names are those of uname(2) and os-release(5)")]
pub struct OsInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant_id: Option<String>,
}
