//! `guest-fsfreeze-status`, `-freeze`, `-freeze-list`, `-thaw`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo, Right};
use crate::error::QgaError;

/// `guest-fsfreeze-status`: the agent's own idea of the state, not the kernel's (since 0.15).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeStatus {}

impl Command for GuestFsfreezeStatus {
    const INFO: CommandInfo = CommandInfo::query("guest-fsfreeze-status").allowed_while_frozen();
    type Return = FsfreezeStatus;
}

/// Whether filesystems are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FsfreezeStatus {
    /// Nothing is frozen.
    Thawed,
    /// Frozen through this agent.
    Frozen,
    /// Agents before QEMU 1.1: a freeze or thaw failed half-way.
    Error,
}

/// `guest-fsfreeze-freeze`: freezes all filesystems; answers how many (since 0.15).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeFreeze {}

impl Command for GuestFsfreezeFreeze {
    const INFO: CommandInfo = CommandInfo::change("guest-fsfreeze-freeze", Right::Freeze).long();
    type Return = i64;
}

/// `guest-fsfreeze-freeze-list`: freezes the named ones; without a list all (since 2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeFreezeList {
    /// Mount points. A stock agent silently ignores what it does not find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoints: Option<Vec<String>>,
}

impl Command for GuestFsfreezeFreezeList {
    const INFO: CommandInfo =
        CommandInfo::change("guest-fsfreeze-freeze-list", Right::Freeze).long();
    type Return = i64;
}

/// `guest-fsfreeze-thaw`: thaws all filesystems; answers how many (since 0.15).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFsfreezeThaw {}

impl Command for GuestFsfreezeThaw {
    const INFO: CommandInfo =
        CommandInfo::change("guest-fsfreeze-thaw", Right::Freeze).long().allowed_while_frozen();
    type Return = i64;
}

/// How `qga-agent` begins its error for the first plain thaw after it has thawed by itself, so that
/// clients that know nothing of deadlines learn that their freeze did not hold.
pub const THAWED_AUTOMATICALLY: &str = "filesystems were thawed automatically";

/// The count of a freeze or thaw. Agents of the 0.15 era answer -1 or -errno where later
/// ones answer an error; that is a failure and never a count.
pub fn frozen_count(wire: i64) -> Result<u64, QgaError> {
    u64::try_from(wire)
        .map_err(|_| QgaError::generic(format!("the agent reported failure by the count {wire}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_negative_is_a_count() {
        assert_eq!(frozen_count(0).unwrap(), 0);
        assert_eq!(frozen_count(4).unwrap(), 4);
        for failure in [-1, -22, i64::MIN] {
            assert!(frozen_count(failure).unwrap_err().desc.contains(&failure.to_string()));
        }
    }
}
