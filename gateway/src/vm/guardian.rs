//! The task behind one freeze lease: it freezes, holds, and thaws until the guest says thawed.
//!
//! ```text
//!   freeze --- frozen ---------> hold ---- DELETE, deadline, stop ---> thaw ---> end
//!      |                          | ^                                   | ^
//!      | not sent, refused:       | | link back:                        | | failed: pause, or
//!      | no lease remains         | | still frozen                      | | until the link is back
//!      |                          v |                                   v |
//!      |                        away ---- link back, thawed: end      (again)
//!      +--- reply lost, too few frozen ------------------------------> thaw (rollback)
//! ```
//!
//! The freeze of the guest belongs to the lease, so no failure here gives the lease up while the
//! guest may be frozen; only a VM that stays away does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qga_proto::command::{
    Command as _, FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeFreezeList,
    GuestFsfreezeStatus, GuestFsfreezeThaw, GuestSyncDelimited, frozen_count,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::boottime::BootTime;
use super::freeze::{Control, FreezeError, FreezeRequest, Reply, Table, torn_down};
use super::handle::{CallError, CallOptions, Pin, VmHandle};
use super::lease::{Lease, LeaseId, LeaseState, Policy, ThawCause, Verdict};
use super::link::LinkState;
use super::verdict::Facts;

/// VSS thaws by itself after this time, whatever anybody wants.
pub(super) const VSS_HOLDS: Duration = Duration::from_secs(10);

/// Pauses between attempts to thaw.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);

pub(super) struct Guardian {
    table: Arc<Table>,
    vm: VmHandle,
    id: LeaseId,
    request: FreezeRequest,
    commands: mpsc::Receiver<Control>,
    ttl: Duration,
    facts: Facts,
    frozen_at: Option<BootTime>,
    disruptions: u64,
    _pin: Pin,
}

/// How an attempt to thaw went, when it went well.
struct Thawed {
    count: Option<u64>,
    /// What the guest complained of although it thawed.
    complaint: Option<String>,
}

impl Guardian {
    pub(super) fn new(
        table: Arc<Table>,
        vm: VmHandle,
        id: LeaseId,
        request: FreezeRequest,
        commands: mpsc::Receiver<Control>,
    ) -> Self {
        Self {
            table,
            ttl: request.ttl,
            request,
            commands,
            id,
            facts: Facts::default(),
            frozen_at: None,
            disruptions: vm.disruptions(),
            _pin: vm.pin(),
            vm,
        }
    }

    /// Sees the lease through. `started` is told how the freeze went.
    pub(super) async fn run(mut self, started: Reply) {
        match self.freeze().await {
            Froze::Yes(lease) => {
                let _ = started.send(Ok(lease));
                let (cause, waiting) = self.hold().await;
                if let Some(cause) = cause {
                    self.thaw(cause, waiting).await;
                }
            }
            Froze::No(error) => {
                self.table.remove(&self.id);
                let _ = started.send(Err(error));
            }
            Froze::Undo(error, waiting) => {
                let now = matches!(error, FreezeError::OutcomeUnknown { .. });
                let mut started = Some((started, error));
                if now && let Some((started, error)) = started.take() {
                    let _ = started.send(Err(error));
                }
                self.thaw(ThawCause::Rollback, waiting).await;
                if let Some((started, error)) = started {
                    let _ = started.send(Err(error));
                }
            }
            Froze::Stopped(cause, waiting) => {
                self.thaw(cause, waiting).await;
                let ended = self.table.update(&self.id, |_| {});
                let _ = started.send(Err(ended.map_or(FreezeError::NotFound, ended_early)));
            }
        }
    }

    async fn freeze(&mut self) -> Froze {
        // A sync first: a freeze must not run into what a thaw before it left on the wire.
        let sync = self.vm.options(&GuestSyncDelimited::INFO).timeout;
        if let Err(error) = self.vm.resync(sync).await {
            return Froze::No(FreezeError::Call(not_sent(error)));
        }
        match self.status().await {
            Ok(FsfreezeStatus::Thawed) => {}
            Ok(FsfreezeStatus::Frozen | FsfreezeStatus::Error) => {
                return Froze::No(FreezeError::AlreadyFrozen { lease: None });
            }
            Err(error) => return Froze::No(FreezeError::Call(not_sent(error))),
        }
        self.disruptions = self.vm.disruptions();

        let vm = self.vm.clone();
        let mountpoints = self.request.mountpoints.clone();
        let options = self.vm.options(&GuestFsfreezeFreeze::INFO);
        let options = CallOptions { timeout: self.request.freeze_timeout, ..options };
        let mut freezing = Box::pin(async move {
            match mountpoints {
                None => vm.call(GuestFsfreezeFreeze {}, options).await,
                some => vm.call(GuestFsfreezeFreezeList { mountpoints: some }, options).await,
            }
        });
        loop {
            tokio::select! {
                result = &mut freezing => return self.froze(result).await,
                Some(control) = self.commands.recv() => match control {
                    Control::Renew { ttl, reply } => {
                        self.ttl = ttl;
                        let _ = reply.send(self.renewed());
                    }
                    // The thaw goes out behind the freeze, whose reply nobody needs any more.
                    Control::Thaw { cause, reply } => return Froze::Stopped(cause, vec![reply]),
                },
            }
        }
    }

