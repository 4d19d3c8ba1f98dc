//! What is known of a process's standard input, and who writes it.

use qga_proto::command::XExecInput;

use super::Process;
use crate::vm::processes::stream::MAX_OFFSET;

/// Standard input, where it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// Bytes that the guest has taken.
    pub taken: u64,
    /// Nothing more is taken.
    pub closed: bool,
    pub(in crate::vm::processes) room: u64,
    /// Somebody waits for room.
    pub(in crate::vm::processes) wanted: bool,
}

impl Process {
    /// Whether somebody waits for room in its input.
    pub(in crate::vm::processes) fn wants_input_room(&self) -> bool {
        self.lock().input.is_some_and(|input| input.wanted && !input.closed && input.room == 0)
    }

    pub(in crate::vm::processes) fn input_state(&self) -> Option<Input> {
        self.lock().input
    }

    /// Somebody waits for room in its input, or not any more.
    pub(in crate::vm::processes) fn want_room(&self, wanted: bool) {
        if let Some(input) = &mut self.lock().input {
            input.wanted = wanted;
        }
        self.pump.notify_one();
    }

    pub(in crate::vm::processes) fn input_took(&self, said: XExecInput) {
        if let Some(input) = &mut self.lock().input {
            input.taken = input.taken.max(said.taken.min(MAX_OFFSET));
            input.room = said.room;
            input.closed |= said.closed;
        }
        self.news.send_replace(());
    }

    /// A new writer; the one before is told.
    pub(in crate::vm::processes) fn take_writer(&self) -> u64 {
        let mut inner = self.lock();
        inner.writer += 1;
        let writer = inner.writer;
        drop(inner);
        self.news.send_replace(());
        writer
    }

    pub(in crate::vm::processes) fn is_writer(&self, writer: u64) -> bool {
        self.lock().writer == writer
    }
}
