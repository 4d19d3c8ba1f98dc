//! While it is frozen: the deadline, renewals, and VMs that leave by themselves.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Keeper;
use crate::vm::boottime::BootTime;
use crate::vm::freeze::controls::{Control, Controls, End, Renewal};
use crate::vm::freeze::{FreezeError, Reply, Unwritten, transitions};
use crate::vm::guardian::Order;
use crate::vm::lease::{Guard, Lease, ThawCause};

impl Keeper {
    /// Holds the lease; gives why it is to be thawed, and who waits for that.
    pub(super) async fn hold(&mut self) -> (ThawCause, Vec<Reply>) {
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                control = self.controls.recv() => match control {
                    Control::End(End { cause, reply }) => {
                        return (cause, reply.into_iter().collect());
                    }
                    Control::Renew(renewal) => {
                        if let Some(end) = self.renew_unless_ended(renewal, deadline).await {
                            return (end.cause, end.reply.into_iter().collect());
                        }
                    }
                },
                () = deadline.reached() => return (ThawCause::Expired, Vec::new()),
                Some(done) = self.guardians.join_next_with_id() => {
                    self.relieve(done).await;
                    if self.all_ended() {
                        return (ThawCause::External, Vec::new());
                    }
                    self.table.note(&self.id);
                }
            }
        }
    }

    /// Renews; but a guest that does not answer puts off no thaw. Gives that, if it comes first.
    async fn renew_unless_ended(
        &mut self,
        Renewal { ttl, reply }: Renewal,
        deadline: BootTime,
    ) -> Option<End> {
        // Back in its place below; nobody else looks there meanwhile.
        let mut controls = std::mem::replace(&mut self.controls, Controls::none());
        let (renewed, end) = tokio::select! {
            biased;
            end = controls.end() => (Err(self.ended_error()), Some(end)),
            renewed = self.renew(ttl, deadline) => (renewed, None),
        };
        self.controls = controls;
        let _ = reply.send(renewed);
        end
    }

    fn deadline(&self) -> BootTime {
        let deadline = self.table.read(&self.id, |lease| lease.deadline).flatten();
        deadline.unwrap_or_else(BootTime::now)
    }

    /// Whatever fails in between, no guest thaws before the gateway does: of a later deadline guests
    /// learn first, then the disk, and of an earlier one the disk, then guests. Until the disk has it the
    /// old one holds.
    async fn renew(&self, ttl: Duration, deadline: BootTime) -> Result<Lease, FreezeError> {
        let hold_until = self.table.read(&self.id, |lease| lease.hold_until).flatten();
        if let Some(until) = hold_until.filter(|until| BootTime::now() + ttl > *until) {
            let max = self.table.settings.limits().hold_max;
            return Err(FreezeError::HoldLimit { max, left: until.remaining() });
        }
        let earlier = BootTime::now() + ttl < deadline;
        if !earlier {
            let guests = timeout(deadline.remaining(), self.renew_guests(ttl)).await;
            guests.unwrap_or_else(|_| Err(self.ended_error()))?;
        }
        let before = self.table.change(&self.id, |lease| {
            let before = (lease.ttl, lease.deadline, lease.expires_at);
            lease.ttl = ttl;
            lease.deadline = Some(BootTime::now() + ttl);
            lease.expires_at = Some(SystemTime::now() + ttl);
            before
        });
        let before = before.ok_or(FreezeError::NotFound)?;
        let written = timeout(deadline.remaining(), self.persist(Unwritten::Renewal)).await;
        let written = written.unwrap_or_else(|_| Err(self.ended_error()));
        if let Err(error) = written {
            self.table.change(&self.id, |lease| {
                (lease.ttl, lease.deadline, lease.expires_at) = before;
            });
            self.table.note(&self.id);
            return Err(error);
        }
        self.table.tell_of(&self.id, transitions::renewed);
        if earlier {
            // One that does not learn of it would thaw by itself later than it might, and that is all.
            if let Ok(Err(error)) = timeout(ttl, self.renew_guests(ttl)).await {
                tracing::info!(
                    lease.id = %self.id,
                    "not every guest of {} knows its earlier deadline: {error}", self.id
                );
            }
        }
        self.lease()
    }

    async fn renew_guests(&self, ttl: Duration) -> Result<(), FreezeError> {
        let mut renewing = FuturesUnordered::new();
        for index in self.leased() {
            let (told, renewed) = oneshot::channel();
            let deadline = ttl + self.table.settings.limits().guest_margin;
            self.order(index, Order::Renew { deadline, told });
            renewing.push(async move { (index, renewed.await) });
        }
        let mut result = Ok(());
        while let Some((index, renewed)) = renewing.next().await {
            let error = match renewed {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => FreezeError::Call(error),
                // It has ended, or is ending.
                Err(_) => self.ended_error(),
            };
            result = Err(self.because((index, error), Some(self.id.clone()), false));
        }
        result
    }

    /// While freezing, guests had a deadline that left room for the other ones' freezes. Nobody
    /// waits for the proper one: until it is there, the guest only thaws later than it might.
    pub(super) fn trim(&self) {
        let longer = self
            .table
            .read(&self.id, |lease| lease.members.len() > 1 || lease.freeze_timeout > lease.ttl);
        if longer != Some(true) {
            return;
        }
        let deadline = self.deadline().remaining() + self.table.settings.limits().guest_margin;
        for index in self.leased() {
            let (told, _) = oneshot::channel();
            self.order(index, Order::Renew { deadline, told });
        }
    }

    /// The VMs that are held, and whose agents know the lease.
    fn leased(&self) -> Vec<usize> {
        let leased = |lease: &Lease| {
            let members = lease.members.iter().enumerate();
            let held = members.filter(|(_, m)| !m.ended() && m.guard == Guard::GatewayAndAgent);
            held.map(|(index, _)| index).collect()
        };
        self.table.read(&self.id, leased).unwrap_or_default()
    }
}
