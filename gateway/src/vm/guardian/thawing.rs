//! Thawing, again and again, until the guest says that it is thawed.
//!
//! A thaw may take minutes, and it may also have been swallowed: by an agent that died, or that
//! lost its place. So a sync goes out behind one that is not answered for a while. An agent that
//! is busy leaves it unanswered too, and is waited for; one that answers it has forgotten the
//! thaw, and is sent another.

use std::time::Duration;

use qga_proto::command::{
    Command as _, FsfreezeStatus, GuestFsfreezeThaw, GuestSyncDelimited, LeasedThaw,
    THAWED_AUTOMATICALLY, XFsfreezeThaw, frozen_count,
};
use tokio::time::{Instant, sleep_until};

use super::looking::Seen;
use super::{Guardian, Order, Orders, Told};
use crate::printable::printable;
use crate::vm::call::{CallError, CallOptions};
use crate::vm::events::{Event, EventKind};
use crate::vm::lease::{AgentFreeze, LeaseState, ThawCause};
use crate::vm::link::LinkState;
use crate::vm::verdict;

/// Pauses between attempts to thaw; the last for when the gateway is to stop.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);
const RETRY_STOPPING: Duration = Duration::from_secs(1);

/// How an attempt to thaw went, when it went well.
enum Done {
    /// The guest is thawed. It may have complained all the same.
    Thawed { count: Option<u64>, complaint: Option<String> },
    /// The freeze is not there any more, but something else is.
    NotOurs(String),
}

/// What a thaw said.
enum Answer {
    Count(u64),
    Leased(LeasedThaw),
}

/// What a guardian knows of its own thaws.
#[derive(Debug, Default)]
pub(super) struct Thawing {
    /// Who waits for the end.
    waiting: Vec<Told>,
    /// The gateway is to stop.
    stopping: bool,
    /// One has left, so the guest may have been thawed by it.
    pub(super) sent: bool,
    /// One was not answered, so no count is the whole of it.
    unanswered: bool,
    /// What has been counted so far.
    counted: u64,
    /// That it fails was told.
    failing: bool,
    /// The last one was overtaken by the sync behind it.
    overtaken: bool,
}

impl Guardian {
    /// Thaws until the guest says that it is thawed, or the VM is given up.
    pub(super) async fn thaw(&mut self, cause: ThawCause, told: Option<Told>, orders: &mut Orders) {
        self.thawing.waiting.extend(told);
        self.thawing.stopping |= cause == ThawCause::Shutdown;
        self.change(|member| {
            member.state = LeaseState::Thawing;
            member.thaw_cause = Some(cause);
        });
        let mut pause = RETRY_FIRST;
        let mut gone_since: Option<Instant> = None;
        // A link that was away may have another VM at its end now. Behind a freeze that is not
        // answered on a link that is as it was, the thaw goes at once.
        let unsure = self.seen != Some(self.vm.disruptions());
        let first = if unsure {
            self.attempt_again(cause, orders).await
        } else {
            self.attempt(cause, orders).await
        };
        let mut error = match first {
            Ok(done) => return self.finish(cause, done),
            Err(error) => error,
        };
        let mut first = true;
        loop {
            tracing::warn!(
                vm.id = %self.vm.id(), lease.id = %self.lease,
                "{}: {} is not thawed yet: {error}", self.vm.id(), self.lease
            );
            // The agent is there and has only missed the thaw: nobody needs to be told yet.
            let at_once = std::mem::take(&mut first) && self.thawing.overtaken;
            if !at_once {
                self.tell_failing(&error);
                self.tell(&error);
                if cause == ThawCause::Forced && !error.outcome_unknown() && !self.thawing.sent {
                    // Its keeper takes it away.
                    return;
                }
            }
            let away = matches!(self.vm.link().state, LinkState::Absent | LinkState::Refused);
            if away {
                self.away();
                let since = *gone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.vm.settings().limits().orphan {
                    self.lose(cause, None);
                    self.tell(&error);
                    return;
                }
            } else {
                gone_since = None;
                self.change(|member| member.state = LeaseState::Thawing);
            }
            if !at_once {
                self.retry_pause(pause, orders).await;
                pause = (pause * 2).min(RETRY_MOST);
            }
            // What was sent may have worked, and a guest that came back may be another boot.
            match self.attempt_again(cause, orders).await {
                Ok(done) => return self.finish(cause, done),
                Err(e) => error = e,
            }
        }
    }

    fn finish(&mut self, cause: ThawCause, done: Done) {
        match done {
            Done::Thawed { count, complaint } => {
                self.facts.thawed = count;
                self.end(cause, complaint);
            }
            Done::NotOurs(why) => self.lose(ThawCause::External, Some(why)),
        }
        for told in self.thawing.waiting.drain(..) {
            let _ = told.send(Ok(()));
        }
    }

    /// An event for the first of many.
    fn tell_failing(&mut self, error: &CallError) {
        if !std::mem::replace(&mut self.thawing.failing, true) {
            let event = Event::new(EventKind::FreezeThawFailing).vm(self.vm.id());
            let reason = printable(&error.to_string());
            self.table.tell(event.lease(&self.lease).with("reason", reason));
        }
    }

    fn tell(&mut self, error: &CallError) {
        for told in self.thawing.waiting.drain(..) {
            let _ = told.send(Err(error.clone()));
        }
    }

