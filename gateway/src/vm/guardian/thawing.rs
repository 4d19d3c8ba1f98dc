//! Thawing, again and again, until the guest says that it is thawed.
//!
//! A thaw may take minutes, and it may also have been swallowed: by an agent that died, or that
//! lost its place. So a sync goes out behind one that is not answered for a while. An agent that
//! is busy leaves it unanswered too, and is waited for; one that answers it has forgotten the
//! thaw, and is sent another.

use std::time::Duration;

use qga_proto::command::{
    Command as _, FsfreezeStatus, GuestFsfreezeThaw, GuestSyncDelimited, THAWED_AUTOMATICALLY,
    frozen_count,
};
use tokio::time::{Instant, sleep_until};

use super::{Guardian, ended_early};
use crate::vm::freeze::{Control, FreezeError, Reply};
use crate::vm::handle::CallError;
use crate::vm::lease::{LeaseState, ThawCause};
use crate::vm::link::LinkState;

/// Pauses between attempts to thaw; the last for when the gateway is to stop.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);
const RETRY_STOPPING: Duration = Duration::from_secs(1);

/// How an attempt to thaw went, when it went well.
pub(super) struct Thawed {
    pub(super) count: Option<u64>,
    /// What the guest complained of although it thawed.
    pub(super) complaint: Option<String>,
}

/// What a guardian knows of its own thaws.
#[derive(Debug, Default)]
pub(super) struct Thawing {
    /// Who waits for the end.
    pub(super) waiting: Vec<Reply>,
    /// The gateway is to stop.
    stopping: bool,
    /// One has left, so the guest may have been thawed by it.
    sent: bool,
    /// One was not answered, so no count is the whole of it.
    unanswered: bool,
    /// What has been counted so far.
    counted: u64,
    /// The last one was overtaken by the sync behind it.
    overtaken: bool,
}

impl Guardian {
    /// Thaws what was not frozen through this gateway. `started` is told how it went; no lease
    /// remains if nothing was sent, or the guest refused.
    pub(in crate::vm) async fn run_forced(mut self, started: Reply) {
        self.thawing.waiting.push(started);
        match self.attempt(ThawCause::Forced).await {
            Ok(thawed) => self.finish(ThawCause::Forced, thawed),
            Err(error) if error.outcome_unknown() => self.thaw(ThawCause::Forced, vec![]).await,
            Err(error) => {
                self.table.remove(&self.id);
                self.tell(&error);
            }
        }
    }

    /// Thaws until the guest says that it is thawed.
    pub(super) async fn thaw(&mut self, cause: ThawCause, waiting: Vec<Reply>) {
        self.thawing.waiting.extend(waiting);
        self.thawing.stopping |= cause == ThawCause::Shutdown;
        self.table.update(&self.id, |lease| {
            lease.state = LeaseState::Thawing;
            lease.thaw_cause = Some(cause);
        });
        let mut pause = RETRY_FIRST;
        let mut gone_since: Option<Instant> = None;
        let mut error = match self.attempt(cause).await {
            Ok(thawed) => return self.finish(cause, thawed),
            Err(error) => error,
        };
        let mut first = true;
        loop {
            tracing::warn!(
                vm.id = %self.vm.id(), lease.id = %self.id,
                "{}: {} is not thawed yet: {error}", self.vm.id(), self.id
            );
            // The agent is there and has only missed the thaw: nobody needs to be told yet.
            let at_once = std::mem::take(&mut first) && self.thawing.overtaken;
            if !at_once {
                self.tell(&error);
            }
            let away = matches!(self.vm.link().state, LinkState::Absent | LinkState::Refused);
            if away {
                self.away();
                let since = *gone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.vm.settings().limits().orphan {
                    return self.give_up(cause);
                }
            } else {
                gone_since = None;
                self.table.update(&self.id, |lease| lease.state = LeaseState::Thawing);
            }
            if !at_once {
                self.retry_pause(pause).await;
                pause = (pause * 2).min(RETRY_MOST);
            }
            // What was sent may have worked, and a guest that came back may be another boot.
            match self.attempt_again(cause).await {
                Ok(thawed) => return self.finish(cause, thawed),
                Err(e) => error = e,
            }
        }
    }

    fn tell(&mut self, error: &CallError) {
        for reply in self.thawing.waiting.drain(..) {
            let _ = reply.send(Err(FreezeError::Call(error.clone())));
        }
    }

