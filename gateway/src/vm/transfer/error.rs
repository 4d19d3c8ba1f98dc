//! Why a transfer ends before its end.

use std::time::Duration;

use qga_proto::command::{CommandInfo, FileKind};

use crate::vm::Full;
use crate::vm::call::CallError;

/// Why a transfer ends before its end.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// A command failed.
    #[error("{}: {source}", command.name)]
    Call { command: &'static CommandInfo, source: CallError },
    /// The guest stood still for longer than a transfer waits.
    #[error("the guest was frozen or paused for more than {} s", after.as_secs())]
    Halted { after: Duration },
    /// It is nothing that has a content.
    #[error("it is no file but a {}", kind_name(*.kind))]
    NotAFile { kind: FileKind },
    /// It has no positions, which is all that an agent without extensions can tell.
    #[error(
        "it has no positions to go to, so it is a named pipe, a socket or a terminal (the agent in \
         the guest cannot tell which)"
    )]
    NoPositions,
    /// The file ended before the size that it had.
    #[error("the file became shorter while it was read: {missing} bytes are missing")]
    Shorter { missing: u64 },
    /// The guest took less of a chunk than it was given.
    #[error("the guest wrote {wrote} of {of} bytes")]
    ShortWrite { wrote: u64, of: usize },
    /// Content for a place behind the file's end.
    #[error("the file has only {end} bytes")]
    Hole { end: u64 },
    /// The guest does not have what it was sent before.
    #[error("the guest has forgotten what it was sent before")]
    Forgotten,
    /// The sender is not there any more.
    #[error("the sender has gone")]
    SenderGone,
    /// The content does not begin where what is there ends.
    #[error("{received} bytes were received")]
    OtherOffset { received: u64 },
    /// A digest that was not named when the upload began.
    #[error("that digest was not made from the beginning")]
    LateDigest,
    /// What arrived is not what the sender says it sent.
    #[error("the content's {algorithm} digest is another one")]
    Digest { algorithm: &'static str },
    /// The same client goes on with this upload in another request.
    #[error("another request goes on with it")]
    TakenOver,
    /// As many transfers are under way as may be.
    #[error("{limit} transfers are all that there may be")]
    TooMany { limit: usize, full: Full },
    /// As many of this VM as may be.
    #[error("{limit} transfers are under way")]
    TooManyOfVm { limit: usize },
    /// Somebody else writes to that file where it is, or what was sent to it before may still come.
    #[error("an earlier upload to that file was not closed in the guest within {} s", after.as_secs())]
    InUse { after: Duration },
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
    /// The task that did it has gone.
    #[error("the gateway failed while it moved the file")]
    Lost,
}

impl TransferError {
    pub(super) fn call(command: &'static CommandInfo) -> impl FnOnce(CallError) -> Self {
        move |source| Self::Call { command, source }
    }
}

impl TransferError {
    /// Whether a sender may find what it sent, and go on.
    pub(crate) fn may_go_on(&self) -> bool {
        match self {
            Self::SenderGone | Self::TakenOver | Self::Halted { .. } => true,
            Self::Call { source, .. } => !matches!(source, CallError::Agent(_)),
            _ => false,
        }
    }
}

/// As it is told to a person.
fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Fifo => "named pipe",
        FileKind::Socket => "socket",
        FileKind::BlockDevice => "block device",
        FileKind::CharDevice => "character device",
        FileKind::Unknown => "thing of an unknown kind",
    }
}
