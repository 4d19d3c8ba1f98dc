//! Programs of `x-guest-exec-…`: known by a handle, read while they run, ended with their session.
//!
//! ```text
//!            started          its process ends, its output is closed        forgotten, or unasked
//!   starting ───────▶ running ───────────────────────────────────▶ finished ──────────▶ ending ─▶ gone
//!       │ failed         │ timeout: its session is killed                                  ▲
//!       ▼                └── forgotten: its session is killed ─────────────────────────────┘
//!      gone
//! ```
//!
//! * **Output** goes into a ring per stream. With `drop` the oldest gives way; with `wait` the pipe
//!   is not read while the ring is full, and is taken out of the epoll meanwhile.
//! * **A number that may be somebody else's is never signalled.** The program's own process stays a
//!   zombie as long as anything else of its session is left; that keeps the number. It is looked
//!   for again after ever longer pauses. Once nothing is left, nothing can come to be, the zombie
//!   goes, and no signal is sent any more.
//! * **A terminal that nobody attends is hung up.** Whoever looks after one asks about it all the time;
//!   when the gateway has died, nobody would ever end a shell that waits for its next line.
//! * **When the agent ends**, so do they: by [`Programs::end_all`], or after a SIGKILL by the next
//!   agent, from the [`roster`].
//!
//! Starting is in [`order`], the work of the exec thread in [`serve`], the commands in [`commands`].
//!
//! [`Programs::end_all`]: crate::exec::Programs::end_all

mod commands;
mod input;
mod order;
mod record;
mod ring;
mod roster;
mod serve;
mod source;
mod terminal;
mod waits;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use qga_proto::QgaError;
use rustix::io::Errno;

use self::roster::Roster;
use self::waits::Waits;
use crate::errno;
use crate::freeze::Identity;

pub(super) use self::order::Fresh;
pub(crate) use self::order::Order;
pub(super) use self::record::{Live, of_token};

/// Bytes of one stream that are kept for reading.
const RING: usize = 256 << 10;
/// So much of each stream is kept even if all others hold more than may be held.
const FLOOR: usize = 4 << 10;
/// How long a finished program is kept that nobody asks about.
const KEPT: Duration = Duration::from_secs(3600);
/// How long a program with a terminal runs that nobody asks about.
const UNATTENDED: Duration = Duration::from_secs(3600);
/// Between SIGHUP and SIGKILL when nobody attends it.
const HANG_UP: Duration = Duration::from_secs(5);
/// Between SIGHUP and SIGKILL when the agent ends.
const GRACE: Duration = Duration::from_secs(1);

/// Those programs. It belongs to the exec thread.
#[derive(Debug)]
pub(super) struct Lives {
    instance: String,
    pub(super) records: BTreeMap<u32, Live>,
    next: u32,
    waits: Waits,
    roster: Roster,
    /// Who waits for the end of all of them.
    ending: Option<SyncSender<()>>,
}

impl Lives {
    pub(super) fn new(identity: &Identity, state_dir: &Path) -> Self {
        // From a place of each agent's own: a handle of another one should mean nothing here.
        let random = identity.instance.get(..5).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        Self {
            instance: identity.instance.clone(),
            records: BTreeMap::new(),
            next: random.unwrap_or(0) << 10 | 1,
            waits: Waits::default(),
            roster: Roster::new(state_dir, &identity.boot_id),
            ending: None,
        }
    }

    /// Before anything else is done.
    pub(super) fn end_predecessors(&self) {
        self.roster.end_predecessors();
    }

    /// A start has failed.
    pub(super) fn give_back(&mut self, place: u16) {
        self.roster.give_back(place);
    }

    /// When there is something to do although nothing happens.
    pub(super) fn next_event(&self) -> Option<Instant> {
        let of_programs = self.records.values().flat_map(|live| {
            let kept = (live.is_known() && live.is_finished()).then(|| live.touched + KEPT);
            [live.deadline, live.look.map(|(at, _)| at), kept, live.hangs_up()]
        });
        of_programs.flatten().chain(self.waits.next_end()).min()
    }
}

/// The error of an extension: it names its number.
fn named(text: impl Into<String>, errno: Errno) -> QgaError {
    QgaError::generic(text).with_errno(errno::name(errno))
}

#[cfg(test)]
mod tests;
