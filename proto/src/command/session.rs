//! `guest-sync`, `guest-sync-delimited`, `guest-ping`, `guest-info`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo, Empty};

/// `guest-sync`: echoes a number, so that a client finds its place in the stream (since 0.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSync {
    /// Echoed.
    pub id: i64,
}

impl Command for GuestSync {
    const INFO: CommandInfo = CommandInfo::query("guest-sync").allowed_while_frozen();
    type Return = i64;
}

/// `guest-sync-delimited`: as `guest-sync`, the answer preceded by a byte 0xFF (since 1.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSyncDelimited {
    /// Echoed.
    pub id: i64,
}

impl Command for GuestSyncDelimited {
    const INFO: CommandInfo = CommandInfo::query("guest-sync-delimited").allowed_while_frozen();
    type Return = i64;
}

/// `guest-ping`: an answer proves that the agent lives (since 0.15).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPing {}

impl Command for GuestPing {
    const INFO: CommandInfo = CommandInfo::query("guest-ping").allowed_while_frozen();
    type Return = Empty;
}

/// `guest-info`: version and commands of the agent (since 0.15).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInfo {}

impl Command for GuestInfo {
    const INFO: CommandInfo = CommandInfo::query("guest-info").allowed_while_frozen();
    type Return = AgentInfo;
}

/// What `guest-info` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentInfo {
    /// The agent's version, like `11.1.3`.
    pub version: String,
    /// What it offers. Agents before QEMU 1.1 send no list. (The underscore is QGA's own.)
    #[serde(default)]
    pub supported_commands: Vec<AgentCommand>,
}

/// One command that an agent offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentCommand {
    /// The command's name.
    pub name: String,
    /// Whether it would run now: policy and the frozen state both turn it off.
    pub enabled: bool,
    /// Whether success is answered at all (since 1.7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_response: Option<bool>,
}
