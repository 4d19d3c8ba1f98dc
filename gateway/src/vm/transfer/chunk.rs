//! Chunks on the wire.

use std::sync::Arc;

use qga_proto::command::{Command as _, FileChunk, FileWrite, GuestFileRead, GuestFileWrite};
use tokio::sync::oneshot;

use super::closing::GuestFile;
use crate::vm::call::{CallError, CallOptions};
use crate::vm::pending::{Answer, Arguments, answered};

/// What stands around the base64 in a reply; agents write less.
const AROUND: usize = 4096;

/// A read that was sent.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) asked: usize,
    answer: oneshot::Receiver<Answer>,
}

impl Read {
    pub(super) fn send(file: &GuestFile, count: usize) -> Result<Self, CallError> {
        let text = format!("{{\"handle\":{},\"count\":{count}}}", file.handle);
        let reply_cap = count.div_ceil(3) * 4 + AROUND;
        let options = CallOptions { reply_cap, ..file.options::<GuestFileRead>() };
        let answer = file.vm.submit_chunk(&GuestFileRead::INFO, Arguments::Text(text), options)?;
        Ok(Self { asked: count, answer })
    }

    pub(super) async fn done(self) -> Result<FileChunk, CallError> {
        let bad = |reason| CallError::BadReply { reason };
        let text = answered(self.answer).await?.ok_or_else(|| bad("nothing".into()))?;
        let chunk = text.into_file_chunk().map_err(|error| bad(error.to_string()))?;
        if chunk.bytes.len() > self.asked {
            return Err(bad(format!("{} bytes of {} asked for", chunk.bytes.len(), self.asked)));
        }
        Ok(chunk)
    }
}

/// A write that was sent, with its bytes: they may have to be sent again.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) bytes: Arc<Vec<u8>>,
    answer: Option<oneshot::Receiver<Answer>>,
}

impl Write {
    /// Sent as soon as the queue takes it; what keeps it out is told by [`done`](Self::done).
    pub(super) fn send(file: &GuestFile, bytes: &Arc<Vec<u8>>) -> Result<Self, CallError> {
        let bytes = bytes.clone();
        let arguments = Arguments::Write { handle: file.handle, bytes: bytes.clone() };
        let options = file.options::<GuestFileWrite>();
        let answer = file.vm.submit_chunk(&GuestFileWrite::INFO, arguments, options)?;
        Ok(Self { bytes, answer: Some(answer) })
    }

    /// As one that the queue did not take.
    pub(super) fn unsent(bytes: Arc<Vec<u8>>) -> Self {
        Self { bytes, answer: None }
    }

    /// How much the guest says that it wrote. May be dropped and called again.
    pub(super) async fn done(&mut self) -> Result<u64, CallError> {
        let bad = |reason| CallError::BadReply { reason };
        let after = std::time::Duration::ZERO;
        let unsent = CallError::TimedOut { sent: false, after };
        let Some(answer) = &mut self.answer else { return Err(unsent) };
        let answer = answer.await;
        self.answer = None;
        let torn_down = || CallError::Interrupted { reason: "the VM was taken away".into() };
        let text = answer.unwrap_or_else(|_| Err(torn_down()))?;
        let text = text.ok_or_else(|| bad("nothing".into()))?;
        let FileWrite { count, .. } =
            text.decode::<GuestFileWrite>().map_err(|error| bad(error.to_string()))?;
        let most = self.bytes.len() as u64;
        let fits = u64::try_from(count).ok().filter(|count| *count <= most);
        fits.ok_or_else(|| bad(format!("{count} bytes of {most} written")))
    }
}
