//! When a session syncs, and what it makes of a sync that is not answered.

use std::io;
use std::time::Duration;

use qga_proto::SyncIds;
use tokio::time::Instant;

use super::{Session, Stage};
use crate::config::Mode;
use crate::vm::link::LinkState;
use crate::vm::signs::Sign;
use crate::vm::sock_diag;

/// When to ask the kernel whether a connection was accepted at all. QEMU does it within a
/// millisecond unless it serves somebody else.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// How often to ask again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The longest and the shortest pause between syncs to a silent agent; a call cuts it short.
/// There is none while the last one lies unread.
const SYNC_PAUSE_MOST: Duration = Duration::from_secs(10);
const SYNC_PAUSE_LEAST: Duration = Duration::from_secs(1);

impl Session<'_> {
    pub(super) fn start_sync(&mut self) -> io::Result<()> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut numbers = random.as_chunks::<8>().0.iter().map(|bytes| u64::from_ne_bytes(*bytes));
        let ids = SyncIds::from_fn(|| numbers.next().unwrap_or_default());
        let now = Instant::now();
        self.client.start_sync(now.into_std(), ids);
        self.vm.counters.syncs.add(1);
        self.synced_last = now;
        if let Stage::Silent { pause, .. } = self.stage
            && !pause.is_zero()
        {
            return Ok(());
        }
        let until = now + self.vm.settings.limits().sync;
        let look = (!self.was_up).then(|| now + LOOK_AFTER);
        self.stage = Stage::Syncing { since: now, until, look };
        Ok(())
    }

    /// Sends a sync behind calls that somebody doubts will be answered.
    pub(super) fn settle_doubt(&mut self) -> io::Result<()> {
        // In any other stage a sync is out already.
        if !self.held
            && self.vm.take_doubt()
            && matches!(self.stage, Stage::Up)
            && self.client.in_flight() > 0
        {
            self.doubting = true;
            self.start_sync()?;
        }
        Ok(())
    }

    pub(super) fn next_sync_step(&self) -> Option<Instant> {
        let step = match self.stage {
            _ if self.held => return None,
            Stage::Up => None,
            Stage::Syncing { until, look, .. } => Some(look.unwrap_or(until).min(until)),
            Stage::Silent { again, .. } => Some(again),
        };
        step.into_iter().chain(self.settle_at).min()
    }

    /// When an idle link is asked whether anybody is there: an agent that dies leaves its port and
    /// the connection as they were. Not under a lease: a guest that is stopped for a snapshot would
    /// count as one that went away, and the thaw will tell.
    pub(super) fn next_keepalive(&self) -> Option<Instant> {
        let asks = matches!(self.stage, Stage::Up)
            && self.vm.mode == Mode::Persistent
            && !self.vm.is_pinned()
            && !self.vm.signs.port_is_told()
            && self.client.in_flight() == 0;
        let pause = asks.then(|| self.vm.settings.limits().keepalive).filter(|p| !p.is_zero())?;
        Some(self.idle_since + pause + pause / 1024 * u32::from(self.jitter))
    }

    /// Draws the conclusions from a sync that has not been answered so far.
    pub(super) fn time_sync(&mut self, now: Instant) -> io::Result<()> {
        if self.is_held(now) {
            return Ok(());
        }
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle_at = None;
            if matches!(self.stage, Stage::Up) {
                self.start_sync()?;
            }
        }
        if self.next_keepalive().is_some_and(|at| at <= now) {
            self.start_sync()?;
        }
        // A call fails at once on a silent link, but it is a reason to look again.
        if let Stage::Silent { again, .. } = &mut self.stage
            && !self.vm.queue().is_empty()
        {
            *again = (*again).min(self.synced_last + SYNC_PAUSE_LEAST);
        }
        match self.stage {
            Stage::Syncing { until, .. } if until <= now => self.silent(now, Duration::ZERO),
            Stage::Syncing { since, until, look: Some(look) } if look <= now => {
                self.stage = Stage::Syncing { since, until, look: None };
                let waits = sock_diag::far_end(&self.stream).is_ok_and(|end| !end.accepted);
                if waits {
                    self.silent(now, Duration::ZERO);
                }
            }
            Stage::Silent { again, pause } if again <= now => {
                self.silent(now, pause);
                let unread = sock_diag::far_end(&self.stream).is_ok_and(|end| end.unread);
                if !unread {
                    self.start_sync()?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the guest is paused: then its silence means nothing. Once it is not, it gets the
    /// time anew that a pause took.
    fn is_held(&mut self, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.held, self.vm.link.is_paused());
        if before && !self.held {
            match &mut self.stage {
                Stage::Up => {}
                Stage::Syncing { since, until, .. } => {
                    (*since, *until) = (now, now + self.vm.settings.limits().sync);
                }
                Stage::Silent { again, .. } => *again = now,
            }
        }
        self.held
    }

    /// Tries a silent agent now.
    pub(super) fn look_again(&mut self, now: Instant) {
        if let Stage::Silent { again, .. } = &mut self.stage {
            *again = now;
        }
    }

    /// Says why there is no answer, and when to try again.
    pub(super) fn silent(&mut self, now: Instant, pause: Duration) {
        let limits = self.vm.settings.limits();
        let (state, reason) = match sock_diag::far_end(&self.stream) {
            Ok(end) if !end.accepted => {
                (LinkState::Busy, "another client holds the socket".to_owned())
            }
            _ if self.vm.signs.port_is_closed() => {
                (LinkState::Silent, Sign::PortClosed.text().to_owned())
            }
            Ok(end) if end.unread => {
                let reason =
                    "connected, but nothing in the guest reads the port: is the agent running?";
                (LinkState::Silent, reason.to_owned())
            }
            Ok(_) => (LinkState::Silent, "connected, but the agent answers no sync".to_owned()),
            Err(e) => {
                let reason = format!(
                    "connected, but no answer (whether another client holds the socket cannot be told: {e})"
                );
                (LinkState::Silent, reason)
            }
        };
        let entering = matches!(self.stage, Stage::Syncing { .. });
        let pause = if state == LinkState::Busy {
            LOOK_AGAIN
        } else {
            (pause * 2).clamp(limits.sync, SYNC_PAUSE_MOST.min(limits.backoff_max).max(limits.sync))
        };
        self.stage = Stage::Silent { again: now + pause, pause };
        self.vm.enter(state, Some(reason));
        if entering {
            self.vm.counters.syncs_failed.add(1);
            // An agent that is busy with what it was told leaves no sign of a reset.
            if !self.doubting {
                self.vm.disrupted("the agent fell silent");
            }
            self.idle_since = now;
            self.fall_silent();
        }
    }
}