    async fn froze(&mut self, result: Result<i64, CallError>) -> Froze {
        let count = match result.map(frozen_count) {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return self.refused(CallError::Agent(error)).await,
            Err(error) if error.outcome_unknown() => {
                let lease = self.id.clone();
                return Froze::Undo(FreezeError::OutcomeUnknown { lease, source: error }, vec![]);
            }
            Err(error @ CallError::Agent(_)) => return self.refused(error).await,
            Err(error) => return Froze::No(FreezeError::Call(error)),
        };
        let named = self.request.mountpoints.as_ref().map(|named| {
            let mut named: Vec<&str> = named.iter().map(String::as_str).collect();
            named.sort_unstable();
            named.dedup();
            named
        });
        let wanted = named.as_ref().map_or(0, |named| named.len() as u64);
        let required = self.request.policy == Policy::Required;
        if count == 0 && required {
            return match self.status().await {
                Ok(FsfreezeStatus::Thawed) => Froze::No(FreezeError::NothingToFreeze),
                _ => Froze::Undo(FreezeError::NothingToFreeze, vec![]),
            };
        }
        if count < wanted && required {
            self.facts.frozen = Some(count);
            return Froze::Undo(FreezeError::Incomplete { wanted, frozen: count }, vec![]);
        }
        self.facts.frozen = Some(count);
        self.facts.incomplete = count < wanted || count == 0;
        self.facts.max_hold =
            self.vm.capabilities().is_some_and(|agent| agent.windows()).then_some(VSS_HOLDS);
        self.frozen_at = Some(BootTime::now());
        let skipped: Vec<String> = match named {
            // Which ones were left out, a stock agent does not say; of none, all were.
            Some(named) if count == 0 => named.into_iter().map(Into::into).collect(),
            _ => Vec::new(),
        };
        let now = SystemTime::now();
        let ttl = self.ttl;
        let lease = self.table.update(&self.id, |lease| {
            lease.state = LeaseState::Frozen;
            lease.filesystems = Some(count);
            if count < wanted {
                lease.evidence.push(format!("{count} of {wanted} named mount points were frozen"));
            }
            lease.skipped = skipped;
            lease.frozen_at = Some(now);
            lease.expires_at = Some(now + ttl);
        });
        lease.map_or(Froze::No(FreezeError::NotFound), Froze::Yes)
    }

    /// The guest answered the freeze with an error. qemu-ga thaws what it froze until then; make
    /// sure of it, unless the error says that somebody else was faster.
    async fn refused(&mut self, error: CallError) -> Froze {
        let disabled = matches!(&error, CallError::Agent(error) if error.is_disabled());
        match self.status().await {
            Ok(FsfreezeStatus::Thawed) => Froze::No(FreezeError::Call(error)),
            Ok(_) if disabled => Froze::No(FreezeError::AlreadyFrozen { lease: None }),
            _ => Froze::Undo(FreezeError::Call(error), vec![]),
        }
    }

