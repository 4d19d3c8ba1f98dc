//! Clients that wait for news of programs.
//!
//! A channel has at most one that is still wanted: whatever arrives behind a wait ends it, so a new
//! one means that nobody listens to the old one any more.

use std::time::{Duration, Instant};

use qga_proto::command::{Known, XExecNews};
use qga_proto::{Outcome, QgaError};

use crate::worker::Reply;

/// Beyond, the oldest is answered. A few channels are configured at most.
const MAX: usize = 16;

/// They wait.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Oldest first.
    waiting: Vec<Waiting>,
    /// Something has changed since they were looked at.
    changed: bool,
}

#[derive(Debug)]
struct Waiting {
    known: Vec<Known>,
    until: Instant,
    reply: Reply,
}

impl Waits {
    pub(super) fn add(&mut self, known: Vec<Known>, wait: Duration, reply: Reply) {
        let full = self.waiting.len() >= MAX;
        let superseded = self.waiting.iter().position(|old| old.reply.is_for_same(&reply));
        if let Some(at) = superseded.or_else(|| full.then_some(0)) {
            self.waiting.remove(at).answer(Ok(XExecNews::default()));
        }
        self.waiting.push(Waiting { known, until: Instant::now() + wait, reply });
        self.changed = true;
    }

    /// Programs have news, perhaps.
    pub(super) fn look(&mut self) {
        self.changed = true;
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Answers those for whom `news` has some, and those whose time is over.
    pub(super) fn answer(&mut self, mut news: impl FnMut(&[Known]) -> XExecNews) {
        if self.waiting.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            let found = if changed { news(&waiting.known) } else { XExecNews::default() };
            if found.ready.is_empty() && now < waiting.until {
                self.waiting.push(waiting);
            } else {
                waiting.answer(Ok(found));
            }
        }
    }
}

impl Waiting {
    fn answer(self, news: Result<XExecNews, QgaError>) {
        self.reply.send(Outcome::from(news));
    }
}