    /// Waits for the next attempt: a pause, somebody who asks, or a link that answers again.
    async fn retry_pause(&mut self, pause: Duration, orders: &mut Orders) {
        let pause = if self.thawing.stopping { pause.min(RETRY_STOPPING) } else { pause };
        let until = Instant::now() + pause;
        let mut link = self.vm.link_changes();
        let answered = link.borrow_and_update().state.answers();
        loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => {
                    if self.is_asked(order) {
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
    fn is_asked(&mut self, order: Order) -> bool {
        match order {
            Order::Thaw { cause, told } => {
                self.thawing.waiting.push(told);
                self.thawing.stopping |= cause == ThawCause::Shutdown;
                true
            }
            Order::Renew { .. } | Order::Freeze { .. } => false,
        }
    }

    async fn attempt(&mut self, cause: ThawCause, orders: &mut Orders) -> Result<Done, CallError> {
        let leased = self.leased() && cause != ThawCause::Forced;
        // The name of a lease is proof enough; a plain thaw would end anybody's freeze.
        if !leased
            && cause != ThawCause::Forced
            && let Some(why) = self.other_process()
        {
            return Ok(Done::NotOurs(format!("{why}: its freeze, if any, is not this lease's")));
        }
        let answer = match self.send_thaw(leased, cause, orders).await {
            Ok(answer) => answer,
            Err(CallError::Unsupported) if leased => {
                // Another agent has the guest now, and the marker that ours has left.
                self.facts.leased = false;
                self.facts.began = None;
                return Err(CallError::Unsupported);
            }
            Err(error @ (CallError::Agent(_) | CallError::Unsupported)) => {
                return self.thawed_anyway(error).await;
            }
            Err(error) => return Err(error),
        };
        let count = match answer {
            Answer::Count(count) => count,
            Answer::Leased(thaw) => {
                let count = thaw.count;
                let by = AgentFreeze::new(thaw.boot_id, thaw.agent_instance, thaw.generation);
                self.facts.ended = Some(verdict::Thawed::new(count, by, thaw.filesystems));
                count
            }
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
        Ok(Done::Thawed { count, complaint: None })
    }

    /// Sends a thaw, and waits until it is answered or a sync behind it has shown that it never
    /// will be.
    async fn send_thaw(
        &mut self,
        leased: bool,
        cause: ThawCause,
        orders: &mut Orders,
    ) -> Result<Answer, CallError> {
        // What is forced is meant for whatever is there.
        let unless_disrupted = self.seen.filter(|_| cause != ThawCause::Forced);
        let options = self.vm.options(&GuestFsfreezeThaw::INFO);
        let options = CallOptions { unless_disrupted, ..options };
        let patience = self.vm.settings().limits().sync;
        let vm = self.vm.clone();
        let lease = self.lease.as_str().to_owned();
        let mut thaw = Box::pin(call_thaw(&vm, leased.then_some(lease), options));
        // Somebody who asks is not kept waiting, but an honest agent gets a moment.
        let soonest = Instant::now() + patience / 5;
        let mut doubt = Instant::now() + patience;
        let mut doubted = false;
        let result = loop {
            tokio::select! {
                biased;
                result = &mut thaw => break result,
                Some(order) = orders.recv() => {
                    if self.is_asked(order) {
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

    /// Looks first: what was sent may have worked, and what is there may be something else.
    async fn attempt_again(
        &mut self,
        cause: ThawCause,
        orders: &mut Orders,
    ) -> Result<Done, CallError> {
        let disruptions = self.vm.disruptions();
        match self.look().await? {
            Seen::Ours => {
                self.seen = Some(disruptions);
                self.attempt(cause, orders).await
            }
            seen => self.found(seen, None),
        }
    }

    /// The guest is thawed, or in another freeze.
    fn found(&mut self, seen: Seen, complaint: Option<String>) -> Result<Done, CallError> {
        match seen {
            // Who asks takes care of this one.
            Seen::Ours => return Err(CallError::BadReply { reason: "frozen still".into() }),
            Seen::NotOurs(why) => return Ok(Done::NotOurs(why)),
            // Not if a thaw of ours has left: it may have done it, its answer lost.
            Seen::Thawed => {
                self.facts.found_thawed |= !self.thawing.sent
                    && self.vm.disruptions() != self.disruptions
                    && self.facts.frozen.is_some_and(|count| count > 0);
            }
            Seen::ByUs(thawed) => {
                self.facts.ended = Some(thawed);
            }
            Seen::ByOthers(why) => {
                self.facts.found_thawed = true;
                self.change(|member| member.note(why));
            }
        }
        let count = self.facts.ended.as_ref().map(|ended| ended.count);
        Ok(Done::Thawed { count, complaint })
    }

    /// The guest complained of the thaw; it may have thawed all the same (a hook failed).
    async fn thawed_anyway(&mut self, error: CallError) -> Result<Done, CallError> {
        let complaint = match &error {
            CallError::Agent(error) => error.desc.clone(),
            error => error.to_string(),
        };
        match self.look().await? {
            Seen::Ours => Err(error),
            seen => {
                // Its own deadline may be shorter than the lease.
                self.facts.found_thawed |= complaint.starts_with(THAWED_AUTOMATICALLY);
                self.found(seen, Some(complaint))
            }
        }
    }
}

async fn call_thaw(
    vm: &crate::vm::VmHandle,
    lease: Option<String>,
    options: CallOptions,
) -> Result<Answer, CallError> {
    match lease {
        Some(lease) => vm.call(XFsfreezeThaw { lease }, options).await.map(Answer::Leased),
        None => {
            let count = vm.call(GuestFsfreezeThaw {}, options).await?;
            frozen_count(count).map(Answer::Count).map_err(CallError::Agent)
        }
    }
}
