//! A call between its caller and the wire.

use qga_proto::ReplyText;
use qga_proto::command::CommandInfo;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::call::CallError;
use super::queue::Priority;

/// A call on its way to the wire.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) work: Work,
    pub(crate) submitted: Instant,
    /// When it left, if it has.
    pub(crate) sent: Option<Instant>,
    pub(crate) deadline: Instant,
    /// As in [`CallOptions`](super::call::CallOptions).
    pub(crate) unless_disrupted: Option<u64>,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// What a call brings: no text for a sync, and for a success that is not answered.
pub(crate) type Answer = Result<Option<ReplyText>, CallError>;

/// What is to be done on the wire.
#[derive(Debug)]
pub(crate) enum Work {
    /// One command.
    Call { info: &'static CommandInfo, arguments: String, reply_cap: usize },
    /// A sync, started after everything before it has been answered.
    Resync,
}

impl Work {
    pub(crate) fn priority(&self) -> Priority {
        match self {
            Self::Resync => Priority::Sync,
            Self::Call { info, .. } => match info.name {
                _ if info.is_thaw() => Priority::Thaw,
                "guest-file-read" | "guest-file-write" => Priority::Bulk,
                _ => Priority::Interactive,
            },
        }
    }
}

impl Pending {
    /// Answers the caller, if it is still there.
    pub(crate) fn answer(self, result: Answer) {
        let _ = self.reply.send(result);
    }

    pub(crate) fn timed_out(self, sent: bool) {
        let after = self.deadline - self.submitted;
        self.answer(Err(CallError::TimedOut { sent, after }));
    }

    /// Whether success has no answer.
    pub(crate) fn silent_success(&self) -> bool {
        matches!(&self.work, Work::Call { info, .. } if !info.success_response)
    }
}
