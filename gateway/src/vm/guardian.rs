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

mod freezing;
mod thawing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qga_proto::command::{Command as _, FsfreezeStatus, GuestFsfreezeStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::freezing::Froze;
use self::thawing::{Thawed, Thawing};
use super::boottime::BootTime;
use super::freeze::{Control, FreezeError, FreezeRequest, Reply, Table, torn_down};
use super::handle::{CallError, Pin, VmHandle};
use super::lease::{Lease, LeaseId, LeaseState, ThawCause, Verdict};
use super::link::LinkState;
use super::verdict::Facts;

/// VSS thaws by itself after this time, whatever anybody wants.
pub(super) const VSS_HOLDS: Duration = Duration::from_secs(10);

pub(super) struct Guardian {
    table: Arc<Table>,
    vm: VmHandle,
    id: LeaseId,
    request: FreezeRequest,
    commands: mpsc::Receiver<Control>,
    ttl: Duration,
    facts: Facts,
    thawing: Thawing,
    frozen_at: Option<BootTime>,
    disruptions: u64,
    _pin: Pin,
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
            thawing: Thawing::default(),
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
            Froze::Undo(error @ FreezeError::OutcomeUnknown { .. }) => {
                let _ = started.send(Err(error));
                self.thaw(ThawCause::Rollback, Vec::new()).await;
            }
            Froze::Undo(error) => {
                // The caller learns how the freeze failed once it is undone, or after one attempt
                // that it is not.
                let lease = self.id.clone();
                let (undo, undone) = oneshot::channel();
                let tell = async {
                    let error = match undone.await {
                        Ok(Err(FreezeError::Call(source))) => {
                            FreezeError::OutcomeUnknown { lease, source }
                        }
                        _ => error,
                    };
                    let _ = started.send(Err(error));
                };
                tokio::join!(self.thaw(ThawCause::Rollback, vec![undo]), tell);
            }
            Froze::Stopped(cause, waiting) => {
                self.thaw(cause, waiting).await;
                let ended = self.table.update(&self.id, |_| {});
                let _ = started.send(Err(ended.map_or(FreezeError::NotFound, ended_early)));
            }
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
        // The deadline does not wait for the answer.
        let deadline = self.frozen_at.unwrap_or_else(BootTime::now) + self.ttl;
        let asked = timeout(deadline.remaining(), self.status()).await;
        let Ok(Ok(status)) = asked else { return false };
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

    fn finish(&mut self, cause: ThawCause, thawed: Thawed) {
        self.facts.thawed = thawed.count;
        let cause = if self.facts.found_thawed { ThawCause::External } else { cause };
        let lease = self.end(cause, thawed.complaint);
        for reply in self.thawing.waiting.drain(..) {
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

fn ended_early(lease: Lease) -> FreezeError {
    FreezeError::Ended(Box::new(lease))
}
