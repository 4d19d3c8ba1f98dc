//! The commands: arguments, answers, and the facts that both daemons decide by.
//!
//! The type of a command's arguments names the command ([`Command::INFO`]) and its answer
//! ([`Command::Return`]). [`COMMANDS`] is the one table: the agent's filter and
//! `guest-info`, the gateway's rights and its raw endpoint all read it.

mod accounts;
mod clock;
mod cpu;
mod device;
mod disk;
mod exec;
mod exec_ext;
mod file;
mod file_ext;
mod filesystem;
mod fsfreeze;
mod fsfreeze_ext;
mod identity;
mod memory;
mod network;
mod power;
mod session;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::accounts::{
    AuthorizedKeys, GuestSetUserPassword, GuestSshAddAuthorizedKeys, GuestSshGetAuthorizedKeys,
    GuestSshRemoveAuthorizedKeys,
};
pub use self::clock::{GuestGetTime, GuestSetTime};
pub use self::cpu::{
    CpuStats, GuestGetCpustats, GuestGetLoad, GuestGetVcpus, GuestSetVcpus, LinuxCpuStats,
    LoadAverage, LogicalProcessor,
};
pub use self::device::{DeviceId, DeviceInfo, GuestGetDevices, PciDeviceId};
pub use self::disk::{
    BusType, CcwAddress, Disk, DiskAddress, DiskSmart, DiskStats, DiskStatsInfo, GuestGetDisks,
    GuestGetDiskstats, NvmeSmart, PciAddress,
};
pub use self::exec::{CaptureOutput, ExecStarted, ExecStatus, GuestExec, GuestExecStatus};
pub use self::exec_ext::{
    InputState, Known, OutputState, OutputStream, Overflow, TerminalSize, XExecForget, XExecInput,
    XExecList, XExecNews, XExecOutput, XExecProgram, XExecPrograms, XExecRead, XExecResize,
    XExecSignal, XExecStart, XExecStarted, XExecWait, XExecWrite,
};
pub use self::file::{
    FileChunk, FileRead, FileReadBuilder, FileSeek, FileWrite, GuestFileClose, GuestFileFlush,
    GuestFileOpen, GuestFileRead, GuestFileSeek, GuestFileWrite, MAX_READ_COUNT, Whence,
};
pub use self::file_ext::{
    CreatedFile, DirectoryEntry, Expected, FileKind, FileList, FileStat, FileSync, OpenFile,
    XFileBeneath, XFileCommit, XFileCreate, XFileList, XFileMkdir, XFileOpen, XFileRemove,
    XFileRename, XFileStat, XFileSync,
};
pub use self::filesystem::{FilesystemInfo, GuestFstrim, GuestGetFsinfo, TrimReport, TrimResult};
pub use self::fsfreeze::{
    FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeFreezeList, GuestFsfreezeStatus,
    GuestFsfreezeThaw, THAWED_AUTOMATICALLY, frozen_count,
};
pub use self::fsfreeze_ext::{
    FilesystemFreeze, FreezeResult, FreezeState, FsfreezeReport, LastThaw, LeaseRenewal,
    LeasedFreeze, LeasedThaw, ThawCause, ThawResult, XFsfreezeFreeze, XFsfreezeRenew,
    XFsfreezeReport, XFsfreezeThaw,
};
pub use self::identity::{
    GuestGetHostName, GuestGetOsinfo, GuestGetTimezone, GuestGetUsers, HostName, OsInfo, Timezone,
    User,
};
pub use self::memory::{
    GuestGetMemoryBlockInfo, GuestGetMemoryBlocks, GuestSetMemoryBlocks, MemoryBlock,
    MemoryBlockInfo, MemoryBlockResponse, MemoryBlockResult,
};
pub use self::network::{
    GuestNetworkGetInterfaces, GuestNetworkGetRoute, InterfaceStatistics, IpAddress, IpAddressType,
    NetworkInterface, NetworkRoute,
};
pub use self::power::{
    GuestShutdown, GuestSuspendDisk, GuestSuspendHybrid, GuestSuspendRam, ShutdownMode,
};
pub use self::session::{
    AgentCommand, AgentInfo, GuestInfo, GuestPing, GuestSync, GuestSyncDelimited,
};

/// A command: implemented by the type of its arguments.
pub trait Command: Serialize + DeserializeOwned {
    /// Name and facts.
    const INFO: CommandInfo;
    /// What the agent answers with.
    type Return: Serialize + DeserializeOwned;
}