    /// Waits for the next attempt: a pause, somebody who asks, or a link that answers again.
    async fn retry_pause(&mut self, pause: Duration) {
        let pause = if self.thawing.stopping { pause.min(RETRY_STOPPING) } else { pause };
        let until = Instant::now() + pause;
        let mut link = self.vm.link_changes();
        let answered = link.borrow_and_update().state.answers();
        loop {
            tokio::select! {
                biased;
                Some(control) = self.commands.recv() => {
                    if self.is_asked(control) {
                        return;
                    }
                }
                () = sleep_until(until) => return,
                Ok(()) = link.changed() => {
                    if !answered && link.borrow_and_update().state.answers() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes what comes meanwhile. True if it asks for the thaw.
    fn is_asked(&mut self, control: Control) -> bool {
        match control {
            Control::Thaw { cause, reply } => {
                self.thawing.waiting.push(reply);
                self.thawing.stopping |= cause == ThawCause::Shutdown;
                true
            }
            Control::Renew { reply, .. } => {
                let lease = self.table.update(&self.id, |_| {});
                let _ = reply.send(Err(lease.map_or(FreezeError::NotFound, ended_early)));
                false
            }
        }
    }

    async fn attempt(&mut self, cause: ThawCause) -> Result<Thawed, CallError> {
        let count = match self.send_thaw().await.map(frozen_count) {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return self.thawed_anyway(CallError::Agent(error)).await,
            Err(error @ (CallError::Agent(_) | CallError::Unsupported)) => {
                return self.thawed_anyway(error).await;
            }
            Err(error) => return Err(error),
        };
        let counted = self.thawing.counted.saturating_add(count);
        self.thawing.counted = counted;
        // After a freeze whose reply got lost, a count alone does not show that nothing is left;
        // nor does one that is too low.
        let few = self.facts.frozen.is_some_and(|frozen| counted < frozen);
        if cause == ThawCause::Rollback || few {
            let sync = self.vm.options(&GuestSyncDelimited::INFO).timeout;
            self.vm.resync(sync).await?;
            if self.status().await? != FsfreezeStatus::Thawed {
                let reason = "the guest is frozen still, or again".into();
                return Err(CallError::BadReply { reason });
            }
        }
        // The rest may have been thawed by one of ours that was not answered.
        let count = (!few || !self.thawing.unanswered).then_some(counted);
        Ok(Thawed { count, complaint: None })
    }

    /// Sends a thaw, and waits until it is answered or a sync behind it has shown that it never
    /// will be.
    async fn send_thaw(&mut self) -> Result<i64, CallError> {
        let options = self.vm.options(&GuestFsfreezeThaw::INFO);
        let patience = self.vm.settings().limits().sync;
        let vm = self.vm.clone();
        let mut thaw = Box::pin(vm.call(GuestFsfreezeThaw {}, options));
        // Somebody who asks is not kept waiting, but an honest agent gets a moment.
        let soonest = Instant::now() + patience / 5;
        let mut doubt = Instant::now() + patience;
        let mut doubted = false;
        let result = loop {
            tokio::select! {
                biased;
                result = &mut thaw => break result,
                Some(control) = self.commands.recv() => {
                    if self.is_asked(control) {
                        doubt = doubt.min(soonest);
                    }
                }
                () = sleep_until(doubt) => {
                    vm.doubt();
                    doubted = true;
                    doubt = Instant::now() + patience;
                }
            }
        };
        let unanswered = result.as_ref().is_err_and(CallError::outcome_unknown);
        self.thawing.unanswered |= unanswered;
        self.thawing.sent |= unanswered || matches!(result, Ok(_) | Err(CallError::Agent(_)));
        self.thawing.overtaken = doubted && matches!(result, Err(CallError::Interrupted { .. }));
        result
    }

    async fn attempt_again(&mut self, cause: ThawCause) -> Result<Thawed, CallError> {
        if self.status().await? == FsfreezeStatus::Thawed {
            // Not if a thaw of ours has left: it may have done it, its answer lost.
            self.facts.found_thawed = !self.thawing.sent
                && self.vm.disruptions() != self.disruptions
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
                // Its own deadline may be shorter than the lease.
                self.facts.found_thawed |= complaint.starts_with(THAWED_AUTOMATICALLY);
                Ok(Thawed { count: None, complaint: Some(complaint) })
            }
            FsfreezeStatus::Frozen | FsfreezeStatus::Error => Err(error),
        }
    }
}
