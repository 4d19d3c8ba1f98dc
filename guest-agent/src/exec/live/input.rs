//! Standard input of a program: what was taken for it and not written to it yet.

use std::os::fd::OwnedFd;

use qga_proto::command::InputState;
use rustix::io::{self, Errno};

/// Bytes that may wait.
pub(super) const WINDOW: usize = 64 << 10;

/// What is on its way.
#[derive(Debug)]
pub(super) struct Input {
    waiting: Vec<u8>,
    written: usize,
    taken: u64,
    /// It ends behind what is waiting.
    ends: bool,
}

impl Input {
    /// Beginning with `first`, which may be more than the window.
    pub(super) fn new(first: Vec<u8>, ends: bool) -> Self {
        Self { taken: first.len() as u64, waiting: first, written: 0, ends }
    }

    /// Bytes in memory.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn state(&self) -> InputState {
        let room = if self.ends { 0 } else { WINDOW.saturating_sub(self.pending()) };
        InputState { taken: self.taken, room: room as u64 }
    }

    pub(super) fn ends(&self) -> bool {
        self.ends
    }

    /// Whether there is something to be written.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending() > 0
    }

    /// All is written, and it ends there.
    pub(super) fn is_over(&self) -> bool {
        self.ends && !self.is_waiting()
    }

    fn pending(&self) -> usize {
        self.waiting.len() - self.written
    }

    /// Takes what is new of `bytes`, which begin at `offset` (not behind what was taken), as far as
    /// there is room; if that is all of it and `close` says so, it ends there.
    pub(super) fn take(&mut self, offset: u64, bytes: &[u8], close: bool, room: usize) {
        // More than there is to skip skips all.
        let known = usize::try_from(self.taken.saturating_sub(offset)).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        let room = usize::try_from(self.state().room).unwrap_or(0).min(room);
        let fits = &new[..new.len().min(room)];
        self.waiting.drain(..self.written);
        self.written = 0;
        self.waiting.extend_from_slice(fits);
        self.taken += fits.len() as u64;
        self.ends |= close && fits.len() == new.len();
    }

    /// Writes what goes. False if nobody reads any more.
    pub(super) fn write(&mut self, to: &OwnedFd) -> bool {
        while self.is_waiting() {
            match io::write(to, &self.waiting[self.written..]) {
                Ok(n) => self.written += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        self.waiting = Vec::new();
        self.written = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_left_out_and_the_window_is_kept() {
        let mut input = Input::new(b"abc".to_vec(), false);
        input.take(1, b"bcde", false, usize::MAX);
        assert_eq!((input.waiting.as_slice(), input.taken()), (&b"abcde"[..], 5));
        input.take(0, b"abcd", false, usize::MAX);
        assert_eq!(input.taken(), 5);
        input.take(5, &vec![b'x'; WINDOW], true, usize::MAX);
        let full = InputState { taken: WINDOW as u64, room: 0 };
        assert_eq!((input.state(), input.ends()), (full, false), "not all of it fitted");
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert!(input.write(&writer) && input.is_waiting() != (input.len() == 0));
        input.take(WINDOW as u64, b"xxxxx", true, 3);
        assert!(!input.ends());
        drop(reader);
    }
}
