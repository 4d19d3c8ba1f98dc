//! The sync: finding one's place in a stream that others may have used before.
//!
//! Three parts leave in one write: a 0xFF, which flushes what a predecessor may have left
//! half-sent; `guest-sync-delimited`; and a `guest-sync` with an `id` member, whose answer tells
//! whether the agent echoes ids. An agent without the delimited form (before QEMU 1.1) answers
//! with `CommandNotFound`; then a plain `guest-sync` follows.
//!
//! ```text
//!   Waiting ── 0xFF and our number ──▶ Probing ── any answer to the probe ──▶ synced
//!      │ ▲                                ▲
//!      │ └──── anything else: dropped     │ 0xFF and our number: it was somebody else's error
//!      └── CommandNotFound ──▶ Plain ─────┘
//!                                └── our number ──▶ synced, without delimiter and ids
//! ```

use crate::command::{Command, GuestSync, GuestSyncDelimited};
use crate::reply::Reply;

/// Random numbers for one sync. Their use is up when it was started.
#[derive(Clone, Copy, Debug)]
pub struct SyncIds {
    /// For the delimited sync.
    pub delimited: u64,
    /// For the probe whether ids are echoed.
    pub probe: u64,
    /// For the plain sync that old agents get.
    pub plain: u64,
    /// Starts the `id` members of commands.
    pub session: u64,
}

impl SyncIds {
    /// From any source of random 64-bit numbers.
    pub fn from_fn(mut random: impl FnMut() -> u64) -> Self {
        Self { delimited: random(), probe: random(), plain: random(), session: random() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Probing,
    Plain,
}

/// What an answer means for the sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Part of it; more must come.
    Wait,
    /// The plain sync has to be sent.
    SendPlain,
    /// It is complete.
    Synced { echoes_id: bool, delimited: bool },
    /// Nothing to do with it.
    NotMine,
}

/// One attempt at a sync.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handshake {
    ids: SyncIds,
    progress: Progress,
}

impl Handshake {
    pub(super) fn new(ids: SyncIds) -> Self {
        Self { ids, progress: Progress::Waiting }
    }

    pub(super) fn session(&self) -> u64 {
        self.ids.session
    }

    /// The number of the plain sync.
    pub(super) fn plain(&self) -> i64 {
        echoable(self.ids.plain)
    }

    pub(super) fn write_opening(&self, output: &mut Vec<u8>) {
        output.push(0xFF);
        let delimited = echoable(self.ids.delimited);
        write_sync(output, GuestSyncDelimited::INFO.name, delimited, "");
        let id = format!(",\"id\":{}", self.probe_id());
        write_sync(output, GuestSync::INFO.name, echoable(self.ids.probe), &id);
    }

    pub(super) fn write_plain(&self, output: &mut Vec<u8>) {
        write_sync(output, GuestSync::INFO.name, self.plain(), "");
    }

    pub(super) fn receive(&mut self, reply: &Reply, delimited: bool) -> Step {
        if delimited {
            if !reply.is_integer(echoable(self.ids.delimited)) {
                return Step::NotMine;
            }
            self.progress = Progress::Probing;
            return Step::Wait;
        }
        match self.progress {
            Progress::Probing => {
                let answers = reply.is_integer(echoable(self.ids.probe));
                if answers || reply.is_error() {
                    let echoes_id = answers && reply.id() == Some(&self.probe_id());
                    return Step::Synced { echoes_id, delimited: true };
                }
                Step::NotMine
            }
            Progress::Plain if reply.is_integer(self.plain()) => {
                Step::Synced { echoes_id: false, delimited: false }
            }
            Progress::Waiting if reply.is_not_found() => {
                self.progress = Progress::Plain;
                Step::SendPlain
            }
            Progress::Waiting | Progress::Plain => Step::NotMine,
        }
    }

    /// The probe's `id` as JSON text.
    fn probe_id(&self) -> String {
        format!("\"{:016x}\"", self.ids.session)
    }
}

pub(super) fn write_sync(output: &mut Vec<u8>, name: &str, number: i64, id: &str) {
    let text = format!("{{\"execute\":\"{name}\",\"arguments\":{{\"id\":{number}}}{id}}}\n");
    output.extend_from_slice(text.as_bytes());
}

/// A number as every agent can echo it: 63 bits.
pub(super) fn echoable(random: u64) -> i64 {
    i64::try_from(random >> 1).unwrap_or(0)
}
