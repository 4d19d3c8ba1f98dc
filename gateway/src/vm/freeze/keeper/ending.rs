//! Thawing all VMs of a lease, until the last one is thawed.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::Keeper;
use crate::vm::boottime::BootTime;
use crate::vm::call::CallError;
use crate::vm::freeze::controls::{Control, End, Renewal};
use crate::vm::freeze::{FreezeError, Reply, torn_down};
use crate::vm::guardian::{Begin, Order};
use crate::vm::lease::{self, Lease, LeaseState, ThawCause};

/// How long the answer to a thaw waits for the disk. The thaw itself never does.
const WRITING: Duration = Duration::from_secs(1);

/// What became of one attempt at a VM; `None` if its guardian had no time for it.
type Attempt = Option<Result<(), CallError>>;

impl Keeper {
    /// Thaws everything, however often it takes, and closes the lease.
    pub(super) async fn end(mut self, cause: ThawCause, mut waiting: Vec<Reply>) {
        let mut turns = self.begin_end(cause);
        let mut due: VecDeque<usize> =
            (0..self.posts.len()).rev().filter(|index| !self.has_ended(*index)).collect();
        let mut attempts = FuturesUnordered::new();
        let mut failure: Option<(usize, CallError)> = None;
        while !self.all_ended() {
            while turns.may_begin(attempts.is_empty()) {
                let Some(index) = due.pop_front() else { break };
                attempts.push(self.attempt(index, cause));
                turns.begun();
            }
            tokio::select! {
                biased;
                Some(done) = self.guardians.join_next_with_id() => {
                    if let Some(index) = self.relieve(done).await {
                        attempts.push(self.attempt(index, cause));
                    }
                }
                Some((index, attempt)) = attempts.next() => {
                    if let Some(Err(error)) = attempt {
                        failure.get_or_insert((index, error));
                    }
                    // All have been tried: whoever waits learns what is in the way.
                    if due.is_empty() && attempts.is_empty() && !self.all_ended()
                        && let Some((index, error)) = failure.take()
                    {
                        let error = self.because(
                            (index, FreezeError::Call(error)),
                            Some(self.id.clone()),
                            false,
                        );
                        for reply in waiting.drain(..) {
                            let _ = reply.send(Err(error.clone()));
                        }
                    }
                }
                () = turns.next(), if !due.is_empty() => {}
                control = self.controls.recv() => match control {
                    Control::Renew(Renewal { reply, .. }) => {
                        let _ = reply.send(Err(self.ended_error()));
                    }
                    Control::End(End { cause, reply }) => {
                        waiting.extend(reply);
                        turns.hurry(cause);
                        for index in 0..self.posts.len() {
                            if !due.contains(&index) && !self.has_ended(index) {
                                attempts.push(self.attempt(index, cause));
                            }
                        }
                    }
                },
            }
        }
        self.close(cause, waiting).await;
    }

    /// How the VMs are to be thawed: at once, or one after the other.
    fn begin_end(&self, cause: ThawCause) -> Turns {
        let rollback = cause == ThawCause::Rollback && self.posts.len() > 1;
        let terms = self.table.change(&self.id, |lease| {
            lease.state = if rollback { LeaseState::RollingBack } else { LeaseState::Thawing };
            lease.thaw_cause = Some(cause);
            (lease.order, lease.deadline)
        });
        // A gateway that dies with its thaw under way is to know that it was its own.
        self.table.hasten(&self.id);
        let mut turns = Turns {
            one_by_one: terms.is_some_and(|(order, _)| order == lease::Order::Sequential),
            patience: self.table.settings.limits().sync,
            next: Instant::now(),
            deadline: terms.and_then(|(_, deadline)| deadline),
        };
        turns.hurry(if self.controls.is_stopping() { ThawCause::Shutdown } else { cause });
        turns
    }

    fn attempt(
        &self,
        index: usize,
        cause: ThawCause,
    ) -> impl Future<Output = (usize, Attempt)> + use<> {
        let (told, tried) = oneshot::channel();
        self.order(index, Order::Thaw { cause, told });
        async move { (index, tried.await.ok()) }
    }

    async fn close(mut self, cause: ThawCause, mut waiting: Vec<Reply>) {
        self.table.change(&self.id, |lease| lease.end(cause));
        // Whoever asks from now on reads the table; whoever asked just before is answered here.
        waiting.extend(self.controls.close());
        let _ = timeout(WRITING, self.table.write(&self.id)).await;
        let lease = self.lease();
        if let Ok(lease) = &lease {
            log(lease);
        }
        for reply in waiting {
            let _ = reply.send(lease.clone());
        }
    }

    /// Thaws what this lease never froze. False if that came to nothing and no lease remains.
    pub(super) async fn force(&mut self, cause: ThawCause, told: Reply) -> bool {
        self.start(0, Begin::Force);
        let (index, attempt) = self.attempt(0, cause).await;
        match attempt {
            Some(Err(error)) if !error.outcome_unknown() => {
                self.guardians.abort_all();
                self.table.remove(&self.id);
                self.controls.close();
                let _ = told.send(Err(FreezeError::Call(error)));
                return false;
            }
            Some(Err(error)) => {
                let _ =
                    told.send(Err(self.because((index, FreezeError::Call(error)), None, false)));
            }
            Some(Ok(())) => {
                while let Some(done) = self.guardians.join_next_with_id().await {
                    self.relieve(done).await;
                }
                self.table.change(&self.id, |lease| lease.end(cause));
                self.table.note(&self.id);
                let _ = told.send(self.lease());
                self.controls.close();
                return false;
            }
            None => drop(told.send(Err(torn_down()))),
        }
        true
    }
}

/// Whose turn it is. The order is a courtesy among guests that answer: one that does not keeps none
/// of the others frozen for long, and none beyond the lease's time or into the gateway's end.
struct Turns {
    one_by_one: bool,
    /// How long one that does not answer holds back the next.
    patience: Duration,
    /// When the next one's turn comes at the latest.
    next: Instant,
    /// When the lease's time is over; none if it never held.
    deadline: Option<BootTime>,
}

impl Turns {
    fn may_begin(&self, none_under_way: bool) -> bool {
        none_under_way || !self.one_by_one || self.next <= Instant::now()
    }

    fn begun(&mut self) {
        self.next = Instant::now() + self.patience;
    }

    fn hurry(&mut self, cause: ThawCause) {
        self.one_by_one &= !matches!(cause, ThawCause::Expired | ThawCause::Shutdown);
    }

    /// Returns when more may begin.
    async fn next(&mut self) {
        let over = async {
            match self.deadline {
                Some(deadline) => deadline.reached().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep_until(self.next) => {}
            () = over => self.one_by_one = false,
        }
    }
}

fn log(lease: &Lease) {
    let id = &lease.id;
    let verdict = lease.verdict.map_or("never held", lease::Verdict::as_str);
    let cause = lease.thaw_cause.map_or("", ThawCause::as_str);
    match lease.sole() {
        Some(member) => {
            let vm = &member.vm;
            tracing::info!(vm.id = %vm, lease.id = %id, "{vm}: {id} thawed ({cause}): {verdict}");
        }
        None => {
            let count = lease.members.len();
            tracing::info!(lease.id = %id, "{id} of {count} VMs thawed ({cause}): {verdict}");
        }
    }
}
