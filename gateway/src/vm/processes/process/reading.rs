//! Who reads a process's output, how far each is, and what comes next for it.

use std::sync::MutexGuard;

use qga_proto::command::{OutputStream, Overflow};

use super::{Inner, Process, index};
use crate::vm::processes::stream::Stream;

/// What comes next for a reader.
#[derive(Debug)]
pub(in crate::vm::processes) enum Next {
    Bytes(Vec<u8>),
    /// Nothing is kept before this offset.
    Gap(u64),
    Nothing,
    End,
}

impl Process {
    pub(in crate::vm::processes) fn add_reader(
        &self,
        at: [Option<u64>; 2],
        max: usize,
    ) -> Option<u64> {
        let mut inner = self.lock();
        if inner.readers.len() >= max {
            return None;
        }
        let reader = inner.next_reader;
        inner.next_reader += 1;
        inner.readers.push((reader, at));
        Some(reader)
    }

    pub(in crate::vm::processes) fn remove_reader(&self, reader: u64) {
        let mut inner = self.lock();
        inner.readers.retain(|(id, _)| *id != reader);
        self.note_taken(inner);
    }

    /// Notes that a reader has taken a stream up to `offset`.
    fn took(&self, mut inner: MutexGuard<'_, Inner>, reader: u64, n: usize, offset: u64) {
        if let Some((_, at)) = inner.readers.iter_mut().find(|(id, _)| *id == reader) {
            at[n] = Some(offset);
        }
        self.note_taken(inner);
    }

    /// What the slowest reader has taken counts; without any, what was taken last.
    fn note_taken(&self, mut inner: MutexGuard<'_, Inner>) {
        let mut moved = false;
        for n in [0, 1] {
            let slowest = inner.readers.iter().filter_map(|(_, at)| at[n]).min();
            let end = inner.streams[n].as_ref().map_or(0, Stream::end);
            let slowest = slowest.map(|at| at.min(end)).filter(|at| *at > inner.taken[n]);
            let Some(slowest) = slowest else { continue };
            inner.taken[n] = slowest;
            moved = true;
        }
        drop(inner);
        if moved && self.overflow == Overflow::Wait {
            self.pump.notify_one();
        }
    }

    /// What comes next for a reader that stands at `at`.
    pub(in crate::vm::processes) fn next(
        &self,
        reader: u64,
        stream: OutputStream,
        at: u64,
        max: usize,
    ) -> Next {
        let n = index(stream);
        let inner = self.lock();
        let Some(kept) = &inner.streams[n] else { return Next::End };
        let over = kept.eof || inner.complete;
        match kept.read(at, max) {
            Some((offset, bytes)) if offset == at => {
                let end = offset + bytes.len() as u64;
                self.took(inner, reader, n, end);
                Next::Bytes(bytes)
            }
            Some((offset, _)) => {
                self.took(inner, reader, n, offset);
                Next::Gap(offset)
            }
            None if at < kept.end() => {
                let end = kept.end();
                self.took(inner, reader, n, end);
                Next::Gap(end)
            }
            None if over => Next::End,
            None => Next::Nothing,
        }
    }
}
