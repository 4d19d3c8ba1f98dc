//! Writing to a process's standard input: one writer at a time, whose bytes arrive once and in
//! order however often their acknowledgement gets lost.

use std::time::Duration;

use qga_proto::base64::Base64Text;
use qga_proto::command::{Command, CommandInfo, XExecInput, XExecWrite};
use tokio::time::{Instant, timeout};

use super::process::Process;
use crate::vm::call::CallError;
use crate::vm::handle::VmHandle;

/// The most that one write carries.
const CHUNK: usize = 64 << 10;

/// How long a writer puts up with a guest that cannot be reached. A frozen one has all the time.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a writer looks whether it still may.
const LOOK: Duration = Duration::from_millis(200);

/// Why input was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The process has no input that is open.
    #[error("its standard input is not open")]
    Closed,
    /// The bytes begin behind those that were taken.
    #[error("{taken} bytes were taken so far")]
    Ahead {
        /// How many.
        taken: u64,
    },
    /// Somebody else writes now.
    #[error("another request writes to it now")]
    TakenOver,
    /// A call to the guest failed.
    #[error("{source}")]
    Call {
        /// The command.
        command: &'static CommandInfo,
        /// Why.
        source: CallError,
    },
}

/// The one that may write to a process's input, until there is another.
#[derive(Debug)]
pub struct InputWriter<'a> {
    vm: &'a VmHandle,
    process: &'a Process,
    id: u64,
    /// Where its next byte stands.
    offset: u64,
}

impl VmHandle {
    /// Takes over a process's input. Its first byte stands at `offset`, or behind all that was
    /// taken so far.
    pub fn write_process<'a>(
        &'a self,
        process: &'a Process,
        offset: Option<u64>,
    ) -> Result<InputWriter<'a>, InputError> {
        let input = process.input_state().ok_or(InputError::Closed)?;
        let offset = offset.unwrap_or(input.taken);
        if offset > input.taken {
            return Err(InputError::Ahead { taken: input.taken });
        }
        Ok(InputWriter { vm: self, process, id: process.take_writer(), offset })
    }
}

impl<'a> InputWriter<'a> {
    /// Bytes that the guest has taken, from the very first.
    pub fn taken(&self) -> u64 {
        self.process.input_state().map_or(self.offset, |input| input.taken)
    }

    /// Returns once somebody else has taken the input over.
    pub fn replaced(&self) -> impl Future<Output = ()> + Send + use<'a> {
        let (process, id) = (self.process, self.id);
        async move {
            let mut news = process.news();
            while process.is_writer(id) {
                // Its sender lives with the process.
                let _ = news.changed().await;
            }
        }
    }

    /// Writes all of it, as fast as the process reads, and with `close` ends the input behind it.
    /// Waits out a freeze.
    pub async fn write(&mut self, bytes: &[u8], close: bool) -> Result<(), InputError> {
        let end = self.offset + bytes.len() as u64;
        let mut unreachable = None;
        loop {
            let turn = self.process.input.lock().await;
            if !self.process.is_writer(self.id) {
                return Err(InputError::TakenOver);
            }
            let input = self.process.input_state().ok_or(InputError::Closed)?;
            if input.taken >= end && (!close || input.closed) {
                break;
            }
            if input.closed {
                return Err(InputError::Closed);
            }
            if input.room == 0 && input.taken < end {
                drop(turn);
                self.room().await;
                continue;
            }
            let at = input.taken.max(self.offset);
            // No more than the length of `bytes`.
            let from = usize::try_from(at - self.offset).unwrap_or(0).min(bytes.len());
            let chunk = &bytes[from..(from + CHUNK).min(bytes.len())];
            let last = from + chunk.len() == bytes.len();
            match self.send(at, chunk, close && last).await {
                Ok(said) => {
                    unreachable = None;
                    let stuck = said.taken <= input.taken && said.room > 0 && !said.closed;
                    self.process.input_took(said);
                    drop(turn);
                    // An agent that neither takes anything nor says that it is full.
                    if stuck && !chunk.is_empty() {
                        self.look().await;
                    }
                }
                Err(InputError::Call { command, source }) => {
                    let since = *unreachable.get_or_insert_with(Instant::now);
                    let passing = match &source {
                        CallError::Agent(error) => error.is_disabled(),
                        CallError::Unsupported => false,
                        _ => true,
                    };
                    let patient = since.elapsed() < PATIENCE;
                    if !passing || !patient || self.process.is_complete() {
                        return Err(InputError::Call { command, source });
                    }
                    drop(turn);
                    self.look().await;
                    if self.vm.link().state == crate::vm::LinkState::Frozen {
                        unreachable = None;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.offset = end;
        Ok(())
    }

    async fn send(&self, offset: u64, chunk: &[u8], close: bool) -> Result<XExecInput, InputError> {
        let handle = self.process.handle().ok_or(InputError::Closed)?;
        let buf_b64 = Base64Text::new(chunk);
        let write = XExecWrite { handle, offset, buf_b64, close: close.then_some(true) };
        let options = self.vm.options(&XExecWrite::INFO);
        let command = const { &XExecWrite::INFO };
        self.vm.call(write, options).await.map_err(|source| InputError::Call { command, source })
    }

    /// Waits for room, as the pump hears of it.
    async fn room(&self) {
        let mut news = self.process.news();
        self.process.want_room(true);
        let waits = || {
            let input = self.process.input_state();
            input.is_some_and(|input| input.room == 0 && !input.closed)
        };
        while waits() && self.process.is_writer(self.id) && !self.process.is_complete() {
            // Its sender lives with the process.
            let _ = news.changed().await;
        }
        self.process.want_room(false);
    }

    async fn look(&self) {
        let mut changes = self.vm.link_changes();
        let _ = timeout(LOOK, changes.changed()).await;
    }
}
