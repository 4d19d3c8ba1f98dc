//! `/vms/{id}/files`: what there is in the guest, and directories.

pub(super) mod content;
mod digest;
mod download;
mod query;
mod range;
pub(super) mod tree;
mod upload;
mod validators;

use qga_proto::command::XFileOpen;

use super::caller::Vm;
use super::error::files::transfer_failed;
use super::error::{Code, Outcome, Problem, printable};
use crate::vm::transfer::{GuestPath, TransferError};

/// What every operation on a path can run into.
const FILE_PROBLEMS: &[Code] = &[
    Code::VmNotFound,
    Code::AgentUnavailable,
    Code::QueueFull,
    Code::AgentTimeout,
    Code::AgentBadReply,
    Code::AgentError,
    Code::CommandUnsupported,
    Code::CommandDisabled,
    Code::VmFrozen,
    Code::VmPaused,
    Code::FileNotFound,
    Code::GuestPermissionDenied,
    Code::NotADirectory,
    Code::PreconditionFailed,
];

const READ_PROBLEMS: &[Code] = &[
    Code::IsADirectory,
    Code::NotAFile,
    Code::RangeNotSatisfiable,
    Code::TooManyTransfers,
    Code::ShuttingDown,
];

const WRITE_PROBLEMS: &[Code] = &[
    Code::IsADirectory,
    Code::NotAFile,
    Code::FileExists,
    Code::FileBusy,
    Code::NoSpace,
    Code::UploadOffsetMismatch,
    Code::DigestMismatch,
    Code::TooManyTransfers,
    Code::ShuttingDown,
];

impl Vm {
    fn transfer_failed(&self, error: TransferError) -> Problem {
        transfer_failed(&self.handle, self.lease().is_some(), error)
    }

    /// Only text can be told to an agent without extensions.
    fn needs_text(&self, path: &GuestPath) -> Result<(), Problem> {
        match path.text() {
            Some(_) => Ok(()),
            None => Err(self.stock_cannot("a path that is no UTF-8")),
        }
    }

    /// Refuses what needs our agent's extensions.
    fn stock_cannot(&self, what: &str) -> Problem {
        let id = self.handle.id();
        let version = self.handle.capabilities().map(|agent| printable(&agent.version));
        let which = version.map(|version| format!(" (version {version})")).unwrap_or_default();
        Problem::new(
            Code::CommandUnsupported,
            format!(
                "The guest agent of VM \"{id}\"{which} cannot do this: {what}. It needs the \
                 extensions of qga-agent, such as {}. Nothing was sent.",
                <XFileOpen as qga_proto::command::Command>::INFO.name
            ),
        )
        .outcome(Outcome::NotSent, false)
        .vm(id)
    }
}