/// What both sides must know of a command besides its types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandInfo {
    /// The name on the wire.
    pub name: &'static str,
    /// Runs while filesystems are frozen, whatever the lists say: qemu-ga's own six, and our
    /// agent's extensions that are about the freeze.
    pub allowed_while_frozen: bool,
    /// Answers on success. Commands that end the guest do not.
    pub success_response: bool,
    /// Changes the guest: not repeated, and a barrier for pipelined commands.
    pub changes_guest: bool,
    /// May be in flight together with others on one connection.
    pub pipelined: bool,
    /// May take seconds or for ever; a sync sent later overtakes it at once.
    pub long: bool,
    /// Waits for something, and gives way to every other command of its channel: as soon as one
    /// arrives it is answered with this JSON text. So nothing need wait for it.
    pub yields: Option<&'static str>,
    /// What a caller of the gateway needs.
    pub right: Right,
}

impl CommandInfo {
    /// A quick command that only reads.
    const fn query(name: &'static str) -> Self {
        Self {
            name,
            allowed_while_frozen: false,
            success_response: true,
            changes_guest: false,
            pipelined: true,
            long: false,
            yields: None,
            right: Right::Observe,
        }
    }

    /// A quick command that changes the guest and needs `right`.
    const fn change(name: &'static str, right: Right) -> Self {
        Self { changes_guest: true, pipelined: false, right, ..Self::query(name) }
    }

    const fn allowed_while_frozen(self) -> Self {
        Self { allowed_while_frozen: true, ..self }
    }

    const fn long(self) -> Self {
        Self { long: true, ..self }
    }

    const fn pipelined(self) -> Self {
        Self { pipelined: true, ..self }
    }

    const fn yielding(self, answer: &'static str) -> Self {
        Self { yields: Some(answer), ..self }
    }

    const fn without_success_response(self) -> Self {
        Self { success_response: false, ..self }
    }

    /// Whether this is one of the two sync commands.
    pub fn is_sync(&self) -> bool {
        self.name == GuestSync::INFO.name || self.name == GuestSyncDelimited::INFO.name
    }

    /// Whether this thaws, and so must not wait for a freeze.
    pub fn is_thaw(&self) -> bool {
        self.name == GuestFsfreezeThaw::INFO.name || self.name == XFsfreezeThaw::INFO.name
    }

    /// Whether this freezes, and so must not be passed by what thaws.
    pub fn is_freeze(&self) -> bool {
        [
            GuestFsfreezeFreeze::INFO.name,
            GuestFsfreezeFreezeList::INFO.name,
            XFsfreezeFreeze::INFO.name,
        ]
        .contains(&self.name)
    }

    /// Whether only our agent has it.
    pub fn is_extension(&self) -> bool {
        self.name.starts_with("x-")
    }
}

/// What a principal may do with a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Right {
    /// See the VM and what its guest reports.
    Observe,
    /// Freeze, thaw and trim filesystems.
    Freeze,
    /// Thaw what somebody else froze.
    FreezeForce,
    /// Change time, processors and memory.
    Configure,
    /// Shut down, reboot, suspend.
    Power,
    /// Read files.
    FilesRead,
    /// Write files.
    FilesWrite,
    /// Run programs.
    Exec,
    /// Change passwords and keys.
    Accounts,
    /// Send any command.
    Raw,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Observe,
        Self::Freeze,
        Self::FreezeForce,
        Self::Configure,
        Self::Power,
        Self::FilesRead,
        Self::FilesWrite,
        Self::Exec,
        Self::Accounts,
        Self::Raw,
    ];

    /// Its name, as in JSON and in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Freeze => "freeze",
            Self::FreezeForce => "freeze_force",
            Self::Configure => "configure",
            Self::Power => "power",
            Self::FilesRead => "files_read",
            Self::FilesWrite => "files_write",
            Self::Exec => "exec",
            Self::Accounts => "accounts",
            Self::Raw => "raw",
        }
    }
}

