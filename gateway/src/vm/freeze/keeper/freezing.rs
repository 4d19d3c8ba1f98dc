//! From a lease in memory to one that is held, or to none.

use std::time::SystemTime;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::Keeper;
use crate::vm::boottime::BootTime;
use crate::vm::freeze::controls::End;
use crate::vm::freeze::{FreezeError, Reply, Unwritten, defect, torn_down, transitions};
use crate::vm::guardian::{Begin, Froze, Order};
use crate::vm::lease::{self, Lease, LeaseId, LeaseState, ThawCause};

/// What became of a freeze.
pub(super) enum Came {
    Held,
    /// Nothing is frozen, and the caller knows.
    ToNothing,
    /// It is to be thawed, and these wait for it.
    ToEnd(ThawCause, Vec<Reply>),
}

/// What has been asked for while the freeze was under way. Renewals wait until it is held: the guests are
/// on their way with the deadline that they were given.
#[derive(Default)]
struct Meanwhile {
    thaw: Option<ThawCause>,
    waiting: Vec<Reply>,
}

impl Meanwhile {
    fn note(&mut self, End { cause, reply }: End) {
        self.thaw.get_or_insert(cause);
        self.waiting.extend(reply);
    }
}

impl Keeper {
    /// `begun` is told once the lease is on disk, `told` how the freeze came out.
    pub(super) async fn freeze(&mut self, begun: oneshot::Sender<Lease>, told: Reply) -> Came {
        let mut meanwhile = Meanwhile::default();
        let mut failed = self.ask(&mut meanwhile).await;
        if meanwhile.thaw.is_none()
            && !self.is_hopeless(&failed)
            && let Err(error) = self.persist(Unwritten::Begin).await
        {
            self.forget();
            let _ = told.send(Err(error));
            return Came::ToNothing;
        }
        if let Some(cause) = meanwhile.thaw {
            return self.stopped_before(cause, meanwhile.waiting, told);
        }
        if self.is_hopeless(&failed) {
            let error = self.because(failed.remove(0), None, true);
            self.forget();
            let _ = told.send(Err(error));
            return Came::ToNothing;
        }
        if let Ok(lease) = self.lease() {
            let _ = begun.send(lease);
        }
        for (index, error) in &failed {
            self.spare(*index, error);
        }
        let asked = failed.len();
        self.freeze_asked(&mut failed, &mut meanwhile).await;
        if let Some(cause) = meanwhile.thaw {
            return self.stopped(cause, meanwhile.waiting, told);
        }
        if failed.len() > asked && self.is_hopeless(&failed) {
            return self.roll_back(failed.swap_remove(asked), told);
        }
        match self.held().await {
            Ok(lease) => {
                let _ = told.send(Ok(lease));
                Came::Held
            }
            Err(error) => {
                let undone = tell_after(told, move |_| error);
                Came::ToEnd(ThawCause::Rollback, vec![undone])
            }
        }
    }

    /// Whether so many have failed that none may stay frozen.
    fn is_hopeless(&self, failed: &[(usize, FreezeError)]) -> bool {
        let all_or_nothing = self.table.read(&self.id, |lease| lease.all_or_nothing);
        !failed.is_empty() && (all_or_nothing != Some(false) || failed.len() == self.posts.len())
    }

    /// Has all VMs asked, at once, whether they can be frozen. Those that cannot are given back.
    async fn ask(&mut self, meanwhile: &mut Meanwhile) -> Vec<(usize, FreezeError)> {
        let mut asking = FuturesUnordered::new();
        for index in 0..self.posts.len() {
            let (told, ready) = oneshot::channel();
            self.start(index, Begin::Freeze { ready: told });
            asking.push(async move { (index, ready.await) });
        }
        let mut failed = Vec::new();
        loop {
            tokio::select! {
                asked = asking.next() => match asked {
                    Some((_, Ok(Ok(())))) => {}
                    Some((index, Ok(Err(error)))) => failed.push((index, error)),
                    // It has panicked; its successor thaws.
                    Some((index, Err(_))) => failed.push((index, defect())),
                    None => return failed,
                },
                end = self.controls.end() => meanwhile.note(end),
            }
        }
    }

    /// Has those frozen that can be; adds to `failed` those that were not.
    async fn freeze_asked(
        &mut self,
        failed: &mut Vec<(usize, FreezeError)>,
        meanwhile: &mut Meanwhile,
    ) {
        let one_by_one =
            self.table.read(&self.id, |lease| lease.order) == Some(lease::Order::Sequential);
        let until = self.table.read(&self.id, |lease| BootTime::now() + lease.freeze_timeout);
        let Some(until) = until else { return };
        let unfit: Vec<usize> = failed.iter().map(|(index, _)| *index).collect();
        let fit = |index: &usize| !unfit.contains(index);
        let mut due = (0..self.posts.len()).filter(fit).collect::<Vec<_>>().into_iter();
        let mut freezing = FuturesUnordered::new();
        loop {
            let stop =
                meanwhile.thaw.is_some() || failed.len() > unfit.len() && self.is_hopeless(failed);
            while !stop && (!one_by_one || freezing.is_empty()) {
                let Some(index) = due.next() else { break };
                let (told, froze) = oneshot::channel();
                self.order(index, Order::Freeze { until, told });
                freezing.push(async move { (index, froze.await) });
            }
            tokio::select! {
                froze = freezing.next() => match froze {
                    Some((_, Ok(Froze::Yes | Froze::Stopped))) => {}
                    Some((index, Ok(Froze::No(error)))) => {
                        failed.push((index, error));
                        if self.is_hopeless(failed) {
                            self.call_off(ThawCause::Rollback);
                        }
                    }
                    Some((index, Err(_))) => failed.push((index, defect())),
                    None => return,
                },
                end = self.controls.end() => {
                    let cause = end.cause;
                    meanwhile.note(end);
                    self.call_off(cause);
                }
            }
        }
    }

