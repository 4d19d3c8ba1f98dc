//! Our agent's own freeze commands: `x-guest-fsfreeze-freeze`, `-renew`, `-thaw`, `-report`.
//!
//! A stock agent does not have them. They tie a freeze to a lease, a name that the client chose,
//! and to a deadline at which the guest thaws by itself. See `docs/extensions.md`.

use serde::{Deserialize, Serialize};

use super::{Command, CommandInfo, Right};

/// `x-guest-fsfreeze-freeze`: freezes for a lease, until a deadline. Refused while a freeze is in
/// force or under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFsfreezeFreeze {
    /// Who owns the freeze: 1 to 128 bytes without control characters.
    pub lease: String,
    /// Milliseconds from when the last filesystem is frozen to when the guest thaws by itself.
    /// While filesystems are being frozen the same time bounds that. Absent: the agent's default.
    /// 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<i64>,
    /// What to freeze, by mount point or any other name of a filesystem. Absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoints: Option<Vec<String>>,
}

impl Command for XFsfreezeFreeze {
    const INFO: CommandInfo =
        CommandInfo::change("x-guest-fsfreeze-freeze", Right::Freeze).long().allowed_while_frozen();
    type Return = LeasedFreeze;
}

/// What a freeze for a lease came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeasedFreeze {
    /// How many filesystems were frozen; with 0 nothing is in force, and there is no lease.
    pub count: u64,
    /// The number of this freeze: one more than the last one's.
    pub generation: u64,
    /// Which run of the agent froze; another one stands for a restart.
    pub agent_instance: String,
    /// Which boot of the guest this is.
    pub boot_id: String,
    /// Milliseconds until the guest thaws by itself; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Each filesystem with its result, in the order of freezing.
    pub filesystems: Vec<FilesystemFreeze>,
}

/// `x-guest-fsfreeze-renew`: moves the deadline of the freeze that this lease owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFsfreezeRenew {
    /// The owner.
    pub lease: String,
    /// Milliseconds from now; 0: never.
    pub deadline_ms: i64,
}

impl Command for XFsfreezeRenew {
    const INFO: CommandInfo =
        CommandInfo::change("x-guest-fsfreeze-renew", Right::Freeze).allowed_while_frozen();
    type Return = LeaseRenewal;
}

/// The freeze that was renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseRenewal {
    /// Its number.
    pub generation: u64,
    /// Which run of the agent this is.
    pub agent_instance: String,
    /// Milliseconds until the guest thaws by itself; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// `x-guest-fsfreeze-thaw`: thaws, if this lease owns the freeze. Like `guest-fsfreeze-thaw` it
/// stops a freeze that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XFsfreezeThaw {
    /// The owner.
    pub lease: String,
}

impl Command for XFsfreezeThaw {
    const INFO: CommandInfo =
        CommandInfo::change("x-guest-fsfreeze-thaw", Right::Freeze).long().allowed_while_frozen();
    type Return = LeasedThaw;
}

/// What a thaw for a lease came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeasedThaw {
    /// How many filesystems were thawed.
    pub count: u64,
    /// The number of the freeze that this ended.
    pub generation: u64,
    /// Which run of the agent thawed.
    pub agent_instance: String,
    /// Which boot of the guest this is.
    pub boot_id: String,
    /// Each filesystem of the freeze with both results.
    pub filesystems: Vec<FilesystemFreeze>,
}

/// `x-guest-fsfreeze-report`: everything that the agent knows about freezes. It is answered at
/// once, whatever the kernel does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XFsfreezeReport {}

impl Command for XFsfreezeReport {
    const INFO: CommandInfo = CommandInfo::query("x-guest-fsfreeze-report").allowed_while_frozen();
    type Return = FsfreezeReport;
}

/// Where the agent stands, and what came before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FsfreezeReport {
    /// Where it stands.
    pub state: FreezeState,
    /// How many freezes were begun; the number of the current or last one.
    pub generation: u64,
    /// Which run of the agent this is: random for each start.
    pub agent_instance: String,
    /// Which boot of the guest this is.
    pub boot_id: String,
    /// Who owns the freeze; absent: it was a plain one, or there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// Milliseconds since the freeze began; absent: there is none, or it is not known (a marker
    /// that a stock agent left behind).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Milliseconds until the guest thaws by itself; absent: never, or not frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// How many filesystems the current or last freeze froze; absent: it did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Why the current or last freeze failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The filesystems of the current or last freeze, in the order of freezing.
    pub filesystems: Vec<FilesystemFreeze>,
    /// What the agent has to thaw, but the kernel has not come back from yet.
    pub stuck: Vec<String>,
    /// The hook that is running: `freeze` or `thaw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// The last thaw that ended a freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_thaw: Option<LastThaw>,
}

