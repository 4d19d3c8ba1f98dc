//! The codes of everything that is not a success.
//!
//! This is the only file that names the status code of a failure. [`problem`] is how one looks;
//! what a guest or its link did wrong is put into words in [`guest`].

pub(crate) mod files;
pub(crate) mod guest;
mod problem;

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use problem::{Outcome, Problem, ProblemBody, ProblemNote};

pub(crate) use crate::printable::printable;

/// What went wrong, for programs. Codes are only ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProblemCode)]
pub enum Code {
    /// The request is malformed: JSON, a member, a parameter or a header.
    BadRequest,
    /// No credentials, or wrong ones.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// Too many requests with wrong credentials have come from this address.
    TooManyFailures,
    /// The guest's own policy has switched the command off.
    CommandDisabled,
    /// No operation has this path.
    RouteNotFound,
    /// The gateway knows no VM of this id.
    VmNotFound,
    /// The gateway knows no freeze lease of this id, or the VM has none.
    LeaseNotFound,
    /// The gateway knows no process of this number on the VM.
    ProcessNotFound,
    /// The path exists, the method on it does not.
    MethodNotAllowed,
    /// The `Accept` header leaves nothing that the gateway could send.
    NotAcceptable,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The guest refuses the command while its filesystems are frozen.
    VmFrozen,
    /// The VM is frozen already.
    AlreadyFrozen,
    /// The lease is in a state that rules this out.
    LeaseConflict,
    /// The lease has been held for as long as any may.
    HoldLimit,
    /// The process is in a state that rules this out: it has ended, is lost, or has no such stream.
    ProcessConflict,
    /// The VM is paused.
    VmPaused,
    /// The path names nothing in the guest.
    FileNotFound,
    /// The guest's kernel or the agent's policy does not let the agent do it.
    GuestPermissionDenied,
    /// Something of that name is there already.
    FileExists,
    /// It is a directory.
    IsADirectory,
    /// Something on the way is no directory.
    NotADirectory,
    /// The caller has no file open by this handle.
    FileHandleUnknown,
    /// The handle was not opened for this, or whose it is will be known in a moment.
    FileHandleConflict,
    /// The caller has as many files open as it may.
    TooManyFileHandles,
    /// The directory has entries.
    DirectoryNotEmpty,
    /// It is something that has no content to be had or replaced: a named pipe, a socket.
    NotAFile,
    /// It is in use.
    FileBusy,
    /// The upload does not go on where what was received ends: the problem's `received`.
    UploadOffsetMismatch,
    /// The caller's condition on the file does not hold.
    PreconditionFailed,
    /// None of the range is there.
    RangeNotSatisfiable,
    /// What arrived is not what `Repr-Digest` says.
    DigestMismatch,
    /// As many files are transferred as may be.
    TooManyTransfers,
    /// The guest's disk, or the user's share of it, is full.
    NoSpace,
    /// What became of the first request under this `Idempotency-Key` is not known.
    IdempotencyUnknown,
    /// Output of a process that is asked for is not kept any more.
    OutputGone,
    /// `If-Match` names another lease than the active one.
    LeaseMismatch,
    /// The request's body is over the limit.
    BodyTooLarge,
    /// The request's body is not JSON by its `Content-Type`.
    UnsupportedMediaType,
    /// The guest agent refused or failed.
    AgentError,
    /// The `Idempotency-Key` was used for another request.
    IdempotencyMismatch,
    /// No filesystem was frozen, and the policy requires it.
    NothingToFreeze,
    /// Something named is no mount point of the guest.
    NoSuchMountpoint,
    /// Less was frozen than the policy requires; it was thawed again.
    FreezeIncomplete,
    /// Too many calls wait for this VM.
    QueueFull,
    /// As many VMs are frozen as may be.
    TooManyFrozen,
    /// As many processes are known as may be.
    TooManyProcesses,
    /// As many tickets are out as may be.
    TooManyTickets,
    /// As many follow the events, or the output of a process, as may.
    TooManySubscribers,
    /// The caller asks more often than it may.
    TooManyRequests,
    /// The request line and the headers are over the limit.
    HeadTooLarge,
    /// A defect of the gateway.
    InternalError,
    /// This guest's agent has no such command or option.
    CommandUnsupported,
    /// The agent's answer could not be understood.
    AgentBadReply,
    /// The guest agent cannot be reached.
    AgentUnavailable,
    /// The gateway cannot write its state to disk.
    StateUnwritable,
    /// The gateway cannot write its audit records, and is to change nothing without.
    AuditUnwritable,
    /// Bodies of requests take as much memory as they may.
    GatewayBusy,
    /// The gateway is stopping.
    ShuttingDown,
    /// The guest agent did not answer in time.
    AgentTimeout,
}

