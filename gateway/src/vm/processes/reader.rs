//! Reading a process's output at one's own pace: a place in what is kept, and no queue.

use std::sync::Arc;

use qga_proto::command::OutputStream;
use tokio::sync::watch;

use super::process::{Next, Process, STREAMS, index};

/// The most that one piece has.
const PIECE: usize = 32 << 10;

/// A reader of one process's output.
#[derive(Debug)]
pub struct OutputReader {
    process: Arc<Process>,
    id: u64,
    at: [Option<u64>; 2],
    news: watch::Receiver<()>,
    /// Which stream goes first, so that neither waits for a flood of the other.
    turn: usize,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of a stream.
    Bytes {
        /// Which stream.
        stream: OutputStream,
        /// Where they begin.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes that are not there any more, or never were.
    Gap {
        /// Which stream.
        stream: OutputStream,
        /// The first that is missing.
        from: u64,
        /// Where it goes on.
        to: u64,
    },
}

/// As many read this process's output as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} clients read this process's output already")]
pub struct TooManyReaders {
    /// How many may.
    pub limit: usize,
}

impl OutputReader {
    /// Reads those streams for which there is an offset, from there.
    pub fn new(
        process: Arc<Process>,
        at: [Option<u64>; 2],
        limit: usize,
    ) -> Result<Self, TooManyReaders> {
        let news = process.news();
        let id = process.add_reader(at, limit).ok_or(TooManyReaders { limit })?;
        Ok(Self { process, id, at, news, turn: 0 })
    }

    /// Where each stream goes on.
    pub fn position(&self) -> [Option<u64>; 2] {
        self.at
    }

    /// The process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The next piece, once there is one. `None` once all streams have ended, and the process too
    /// if there is a reader of both. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            self.news.mark_unchanged();
            let mut ended = true;
            for n in [self.turn, 1 - self.turn] {
                let Some(at) = self.at[n] else { continue };
                let stream = STREAMS[n];
                match self.process.next(self.id, stream, at, PIECE) {
                    Next::Bytes(bytes) => {
                        self.at[n] = Some(at + bytes.len() as u64);
                        self.turn = 1 - index(stream);
                        return Some(Piece::Bytes { stream, offset: at, bytes });
                    }
                    Next::Gap(to) => {
                        self.at[n] = Some(to);
                        return Some(Piece::Gap { stream, from: at, to });
                    }
                    Next::Nothing => ended = false,
                    Next::End => {}
                }
            }
            if ended {
                return None;
            }
            // Its sender lives with the process, which is held here.
            let _ = self.news.changed().await;
        }
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        self.process.remove_reader(self.id);
    }
}