/// How a freeze ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LastThaw {
    /// Why.
    pub cause: ThawCause,
    /// Milliseconds ago.
    pub ago_ms: u64,
    /// The number of the freeze.
    pub generation: u64,
    /// Who owned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// How many filesystems were thawed.
    pub count: u64,
    /// Why the thaw hook failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_error: Option<String>,
    /// It was automatic, and no plain `guest-fsfreeze-thaw` has been told so yet.
    pub untold: bool,
}

/// Where the agent stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FreezeState {
    /// Nothing is frozen through this agent.
    #[default]
    Thawed,
    /// A freeze is under way.
    Freezing,
    /// Filesystems are frozen, or one of them could not be thawed yet.
    Frozen,
    /// A thaw is under way.
    Thawing,
}

/// Why a freeze ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ThawCause {
    /// `guest-fsfreeze-thaw`.
    #[default]
    Requested,
    /// `x-guest-fsfreeze-thaw` by the owner.
    Lease,
    /// The deadline passed.
    Deadline,
    /// The agent was stopped.
    Stopped,
    /// The freeze failed half-way.
    Rollback,
    /// The agent, or the guest, was started anew, and the freeze could not go on.
    Restart,
}

impl ThawCause {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Lease => "lease",
            Self::Deadline => "deadline",
            Self::Stopped => "stopped",
            Self::Rollback => "rollback",
            Self::Restart => "restart",
        }
    }

    /// Whether no client asked for it, so that one may still believe in the freeze.
    pub fn is_automatic(self) -> bool {
        matches!(self, Self::Deadline | Self::Stopped | Self::Restart)
    }
}

/// One filesystem of a freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FilesystemFreeze {
    /// Where it is mounted (first).
    pub mountpoint: String,
    /// What became of its freeze.
    pub freeze: FreezeResult,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It cannot be written to anyway; absent: it can, or that is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// What became of its thaw; absent: none was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thaw: Option<ThawResult>,
    /// How many sectors of 512 bytes its devices took from the end of its freeze to its thaw.
    /// Anything but 0 means that it was thawed in between behind the agent's back, or that something
    /// wrote past it (a swap file, a program on its device). Absent: not thawed yet, or the kernel
    /// does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_sectors: Option<u64>,
}

/// What became of the freeze of one filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FreezeResult {
    /// Its turn has not come.
    #[default]
    Pending,
    /// The kernel is at it.
    Freezing,
    /// This freeze froze it. It counts.
    Frozen,
    /// Somebody else had frozen it. It does not count.
    AlreadyFrozen,
    /// It cannot freeze (vfat, squashfs, …). It does not count.
    Unsupported,
    /// It failed, and with it the whole freeze.
    Failed,
}

/// What became of the thaw of one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ThawResult {
    /// The kernel is at it.
    Thawing,
    /// It was frozen until this thaw.
    Thawed,
    /// It was not frozen any more: something else had thawed it.
    NotFrozen,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_on_the_wire_are_fixed() {
        let freeze = XFsfreezeFreeze {
            lease: "l".into(),
            deadline_ms: Some(5),
            mountpoints: Some(vec!["/".into()]),
        };
        let text = r#"{"lease":"l","deadline-ms":5,"mountpoints":["/"]}"#;
        assert_eq!(serde_json::to_string(&freeze).unwrap(), text);
        let report = FsfreezeReport {
            filesystems: vec![FilesystemFreeze {
                mountpoint: "/".into(),
                freeze: FreezeResult::AlreadyFrozen,
                error: None,
                read_only: false,
                thaw: Some(ThawResult::NotFrozen),
                written_sectors: Some(8),
            }],
            last_thaw: Some(LastThaw::default()),
            ..FsfreezeReport::default()
        };
        let text = concat!(
            r#"{"state":"thawed","generation":0,"agent-instance":"","boot-id":"","#,
            r#""filesystems":[{"mountpoint":"/","freeze":"already-frozen","thaw":"not-frozen","#,
            r#""written-sectors":8}],"#,
            r#""stuck":[],"last-thaw":{"cause":"requested","ago-ms":0,"generation":0,"count":0,"#,
            r#""untold":false}}"#
        );
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
        for cause in [
            ThawCause::Requested,
            ThawCause::Lease,
            ThawCause::Deadline,
            ThawCause::Stopped,
            ThawCause::Rollback,
            ThawCause::Restart,
        ] {
            assert_eq!(serde_json::to_string(&cause).unwrap(), format!("\"{}\"", cause.as_str()));
        }
    }
}
