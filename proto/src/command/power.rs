//! `guest-shutdown`, `guest-suspend-disk`, `guest-suspend-ram`, `guest-suspend-hybrid`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo, Empty, Right};

/// `guest-shutdown`: powers off, halts or reboots. Success is not answered (since 0.15).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestShutdown {
    /// How; agents take powerdown when it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ShutdownMode>,
}

impl Command for GuestShutdown {
    const INFO: CommandInfo =
        CommandInfo::change("guest-shutdown", Right::Power).long().without_success_response();
    type Return = Empty;
}

/// How to shut down. On the wire it is a plain string, and the agent words the error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ShutdownMode {
    /// Power off.
    Powerdown,
    /// Halt and stay halted.
    Halt,
    /// Reboot.
    Reboot,
    /// What no agent accepts.
    Other(String),
}

impl From<String> for ShutdownMode {
    fn from(mode: String) -> Self {
        match &*mode {
            "powerdown" => Self::Powerdown,
            "halt" => Self::Halt,
            "reboot" => Self::Reboot,
            _ => Self::Other(mode),
        }
    }
}

impl From<ShutdownMode> for String {
    fn from(mode: ShutdownMode) -> Self {
        match mode {
            ShutdownMode::Powerdown => "powerdown".to_owned(),
            ShutdownMode::Halt => "halt".to_owned(),
            ShutdownMode::Reboot => "reboot".to_owned(),
            ShutdownMode::Other(mode) => mode,
        }
    }
}

/// `guest-suspend-disk`: hibernates. Success is not answered (since 1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSuspendDisk {}

impl Command for GuestSuspendDisk {
    const INFO: CommandInfo =
        CommandInfo::change("guest-suspend-disk", Right::Power).long().without_success_response();
    type Return = Empty;
}

/// `guest-suspend-ram`: sleeps. Success is not answered (since 1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSuspendRam {}

impl Command for GuestSuspendRam {
    const INFO: CommandInfo =
        CommandInfo::change("guest-suspend-ram", Right::Power).long().without_success_response();
    type Return = Empty;
}

/// `guest-suspend-hybrid`: sleeps, with a hibernation image to fall back on. Success is not
/// answered (since 1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSuspendHybrid {}

impl Command for GuestSuspendHybrid {
    const INFO: CommandInfo =
        CommandInfo::change("guest-suspend-hybrid", Right::Power).long().without_success_response();
    type Return = Empty;
}
