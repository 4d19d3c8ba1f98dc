//! What goes wrong with a guest's files, as a problem for the caller.

use qga_proto::QgaError;
use qga_proto::command::{Command as _, CommandInfo, XFileCommit, XFileCreate};

use super::{Code, Outcome, Problem, guest, printable};
use crate::vm::transfer::TransferError;
use crate::vm::{Full, VmHandle};

/// The problem of a file command whose agent names the kernel's error.
pub(super) fn by_errno(vm: &VmHandle, info: &CommandInfo, error: &QgaError) -> Option<Problem> {
    if !info.name.contains("guest-file-") {
        return None;
    }
    let (code, meaning) = match error.errno.as_deref()? {
        "ENOENT" => (Code::FileNotFound, "has no such file or directory"),
        "EACCES" | "EPERM" | "EROFS" => {
            (Code::GuestPermissionDenied, "does not let its agent do that")
        }
        "EEXIST" => (Code::FileExists, "has something of that name already"),
        "EISDIR" => (Code::IsADirectory, "has a directory there, which has no content of its own"),
        "ENOTDIR" => {
            (Code::NotADirectory, "has something there, or on the way there, that is no directory")
        }
        // Where a file is to be put, this is said of what is there, or of a name that no file can have.
        "EINVAL" if [XFileCreate::INFO.name, XFileCommit::INFO.name].contains(&info.name) => {
            (Code::NotAFile, "has something there that no file is put in the place of")
        }
        "ESPIPE" => (
            Code::NotAFile,
            "has something there that has no positions: a named pipe, a socket or a terminal",
        ),
        // Of a pipe only where it is to be written to.
        "ENXIO" => (
            Code::NotAFile,
            "has something there that cannot be opened: a socket, a named pipe that nobody reads, or \
             a device that is not there",
        ),
        "ENOTEMPTY" => (Code::DirectoryNotEmpty, "has entries in that directory"),
        "EBUSY" | "ETXTBSY" => (Code::FileBusy, "has that in use"),
        "ENOSPC" | "EDQUOT" => (Code::NoSpace, "has no room left on that disk"),
        "ESTALE" => (Code::PreconditionFailed, "has another content there than was expected"),
        _ => return None,
    };
    let text = printable(&error.desc);
    let detail = format!(
        "VM \"{}\" {meaning}: {} says \"{}\".",
        vm.id(),
        info.name,
        text.trim_end_matches("\\n")
    );
    let retryable = matches!(code, Code::FileBusy | Code::NoSpace);
    Some(Problem::new(code, detail).outcome(Outcome::Failed, retryable))
}

/// The problem of a transfer that failed. `frozen`: a freeze lease is active on the VM.
pub(crate) fn transfer_failed(vm: &VmHandle, frozen: bool, error: TransferError) -> Problem {
    let id = vm.id();
    let problem = match error {
        TransferError::Call { command, source } => {
            return guest::call_failed(vm, command, frozen, source);
        }
        TransferError::Halted { after } => Problem::new(
            Code::VmFrozen,
            format!(
                "VM \"{id}\" has been frozen or paused for more than {} s, for as long as a \
                 transfer waits (limits.transfer_pause_seconds). Go on once it is thawed.",
                after.as_secs()
            ),
        )
        .outcome(Outcome::Failed, true),
        TransferError::NotAFile { .. } | TransferError::NoPositions => Problem::new(
            Code::NotAFile,
            format!("On VM \"{id}\" that cannot be read as a whole: {error}."),
        )
        .outcome(Outcome::Failed, false),
        TransferError::InUse { .. } => Problem::new(
            Code::FileBusy,
            format!(
                "To that file of VM \"{id}\" nothing is written yet: {error}. Its last bytes may still \
                 be on their way, and would land in this upload. Try again; if it stays so, the guest \
                 does not close the file, or another upload to it is under way."
            ),
        )
        .outcome(Outcome::NotSent, true),
        TransferError::Shorter { .. } | TransferError::ShortWrite { .. } => Problem::new(
            Code::AgentError,
            format!("VM \"{id}\" did not move the whole file: {error}."),
        )
        .outcome(Outcome::Failed, true),
        TransferError::Digest { .. } => Problem::new(
            Code::DigestMismatch,
            format!(
                "What arrived for VM \"{id}\" is not what Repr-Digest says: {error}. Send it again."
            ),
        )
        .outcome(Outcome::Failed, true),
        TransferError::OtherOffset { received } => Problem::new(
            Code::UploadOffsetMismatch,
            format!(
                "Of this file for VM \"{id}\", {received} bytes are there from an earlier request \
                 of yours: go on from there, or send the whole without an offset. To overwrite a \
                 part of a file that is there, add in_place=true."
            ),
        )
        .outcome(Outcome::NotSent, false)
        .received(received),
        TransferError::Hole { end } => Problem::new(
            Code::UploadOffsetMismatch,
            format!(
                "The file on VM \"{id}\" has only {end} bytes: go on from there, or send the whole \
                 without an offset."
            ),
        )
        .outcome(Outcome::Failed, false)
        .received(end),
        TransferError::Forgotten => Problem::new(
            Code::UploadOffsetMismatch,
            format!(
                "VM \"{id}\" does not have what it was sent before any more: its agent, or the VM, \
                 was restarted. Send the whole again."
            ),
        )
        .outcome(Outcome::Failed, false)
        .received(0),
        TransferError::LateDigest => Problem::bad_request(
            "Header Repr-Digest must be the same in each request of one upload: it is made from \
             the beginning.",
        ),
        TransferError::TakenOver | TransferError::SenderGone => Problem::new(
            Code::UploadOffsetMismatch,
            format!("This upload to VM \"{id}\" was broken off: {error}."),
        )
        .outcome(Outcome::Failed, true),
        TransferError::TooMany { limit, full } => too_many(match full {
            Full::Everybody => format!(
                "{limit} files are transferred already, as many as limits.transfers in the gateway's \
                 configuration allows"
            ),
            Full::Vm => format!(
                "VM \"{id}\" has its share of the {limit} files that may be transferred at once \
                 (limits.transfers): the rest is kept for other VMs"
            ),
            Full::Principal => format!(
                "You have your share of the {limit} files that may be transferred at once \
                 (limits.transfers): the rest is kept for others"
            ),
        }),
        TransferError::TooManyOfVm { limit } => too_many(format!(
            "{limit} files of VM \"{id}\" are transferred already, as many as limits.transfers_vm in \
             the gateway's configuration allows"
        )),
        TransferError::Stopping => Problem::new(
            Code::ShuttingDown,
            format!("The gateway is stopping, and moves no more files of VM \"{id}\"."),
        )
        .outcome(Outcome::Failed, true)
        .retry_after(5),
        TransferError::Lost => Problem::new(
            Code::InternalError,
            "The gateway failed while it moved the file, which is a defect; its log has the cause.",
        )
        .outcome(Outcome::Unknown, false),
    };
    problem.vm(id)
}

fn too_many(why: String) -> Problem {
    Problem::new(Code::TooManyTransfers, why + ". Nothing was sent.")
        .outcome(Outcome::NotSent, true)
        .retry_after(2)
}