/// Every command, in the order of QEMU's schema, and then our agent's own. `guest-info` lists it
/// from the end.
pub const COMMANDS: &[CommandInfo] = &[
    GuestSyncDelimited::INFO,
    GuestSync::INFO,
    GuestPing::INFO,
    GuestGetTime::INFO,
    GuestSetTime::INFO,
    GuestInfo::INFO,
    GuestShutdown::INFO,
    GuestFileOpen::INFO,
    GuestFileClose::INFO,
    GuestFileRead::INFO,
    GuestFileWrite::INFO,
    GuestFileSeek::INFO,
    GuestFileFlush::INFO,
    GuestFsfreezeStatus::INFO,
    GuestFsfreezeFreeze::INFO,
    GuestFsfreezeFreezeList::INFO,
    GuestFsfreezeThaw::INFO,
    GuestFstrim::INFO,
    GuestSuspendDisk::INFO,
    GuestSuspendRam::INFO,
    GuestSuspendHybrid::INFO,
    GuestNetworkGetInterfaces::INFO,
    GuestGetVcpus::INFO,
    GuestSetVcpus::INFO,
    GuestGetDisks::INFO,
    GuestGetFsinfo::INFO,
    GuestSetUserPassword::INFO,
    GuestGetMemoryBlocks::INFO,
    GuestSetMemoryBlocks::INFO,
    GuestGetMemoryBlockInfo::INFO,
    GuestExecStatus::INFO,
    GuestExec::INFO,
    GuestGetHostName::INFO,
    GuestGetUsers::INFO,
    GuestGetTimezone::INFO,
    GuestGetOsinfo::INFO,
    GuestSshGetAuthorizedKeys::INFO,
    GuestSshAddAuthorizedKeys::INFO,
    GuestSshRemoveAuthorizedKeys::INFO,
    GuestGetDiskstats::INFO,
    GuestGetCpustats::INFO,
    GuestNetworkGetRoute::INFO,
    GuestGetLoad::INFO,
    XFsfreezeFreeze::INFO,
    XFsfreezeRenew::INFO,
    XFsfreezeThaw::INFO,
    XFsfreezeReport::INFO,
    XExecStart::INFO,
    XExecList::INFO,
    XExecWait::INFO,
    XExecRead::INFO,
    XExecWrite::INFO,
    XExecSignal::INFO,
    XExecResize::INFO,
    XExecForget::INFO,
    XFileStat::INFO,
    XFileList::INFO,
    XFileOpen::INFO,
    XFileCreate::INFO,
    XFileSync::INFO,
    XFileCommit::INFO,
    XFileRename::INFO,
    XFileRemove::INFO,
    XFileMkdir::INFO,
    XFileBeneath::INFO,
];

/// Commands that agents on other systems have and ours does not. No part of what an agent offers.
pub const FOREIGN_COMMANDS: &[CommandInfo] = &[GuestGetDevices::INFO];

/// The facts of a command of any agent: from [`COMMANDS`] or [`FOREIGN_COMMANDS`].
pub fn any_command_info(name: &str) -> Option<&'static CommandInfo> {
    command_info(name).or_else(|| FOREIGN_COMMANDS.iter().find(|info| info.name == name))
}

/// The entry of [`COMMANDS`] with this name.
pub fn command_info(name: &str) -> Option<&'static CommandInfo> {
    COMMANDS.iter().find(|info| info.name == name)
}

/// The answer of a command that has nothing to say: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Empty {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_command_once() {
        for (index, info) in COMMANDS.iter().enumerate() {
            assert_eq!(
                COMMANDS.iter().position(|other| other.name == info.name),
                Some(index),
                "{}",
                info.name
            );
        }
    }

    #[test]
    fn a_rights_name_is_the_one_in_json() {
        for right in Right::ALL {
            assert_eq!(serde_json::to_value(right).unwrap(), right.as_str());
        }
    }

    #[test]
    fn exactly_qemu_gas_six_commands_and_the_freeze_extensions_run_while_frozen() {
        let allowed = |extension: bool| {
            let mut names: Vec<_> = COMMANDS
                .iter()
                .filter(|info| info.allowed_while_frozen && info.is_extension() == extension)
                .map(|info| info.name)
                .collect();
            names.sort_unstable();
            names
        };
        assert_eq!(
            allowed(true),
            [
                "x-guest-fsfreeze-freeze",
                "x-guest-fsfreeze-renew",
                "x-guest-fsfreeze-report",
                "x-guest-fsfreeze-thaw"
            ]
        );
        assert_eq!(
            allowed(false),
            [
                "guest-fsfreeze-status",
                "guest-fsfreeze-thaw",
                "guest-info",
                "guest-ping",
                "guest-sync",
                "guest-sync-delimited"
            ]
        );
    }

    #[test]
    fn what_changes_the_guest_is_a_barrier_unless_it_moves_bytes_in_order() {
        let both: Vec<_> = COMMANDS
            .iter()
            .filter(|info| info.changes_guest && info.pipelined)
            .map(|info| info.name)
            .collect();
        assert_eq!(both, ["guest-file-write", "x-guest-exec-write"]);
    }
}