impl Code {
    /// All codes, by status.
    pub const ALL: [Self; 61] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::CommandDisabled,
        Self::RouteNotFound,
        Self::VmNotFound,
        Self::LeaseNotFound,
        Self::ProcessNotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::VmFrozen,
        Self::AlreadyFrozen,
        Self::LeaseConflict,
        Self::HoldLimit,
        Self::ProcessConflict,
        Self::VmPaused,
        Self::FileNotFound,
        Self::GuestPermissionDenied,
        Self::FileExists,
        Self::IsADirectory,
        Self::NotADirectory,
        Self::FileHandleUnknown,
        Self::FileHandleConflict,
        Self::TooManyFileHandles,
        Self::DirectoryNotEmpty,
        Self::NotAFile,
        Self::FileBusy,
        Self::UploadOffsetMismatch,
        Self::PreconditionFailed,
        Self::RangeNotSatisfiable,
        Self::DigestMismatch,
        Self::TooManyTransfers,
        Self::NoSpace,
        Self::IdempotencyUnknown,
        Self::OutputGone,
        Self::LeaseMismatch,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::AgentError,
        Self::IdempotencyMismatch,
        Self::NothingToFreeze,
        Self::NoSuchMountpoint,
        Self::FreezeIncomplete,
        Self::QueueFull,
        Self::TooManyFrozen,
        Self::TooManyProcesses,
        Self::TooManyTickets,
        Self::TooManySubscribers,
        Self::TooManyFailures,
        Self::TooManyRequests,
        Self::HeadTooLarge,
        Self::InternalError,
        Self::CommandUnsupported,
        Self::AgentBadReply,
        Self::AgentUnavailable,
        Self::StateUnwritable,
        Self::AuditUnwritable,
        Self::GatewayBusy,
        Self::ShuttingDown,
        Self::AgentTimeout,
    ];

    /// Status, code as on the wire, and title: the table of DESIGN.md §6.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::BadRequest => (S::BAD_REQUEST, "bad_request", "Bad request"),
            Self::Unauthenticated => {
                (S::UNAUTHORIZED, "unauthenticated", "Authentication required")
            }
            Self::Forbidden => (S::FORBIDDEN, "forbidden", "Not permitted"),
            Self::CommandDisabled => {
                (S::FORBIDDEN, "command_disabled", "Command disabled by the guest")
            }
            Self::RouteNotFound => (S::NOT_FOUND, "route_not_found", "No such path"),
            Self::VmNotFound => (S::NOT_FOUND, "vm_not_found", "No such VM"),
            Self::LeaseNotFound => (S::NOT_FOUND, "lease_not_found", "No such freeze lease"),
            Self::ProcessNotFound => (S::NOT_FOUND, "process_not_found", "No such process"),
            Self::ProcessConflict => {
                (S::CONFLICT, "process_conflict", "The process does not allow it")
            }
            Self::OutputGone => (S::GONE, "output_gone", "The output is not kept any more"),
            Self::TooManyProcesses => {
                (S::TOO_MANY_REQUESTS, "too_many_processes", "Too many processes are known")
            }
            Self::TooManyTickets => {
                (S::TOO_MANY_REQUESTS, "too_many_tickets", "Too many tickets are out")
            }
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed here")
            }
            Self::NotAcceptable => {
                (S::NOT_ACCEPTABLE, "not_acceptable", "No acceptable representation")
            }
            Self::RequestTimeout => {
                (S::REQUEST_TIMEOUT, "request_timeout", "The request took too long to arrive")
            }
            Self::VmFrozen => (S::CONFLICT, "vm_frozen", "The VM is frozen"),
            Self::AlreadyFrozen => (S::CONFLICT, "already_frozen", "The VM is frozen already"),
            Self::LeaseConflict => (S::CONFLICT, "lease_conflict", "The lease does not allow it"),
            Self::VmPaused => (S::CONFLICT, "vm_paused", "The VM is paused"),
            Self::IdempotencyUnknown => {
                (S::CONFLICT, "idempotency_unknown", "What became of the first request is unknown")
            }
            Self::IdempotencyMismatch => {
                (S::UNPROCESSABLE_ENTITY, "idempotency_mismatch", "The key is another request's")
            }
            Self::LeaseMismatch => {
                (S::PRECONDITION_FAILED, "lease_mismatch", "Another lease is active")
            }
            Self::BodyTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "body_too_large", "The request's body is too large")
            }
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body is not JSON")
            }
            Self::AgentError => {
                (S::UNPROCESSABLE_ENTITY, "agent_error", "The guest agent refused or failed")
            }
            Self::NothingToFreeze => {
                (S::UNPROCESSABLE_ENTITY, "nothing_to_freeze", "Nothing was frozen")
            }
            Self::FreezeIncomplete => {
                (S::UNPROCESSABLE_ENTITY, "freeze_incomplete", "Not everything could be frozen")
            }
            Self::QueueFull => {
                (S::TOO_MANY_REQUESTS, "queue_full", "Too many calls wait for this VM")
            }
            Self::TooManySubscribers => {
                (S::TOO_MANY_REQUESTS, "too_many_subscribers", "Too many follow this")
            }
            Self::TooManyFailures => {
                (S::TOO_MANY_REQUESTS, "too_many_failures", "Too many wrong credentials")
            }
            Self::TooManyRequests => {
                (S::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests")
            }
            Self::HeadTooLarge => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                "The request's line and headers are too large",
            ),
            Self::InternalError => {
                (S::INTERNAL_SERVER_ERROR, "internal_error", "Defect in the gateway")
            }
            Self::CommandUnsupported => {
                (S::NOT_IMPLEMENTED, "command_unsupported", "The guest agent cannot do this")
            }
            Self::AgentBadReply => {
                (S::BAD_GATEWAY, "agent_bad_reply", "The guest agent's answer makes no sense")
            }
            Self::AgentUnavailable => {
                (S::SERVICE_UNAVAILABLE, "agent_unavailable", "The guest agent cannot be reached")
            }
            Self::GatewayBusy => {
                (S::SERVICE_UNAVAILABLE, "gateway_busy", "The gateway has too much in hand")
            }
            Self::ShuttingDown => {
                (S::SERVICE_UNAVAILABLE, "shutting_down", "The gateway is stopping")
            }
            Self::FileNotFound => (S::NOT_FOUND, "file_not_found", "No such file in the guest"),
            Self::GuestPermissionDenied => {
                (S::FORBIDDEN, "guest_permission_denied", "The guest does not permit it")
            }
            Self::FileExists => (S::CONFLICT, "file_exists", "There is such a file already"),
            Self::IsADirectory => (S::CONFLICT, "is_a_directory", "It is a directory"),
            Self::NotADirectory => (S::CONFLICT, "not_a_directory", "It is no directory"),
            Self::FileHandleUnknown => {
                (S::NOT_FOUND, "file_handle_unknown", "You have no file open by that handle")
            }
            Self::FileHandleConflict => {
                (S::CONFLICT, "file_handle_conflict", "The file handle does not allow it")
            }
            Self::TooManyFileHandles => {
                (S::TOO_MANY_REQUESTS, "too_many_file_handles", "Too many files are open")
            }
            Self::DirectoryNotEmpty => {
                (S::CONFLICT, "directory_not_empty", "The directory is not empty")
            }
            Self::NotAFile => (S::CONFLICT, "not_a_file", "It is no file with a content"),
            Self::FileBusy => (S::CONFLICT, "file_busy", "The file is in use"),
            Self::UploadOffsetMismatch => {
                (S::CONFLICT, "upload_offset_mismatch", "The upload goes on elsewhere")
            }
            Self::PreconditionFailed => {
                (S::PRECONDITION_FAILED, "precondition_failed", "The condition does not hold")
            }
            Self::RangeNotSatisfiable => {
                (S::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "None of the range is there")
            }
            Self::DigestMismatch => {
                (S::UNPROCESSABLE_ENTITY, "digest_mismatch", "Something else arrived than was sent")
            }
            Self::TooManyTransfers => {
                (S::TOO_MANY_REQUESTS, "too_many_transfers", "Too many files are transferred")
            }
            Self::NoSpace => (S::INSUFFICIENT_STORAGE, "no_space", "The guest's disk is full"),
            Self::HoldLimit => (S::CONFLICT, "hold_limit", "The lease is held for long enough"),
            Self::NoSuchMountpoint => {
                (S::UNPROCESSABLE_ENTITY, "no_such_mountpoint", "No such mount point")
            }
            Self::TooManyFrozen => {
                (S::TOO_MANY_REQUESTS, "too_many_frozen", "Too many VMs are frozen")
            }
            Self::StateUnwritable => (
                S::SERVICE_UNAVAILABLE,
                "state_unwritable",
                "The gateway's state cannot be written",
            ),
            Self::AuditUnwritable => (
                S::SERVICE_UNAVAILABLE,
                "audit_unwritable",
                "The gateway's audit records cannot be written",
            ),
            Self::AgentTimeout => {
                (S::GATEWAY_TIMEOUT, "agent_timeout", "The guest agent did not answer in time")
            }
        }
    }

    /// Whether the request was wrong by itself, whatever the state of the VM.
    const fn is_callers_fault(self) -> bool {
        matches!(self.status().as_u16(), 400 | 401 | 403..=408 | 410 | 413 | 415 | 431)
            && !matches!(
                self,
                Self::CommandDisabled | Self::FileNotFound | Self::GuestPermissionDenied
            )
    }

    /// The HTTP status that goes with this code.
    pub const fn status(self) -> StatusCode {
        self.row().0
    }

    /// The code as it stands in a problem.
    pub const fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The code in words, the same for every occurrence.
    pub const fn title(self) -> &'static str {
        self.row().2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::LinkState;

    #[test]
    fn codes_on_the_wire_match_their_table() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn the_guide_has_a_section_for_each_code_and_each_link_state() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
        let guide = std::fs::read_to_string(path).expect("the guide");
        let headings = guide.lines().filter_map(|line| line.strip_prefix("### "));
        let told: Vec<String> = headings.map(str::to_owned).collect();
        let codes = Code::ALL
            .iter()
            .map(|code| format!("`{}` ({})", code.as_str(), code.status().as_u16()));
        let states = LinkState::ALL.iter().map(|state| format!("State `{state}`"));
        let there: Vec<String> = codes.chain(states).collect();
        let missing: Vec<_> = there.iter().filter(|heading| !told.contains(heading)).collect();
        let unknown: Vec<_> = told.iter().filter(|heading| !there.contains(heading)).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "missing {missing:#?}, unknown {unknown:#?}"
        );
        assert_eq!(told.len(), there.len(), "one of them is there twice");
    }
}