    /// Holds the freeze. Gives the cause to thaw for, or none if the lease has ended by itself.
    async fn hold(&mut self) -> (Option<ThawCause>, Vec<Reply>) {
        let mut link = self.vm.link_changes();
        link.mark_unchanged();
        let mut seen = self.vm.disruptions();
        loop {
            let deadline = self.frozen_at.unwrap_or_else(BootTime::now) + self.ttl;
            tokio::select! {
                biased;
                Some(control) = self.commands.recv() => match control {
                    Control::Thaw { cause, reply } => return (Some(cause), vec![reply]),
                    Control::Renew { ttl, reply } => {
                        // From now on: the sum keeps `frozen_at + ttl` the deadline.
                        let held = self.frozen_at.map_or(Duration::ZERO, |at| BootTime::now() - at);
                        self.ttl = held + ttl;
                        let expires = SystemTime::now() + ttl;
                        let lease = self.table.update(&self.id, |lease| {
                            lease.ttl = ttl;
                            lease.expires_at = Some(expires);
                        });
                        let _ = reply.send(lease.ok_or(FreezeError::NotFound));
                    }
                },
                () = deadline.reached() => return (Some(ThawCause::Expired), vec![]),
                Ok(()) = link.changed() => {
                    let state = link.borrow_and_update().state;
                    match state {
                        LinkState::Absent | LinkState::Refused => self.away(),
                        // The link was away, and is back: so may be another boot of the guest.
                        LinkState::Ready | LinkState::Frozen if self.vm.disruptions() != seen => {
                            seen = self.vm.disruptions();
                            if self.is_back().await {
                                return (None, vec![]);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn away(&self) {
        self.table.update(&self.id, |lease| {
            if lease.state != LeaseState::Orphaned {
                lease.state = LeaseState::Orphaned;
                lease.evidence.push(format!("the VM's socket went away: {}", self.vm.link()));
            }
        });
    }

    /// Asks a guest that is back. True if it is thawed: then the lease has ended.
    async fn is_back(&mut self) -> bool {
        let Ok(status) = self.status().await else { return false };
        let thawed = status == FsfreezeStatus::Thawed;
        if thawed {
            self.facts.found_thawed = true;
            self.end(ThawCause::External, None);
        } else {
            self.table.update(&self.id, |lease| {
                lease.state = LeaseState::Frozen;
                lease.evidence.push("the link broke, and the guest is frozen as before".into());
            });
        }
        thawed
    }

    /// Thaws until the guest says that it is thawed.
    async fn thaw(&mut self, mut cause: ThawCause, mut waiting: Vec<Reply>) {
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

    fn finish(&mut self, cause: ThawCause, thawed: Thawed, waiting: Vec<Reply>) {
        self.facts.thawed = thawed.count;
        let cause = if self.facts.found_thawed { ThawCause::External } else { cause };
        let lease = self.end(cause, thawed.complaint);
        for reply in waiting {
            let _ = reply.send(lease.clone().ok_or_else(torn_down));
        }
        // Whoever asks from now on reads the table; whoever asked just before is answered here.
        self.commands.close();
        while let Ok(control) = self.commands.try_recv() {
            let (Control::Thaw { reply, .. } | Control::Renew { reply, .. }) = control;
            let _ = reply.send(lease.clone().ok_or_else(torn_down));
        }
    }

    fn give_up(&mut self, cause: ThawCause) {
        self.facts.gone = true;
        let mut evidence = Vec::new();
        let verdict = self.facts.judge(&mut evidence);
        self.table.update(&self.id, |lease| {
            lease.state = LeaseState::Orphaned;
            lease.thaw_cause = Some(cause);
            lease.verdict = Some(verdict);
            lease.evidence.append(&mut evidence);
        });
    }

    fn end(&mut self, cause: ThawCause, complaint: Option<String>) -> Option<Lease> {
        self.facts.disrupted = self.vm.disruptions() != self.disruptions;
        self.facts.held = self.frozen_at.map_or(Duration::ZERO, |at| BootTime::now() - at);
        let mut evidence = Vec::new();
        let verdict = self.facts.judge(&mut evidence);
        let failed = cause == ThawCause::Rollback;
        // A freeze that was rolled back never held anything, whatever the counts say.
        let verdict =
            if failed && verdict == Verdict::CountsAgree { Verdict::Partial } else { verdict };
        let lease = self.table.update(&self.id, |lease| {
            lease.state = if failed { LeaseState::Failed } else { LeaseState::Thawed };
            lease.thawed_at = Some(SystemTime::now());
            lease.thaw_cause = Some(cause);
            lease.verdict = Some(verdict);
            lease.evidence.append(&mut evidence);
            lease.thaw_error = complaint;
        });
        tracing::info!(
            vm.id = %self.vm.id(), lease.id = %self.id,
            "{}: {} thawed ({cause}): {verdict}", self.vm.id(), self.id
        );
        lease
    }

    async fn status(&self) -> Result<FsfreezeStatus, CallError> {
        let options = self.vm.options(&GuestFsfreezeStatus::INFO);
        self.vm.call(GuestFsfreezeStatus {}, options).await
    }

    fn renewed(&self) -> Result<Lease, FreezeError> {
        let ttl = self.ttl;
        self.table.update(&self.id, |lease| lease.ttl = ttl).ok_or(FreezeError::NotFound)
    }
}

/// How a freeze went.
enum Froze {
    Yes(Lease),
    /// Nothing is frozen, and no lease remains.
    No(FreezeError),
    /// Something is or may be frozen, and must not be.
    Undo(FreezeError, Vec<Reply>),
    /// Somebody asked for the thaw before the freeze was done.
    Stopped(ThawCause, Vec<Reply>),
}

fn ended_early(lease: Lease) -> FreezeError {
    FreezeError::Ended(Box::new(lease))
}

/// The freeze itself was never sent, whatever became of what went before it.
fn not_sent(error: CallError) -> CallError {
    match error {
        CallError::TimedOut { after, .. } => CallError::TimedOut { sent: false, after },
        error => error,
    }
}