    /// Stops the freezes that are under way: the thaw goes out behind each.
    fn call_off(&self, cause: ThawCause) {
        for index in 0..self.posts.len() {
            if self.state(index) == Some(LeaseState::Freezing) {
                let (told, _) = oneshot::channel();
                self.order(index, Order::Thaw { cause, told });
            }
        }
    }

    /// A VM that is left out of a lease that goes on without it.
    fn spare(&self, index: usize, error: &FreezeError) {
        self.table.change_member(&self.id, index, |member| {
            member.state = LeaseState::Failed;
            member.note(format!("not frozen: {error}"));
        });
    }

    /// Somebody asked for the thaw before any freeze was sent.
    fn stopped_before(&mut self, cause: ThawCause, waiting: Vec<Reply>, told: Reply) -> Came {
        self.guardians.abort_all();
        let lease = self.table.change(&self.id, |lease| {
            for member in &mut lease.members {
                member.state = LeaseState::Failed;
                member.note("stopped before the freeze was sent".into());
            }
            lease.end(cause);
            lease.clone()
        });
        self.table.note(&self.id);
        let late = self.controls.close();
        let Some(lease) = lease else { return Came::ToNothing };
        for reply in waiting {
            let _ = reply.send(Ok(lease.clone()));
        }
        for reply in late {
            let _ = reply.send(Err(FreezeError::Ended(lease.clone().into())));
        }
        let _ = told.send(Err(FreezeError::Ended(lease.into())));
        Came::ToNothing
    }

    /// Somebody asked for the thaw while the freeze was under way.
    fn stopped(&self, cause: ThawCause, mut waiting: Vec<Reply>, told: Reply) -> Came {
        let lease = self.lease();
        waiting.push(tell_after(told, move |ended| match ended.or(lease) {
            Ok(lease) => FreezeError::Ended(lease.into()),
            Err(error) => error,
        }));
        Came::ToEnd(cause, waiting)
    }

    /// One VM did not freeze, and so none may stay frozen. The caller learns it once they are
    /// thawed, or after one attempt at each.
    fn roll_back(&mut self, first: (usize, FreezeError), told: Reply) -> Came {
        let never = |lease: &Lease| {
            lease.members.iter().all(|member| member.ended() && member.verdict.is_none())
        };
        if self.table.read(&self.id, never).unwrap_or(true) {
            let error = self.because(first, None, true);
            self.forget();
            let _ = told.send(Err(error));
            return Came::ToNothing;
        }
        // Where the outcome is unknown, what is to be followed is known.
        let unknown = matches!(first.1, FreezeError::OutcomeUnknown { .. });
        if unknown && self.posts.len() == 1 {
            let _ = told.send(Err(first.1));
            return Came::ToEnd(ThawCause::Rollback, Vec::new());
        }
        let error = self.because(first, Some(self.id.clone()), false);
        let undone = tell_after(told, |ended| match error {
            FreezeError::Group { vm, source, lease, .. } => {
                FreezeError::Group { vm, source, lease, undone: ended.is_ok() }
            }
            error => error,
        });
        Came::ToEnd(ThawCause::Rollback, vec![undone])
    }

    /// The error of one VM, as the whole lease's.
    pub(super) fn because(
        &self,
        (index, error): (usize, FreezeError),
        lease: Option<LeaseId>,
        undone: bool,
    ) -> FreezeError {
        if self.posts.len() == 1 {
            return error;
        }
        let vm = self.posts[index].vm.clone();
        FreezeError::Group { vm, source: error.into(), lease, undone }
    }

    /// Takes the lease away as if it had never been.
    fn forget(&mut self) {
        self.guardians.abort_all();
        self.table.remove(&self.id);
        for reply in self.controls.close() {
            let _ = reply.send(Err(FreezeError::NotFound));
        }
    }

    /// All that can be frozen is: from now on the time runs.
    async fn held(&mut self) -> Result<Lease, FreezeError> {
        let hold_max = self.table.settings.limits().hold_max;
        let lease = self.table.change(&self.id, |lease| {
            let frozen = lease.members.iter().filter(|member| member.state == LeaseState::Frozen);
            let times: Vec<_> = frozen.filter_map(|member| member.frozen_boot).collect();
            let first = times.iter().min().copied().unwrap_or_else(BootTime::now);
            let last = times.iter().max().copied().unwrap_or_else(BootTime::now);
            lease.state = LeaseState::Frozen;
            lease.spread = Some(last - first);
            lease.deadline = Some(last + lease.ttl);
            lease.hold_until = Some(first + hold_max);
            let at = lease.members.iter().filter_map(|member| member.frozen_at).max();
            let at = at.unwrap_or_else(SystemTime::now);
            lease.frozen_at = Some(at);
            lease.expires_at = Some(at + lease.ttl);
            lease.clone()
        });
        let lease = lease.ok_or(FreezeError::NotFound)?;
        self.persist(Unwritten::Frozen).await?;
        self.table.tell_of(&self.id, transitions::frozen);
        self.trim();
        Ok(lease)
    }
}

/// Tells the caller of a freeze how it failed, once its thaw has ended or was tried.
fn tell_after(
    told: Reply,
    error: impl FnOnce(Result<Lease, FreezeError>) -> FreezeError + Send + 'static,
) -> Reply {
    let (reply, ended) = oneshot::channel();
    tokio::spawn(async move {
        let ended = ended.await.unwrap_or_else(|_| Err(torn_down()));
        let _ = told.send(Err(error(ended)));
    });
    reply
}
