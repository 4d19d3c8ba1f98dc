//! Thawing, again and again, until the guest says that it is thawed.

use std::time::Duration;

use qga_proto::command::{
    Command as _, FsfreezeStatus, GuestFsfreezeThaw, GuestSyncDelimited, frozen_count,
};
use tokio::time::{Instant, sleep_until};

use super::{Guardian, ended_early};
use crate::vm::freeze::{Control, FreezeError, Reply};
use crate::vm::handle::CallError;
use crate::vm::lease::{LeaseState, ThawCause};
use crate::vm::link::LinkState;

/// Pauses between attempts to thaw.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// How an attempt to thaw went, when it went well.
pub(super) struct Thawed {
    pub(super) count: Option<u64>,
    /// What the guest complained of although it thawed.
    pub(super) complaint: Option<String>,
}

impl Guardian {
    /// Thaws what was not frozen through this gateway. `started` is told how it went; no lease
    /// remains if nothing was sent, or the guest refused.
    pub(in crate::vm) async fn run_forced(mut self, started: Reply) {
        match self.attempt(ThawCause::Forced).await {
            Ok(thawed) => self.finish(ThawCause::Forced, thawed, vec![started]),
            Err(error) if error.outcome_unknown() => {
                self.thaw(ThawCause::Forced, vec![started]).await;
            }
            Err(error) => {
                self.table.remove(&self.id);
                let _ = started.send(Err(FreezeError::Call(error)));
            }
        }
    }

    /// Thaws until the guest says that it is thawed.
    pub(super) async fn thaw(&mut self, mut cause: ThawCause, mut waiting: Vec<Reply>) {
        self.table.update(&self.id, |lease| {
            lease.state = LeaseState::Thawing;
            lease.thaw_cause = Some(cause);
        });
        let mut pause = RETRY_FIRST;
        let mut gone_since: Option<Instant> = None;
        let mut error = match self.attempt(cause).await {
            Ok(thawed) => return self.finish(cause, thawed, waiting),
            Err(error) => error,
        };
        loop {
            tracing::warn!(
                vm.id = %self.vm.id(), lease.id = %self.id,
                "{}: {} is not thawed yet: {error}", self.vm.id(), self.id
            );
            for reply in waiting.drain(..) {
                let _ = reply.send(Err(FreezeError::Call(error.clone())));
            }
            let away = matches!(self.vm.link().state, LinkState::Absent | LinkState::Refused);
            if away {
                self.away();
                let since = *gone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.vm.settings().limits.orphan {
                    return self.give_up(cause);
                }
            } else {
                gone_since = None;
                self.table.update(&self.id, |lease| lease.state = LeaseState::Thawing);
            }
            if let Some(sooner) = self.retry_pause(pause, &mut waiting).await {
                cause = sooner;
            }
            pause = (pause * 2).min(RETRY_MOST);
            // What was sent may have worked, and a guest that came back may be another boot.
            match self.attempt_again(cause).await {
                Ok(thawed) => return self.finish(cause, thawed, waiting),
                Err(e) => error = e,
            }
        }
    }

    /// Waits for the next attempt: a pause, somebody who asks, or a link that answers again.
    async fn retry_pause(
        &mut self,
        pause: Duration,
        waiting: &mut Vec<Reply>,
    ) -> Option<ThawCause> {
        let until = Instant::now() + pause;
        let mut link = self.vm.link_changes();
        let answered = link.borrow_and_update().state.answers();
        loop {
            tokio::select! {
                biased;
                Some(control) = self.commands.recv() => match control {
                    Control::Thaw { cause, reply } => {
                        waiting.push(reply);
                        return (cause == ThawCause::Shutdown).then_some(cause);
                    }
                    Control::Renew { reply, .. } => {
                        let lease = self.table.update(&self.id, |_| {});
                        let _ = reply.send(Err(lease.map_or(FreezeError::NotFound, ended_early)));
                    }
                },
                () = sleep_until(until) => return None,
                Ok(()) = link.changed() => {
                    if !answered && link.borrow_and_update().state.answers() {
                        return None;
                    }
                }
            }
        }
    }

    async fn attempt(&mut self, cause: ThawCause) -> Result<Thawed, CallError> {
        let options = self.vm.options(&GuestFsfreezeThaw::INFO);
        let count = match self.vm.call(GuestFsfreezeThaw {}, options).await.map(frozen_count) {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return self.thawed_anyway(CallError::Agent(error)).await,
            Err(error @ (CallError::Agent(_) | CallError::Unsupported)) => {
                return self.thawed_anyway(error).await;
            }
            Err(error) => return Err(error),
        };
        // After a freeze whose reply got lost, a count alone does not show that nothing is left.
        if cause == ThawCause::Rollback {
            let sync = self.vm.options(&GuestSyncDelimited::INFO).timeout;
            self.vm.resync(sync).await?;
            if self.status().await? != FsfreezeStatus::Thawed {
                let reason = "the guest is frozen still, or again".into();
                return Err(CallError::BadReply { reason });
            }
        }
        Ok(Thawed { count: Some(count), complaint: None })
    }

    async fn attempt_again(&mut self, cause: ThawCause) -> Result<Thawed, CallError> {
        if self.status().await? == FsfreezeStatus::Thawed {
            self.facts.found_thawed = self.vm.disruptions() != self.disruptions
                && self.facts.frozen.is_some_and(|count| count > 0);
            return Ok(Thawed { count: None, complaint: None });
        }
        self.attempt(cause).await
    }

    /// The guest complained of the thaw; it may have thawed all the same (a hook failed).
    async fn thawed_anyway(&mut self, error: CallError) -> Result<Thawed, CallError> {
        match self.status().await? {
            FsfreezeStatus::Thawed => {
                let complaint = match &error {
                    CallError::Agent(error) => error.desc.clone(),
                    error => error.to_string(),
                };
                Ok(Thawed { count: None, complaint: Some(complaint) })
            }
            FsfreezeStatus::Frozen | FsfreezeStatus::Error => Err(error),
        }
    }
}
