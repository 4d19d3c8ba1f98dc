//! `guest-get-time`, `guest-set-time`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo, Empty, Right};

/// `guest-get-time`: nanoseconds since 1970 UTC, in whole microseconds (since 1.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetTime {}

impl Command for GuestGetTime {
    const INFO: CommandInfo = CommandInfo::query("guest-get-time");
    type Return = i64;
}

/// `guest-set-time`: sets the system clock and the hardware clock, or the system clock from the
/// hardware clock (since 1.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetTime {
    /// Nanoseconds since 1970 UTC; absent means: take the hardware clock's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}

impl Command for GuestSetTime {
    const INFO: CommandInfo = CommandInfo::change("guest-set-time", Right::Configure).long();
    type Return = Empty;
}
