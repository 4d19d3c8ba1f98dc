//! A command that was sent, and how its reply will be known.
//!
//! An agent that echoes ids is easy to follow. With any other (before QEMU 4.0 or so) a reply is
//! known by its place alone, and a single repeated line would shift all that follow. So each
//! command to such an agent has a sync of its own in front, in the same write: its reply is the
//! line behind that sync's answer, and whatever comes before is dropped.

use std::time::Instant;

use super::CallId;
use super::handshake::{echoable, write_sync};
use crate::command::{Command, GuestSync, GuestSyncDelimited};
use crate::reply::Reply;

/// The sync in front of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    number: i64,
    delimited: bool,
}

impl Fence {
    /// The numbers of a session differ from each other, and from those of other sessions.
    pub(super) fn new(session: u64, call: u64, delimited: bool) -> Self {
        // An odd factor: no two calls of a session meet before 2^63 of them.
        let spread = (call + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 << 1 | 1);
        Self { number: echoable(session.wrapping_add(spread)), delimited }
    }

    pub(super) fn write(self, output: &mut Vec<u8>) {
        let name =
            if self.delimited { GuestSyncDelimited::INFO.name } else { GuestSync::INFO.name };
        write_sync(output, name, self.number, "");
    }

    fn is_answered_by(self, reply: &Reply, delimited: bool) -> bool {
        self.delimited == delimited && reply.is_integer(self.number)
    }
}

/// A command that was sent.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) call: CallId,
    /// What its reply echoes.
    pub(super) id: Option<String>,
    /// What its reply comes behind; none once that was seen.
    pub(super) fence: Option<Fence>,
    pub(super) pipelined: bool,
    /// What is sent behind it ends it.
    pub(super) yields: bool,
    pub(super) deadline: Instant,
    pub(super) cap: usize,
    /// Sent behind the sync that is out: its answer does not mean that this one is lost.
    pub(super) behind_sync: bool,
}

impl InFlight {
    /// Whether this is the answer to the sync in front of it.
    pub(super) fn is_next_after(&self, reply: &Reply, delimited: bool) -> bool {
        self.fence.is_some_and(|fence| fence.is_answered_by(reply, delimited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_session_differ() {
        let mut numbers: Vec<i64> =
            (0..10_000).map(|call| Fence::new(7, call, true).number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10_000);
        assert!(numbers.iter().all(|&number| number >= 0));
    }
}
