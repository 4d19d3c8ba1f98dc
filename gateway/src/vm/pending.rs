//! A call between its caller and the wire.

use std::sync::Arc;
use std::time::Duration;

use qga_proto::ReplyText;
use qga_proto::command::CommandInfo;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::Instant;

use super::call::{CallError, CallOptions};
use super::handle::VmHandle;
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

impl VmHandle {
    pub(super) async fn submit(
        &self,
        work: Work,
        timeout: Duration,
        unless_disrupted: Option<u64>,
    ) -> Answer {
        let priority = work.priority();
        let answer = self.enqueue(work, priority, timeout, unless_disrupted)?;
        let mut waiting = Waiting { vm: self, answer };
        answered(&mut waiting.answer).await
    }

    /// Puts a chunk of a transfer into the queue, behind those that are there; the answer comes to
    /// whoever waits for it with [`answered`].
    pub(super) fn submit_chunk(
        &self,
        info: &'static CommandInfo,
        arguments: Arguments,
        options: CallOptions,
    ) -> Result<oneshot::Receiver<Answer>, CallError> {
        let CallOptions { timeout, reply_cap, unless_disrupted } = options;
        let work = Work::Call { info, arguments, reply_cap };
        self.enqueue(work, Priority::Chunk, timeout, unless_disrupted)
    }

    fn enqueue(
        &self,
        work: Work,
        priority: Priority,
        timeout: Duration,
        unless_disrupted: Option<u64>,
    ) -> Result<oneshot::Receiver<Answer>, CallError> {
        let (reply, answer) = oneshot::channel();
        let submitted = Instant::now();
        let deadline = submitted + timeout;
        let sent = None;
        let pending = Pending { work, submitted, sent, deadline, unless_disrupted, reply };
        let vm = self.shared();
        if vm.is_closed() || vm.link.is_paused() {
            return Err(CallError::Unavailable { link: self.link() });
        }
        let depth = vm.settings.limits().queue_depth;
        let pushed = vm.queue().push(priority, Box::new(pending), depth);
        pushed.map_err(|_| CallError::QueueFull)?;
        vm.wake.notify_one();
        Ok(answer)
    }
}

/// Somebody who waits for the answer to a call. Who goes takes it out of the queue: what nobody waits
/// for would be sent to nobody, and its arguments can be large.
struct Waiting<'a> {
    vm: &'a VmHandle,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // It was answered, and is in no queue.
        if self.answer.is_terminated() {
            return;
        }
        self.answer.close();
        let left = self.vm.shared().queue().take_if(|pending| pending.reply.is_closed());
        // Behind the lock.
        drop(left);
    }
}

/// The answer to what is in the queue.
pub(super) async fn answered(answer: impl Future<Output = Result<Answer, RecvError>>) -> Answer {
    match answer.await {
        Ok(result) => result,
        // The actor answers everything that it takes; it can only have been torn down.
        Err(_) => Err(CallError::Interrupted { reason: "the VM was taken away".into() }),
    }
}

/// What is to be done on the wire.
#[derive(Debug)]
pub(crate) enum Work {
    /// One command.
    Call { info: &'static CommandInfo, arguments: Arguments, reply_cap: usize },
    /// A sync, started after everything before it has been answered.
    Resync,
}

/// What a command is given.
#[derive(Debug)]
pub(crate) enum Arguments {
    /// JSON text.
    Text(String),
    /// Those of `guest-file-write`: text only where they are written to the socket from, because it
    /// is a third longer and of no other use.
    Write { handle: i64, bytes: Arc<Vec<u8>> },
}

impl Work {
    pub(crate) fn priority(&self) -> Priority {
        match self {
            Self::Resync => Priority::Sync,
            Self::Call { info, .. } => match info.name {
                _ if info.is_thaw() => Priority::Thaw,
                "guest-file-read" | "guest-file-write" | "x-guest-exec-read"
                | "x-guest-exec-wait" => Priority::Bulk,
                _ => Priority::Interactive,
            },
        }
    }
}

impl Pending {
    /// Whether it is a part of a file.
    pub(crate) fn is_bulk(&self) -> bool {
        self.work.priority() == Priority::Bulk
    }

    /// Whether nobody has to wait for it.
    pub(crate) fn yields(&self) -> bool {
        matches!(&self.work, Work::Call { info, .. } if info.yields.is_some())
    }

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
