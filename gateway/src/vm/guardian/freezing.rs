//! The freeze itself, and what its answer, or the lack of one, means.

use std::time::{Duration, SystemTime};

use qga_proto::command::{
    Command as _, FilesystemFreeze, FreezeResult, FsfreezeStatus, GuestFsfreezeFreeze,
    GuestFsfreezeFreezeList, LeasedFreeze, XFsfreezeFreeze, frozen_count,
};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{Froze, Guardian, Order, Orders};
use crate::vm::boottime::BootTime;
use crate::vm::call::{CallError, CallOptions};
use crate::vm::freeze::FreezeError;
use crate::vm::handle::VmHandle;
use crate::vm::lease::{AgentFreeze, Guard, LeaseState, Policy, ThawCause};

/// What a freeze said.
enum Answer {
    Count(u64),
    Leased(LeasedFreeze),
}

/// What is to be done after it.
enum Next {
    Hold,
    /// Nothing is frozen.
    No(FreezeError),
    /// Something is or may be frozen, and must not be.
    Undo(FreezeError),
}

impl Guardian {
    /// Freezes. False if nothing is frozen, or not any more.
    pub(super) async fn freeze(
        &mut self,
        until: BootTime,
        told: oneshot::Sender<Froze>,
        orders: &mut Orders,
    ) -> bool {
        let sending = send(
            self.vm.clone(),
            self.lease.as_str().to_owned(),
            self.facts.leased.then(|| self.guest_deadline()),
            self.plan.mountpoints.clone(),
            until,
            self.disruptions,
        );
        let mut sending = Box::pin(sending);
        let answer = loop {
            tokio::select! {
                answer = &mut sending => break answer,
                order = orders.recv() => match order {
                    // The thaw goes out behind the freeze, whose reply nobody needs any more.
                    Some(Order::Thaw { cause, told: thawed }) => {
                        drop(sending);
                        let _ = told.send(Froze::Stopped);
                        self.thaw(cause, Some(thawed), orders).await;
                        return false;
                    }
                    Some(Order::Freeze { .. } | Order::Renew { .. }) => {}
                    None => return false,
                },
            }
        };
        drop(sending);
        let (leased, answer) = answer;
        if leased != self.facts.leased {
            self.facts.leased = leased;
            self.change(|member| member.guard = Guard::Gateway);
        }
        match self.froze(answer).await {
            Next::Hold => {
                let _ = told.send(Froze::Yes);
                true
            }
            Next::No(error) => {
                self.fail(&error);
                let _ = told.send(Froze::No(error));
                false
            }
            Next::Undo(error @ FreezeError::OutcomeUnknown { .. }) => {
                let _ = told.send(Froze::No(error));
                self.thaw(ThawCause::Rollback, None, orders).await;
                false
            }
            Next::Undo(error) => {
                // How the freeze failed is told once it is undone, or after one attempt that it
                // is not. Other VMs stay frozen until then, and not for as long as this one likes.
                let lease = self.lease.clone();
                let (undo, undone) = oneshot::channel();
                let alone = self.table.read(&lease, |lease| lease.sole().is_some());
                let sync = self.vm.settings().limits().sync;
                let patience = async move {
                    match alone {
                        Some(true) => std::future::pending().await,
                        _ => sleep(sync).await,
                    }
                };
                let tell = async {
                    let error = tokio::select! {
                        biased;
                        undone = undone => match undone {
                            Ok(Err(source)) => FreezeError::OutcomeUnknown { lease, source },
                            _ => error,
                        },
                        () = patience => error,
                    };
                    let _ = told.send(Froze::No(error));
                };
                tokio::join!(self.thaw(ThawCause::Rollback, Some(undo), orders), tell);
                false
            }
        }
    }

    /// When the guest thaws by itself: surely after the gateway. The same time bounds the freezing
    /// there, and in a group the time to live begins when the last VM is frozen; the keeper sets
    /// the proper one when all are.
    fn guest_deadline(&self) -> Duration {
        let terms = self.table.read(&self.lease, |lease| {
            let (ttl, freezing) = (lease.ttl, lease.freeze_timeout);
            if lease.members.len() > 1 { ttl + freezing } else { ttl.max(freezing) }
        });
        terms.unwrap_or_default() + self.vm.settings().limits().guest_margin
    }

    async fn froze(&mut self, answer: Result<Answer, CallError>) -> Next {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.outcome_unknown() => {
                let lease = self.lease.clone();
                return Next::Undo(FreezeError::OutcomeUnknown { lease, source: error });
            }
            Err(error @ (CallError::Agent(_) | CallError::Unsupported)) => {
                return self.refused(error).await;
            }
            Err(error) => return Next::No(FreezeError::Call(error)),
        };
        let count = match &answer {
            Answer::Count(count) => *count,
            Answer::Leased(freeze) => freeze.count,
        };
        self.facts.frozen = Some(count);
        let required = self.plan.policy == Policy::Required;
        if count == 0 && required {
            return match self.status().await {
                Ok(FsfreezeStatus::Thawed) => Next::No(FreezeError::NothingToFreeze),
                _ => Next::Undo(FreezeError::NothingToFreeze),
            };
        }
        let skipped = match &answer {
            Answer::Count(_) => Vec::new(),
            Answer::Leased(freeze) => {
                self.facts.began = Some(AgentFreeze {
                    boot_id: freeze.boot_id.clone(),
                    instance: freeze.agent_instance.clone(),
                    generation: freeze.generation,
                });
                left_out(&freeze.filesystems)
            }
        };
        if !skipped.is_empty() && required {
            return Next::Undo(FreezeError::Skipped { skipped: words(&skipped) });
        }
        let wanted = match (&answer, self.wanted()) {
            (Answer::Count(_), Some(wanted)) => wanted,
            // Two names may stand for one filesystem, and its results say more.
            _ => 0,
        };
        if count < wanted && required {
            return Next::Undo(FreezeError::Incomplete { wanted, frozen: count });
        }
        self.hold_from_now(count, wanted, &skipped);
        Next::Hold
    }

    fn hold_from_now(&mut self, count: u64, wanted: u64, skipped: &[(&str, String)]) {
        let now = BootTime::now();
        self.frozen_at = Some(now);
        let short = count < wanted || count == 0 || !skipped.is_empty();
        let facts = &mut self.facts;
        let named = self.plan.mountpoints.clone().unwrap_or_default();
        let began = facts.began.clone();
        let incomplete = &mut facts.incomplete;
        self.table.change_member(&self.lease, self.index, |member| {
            member.state = LeaseState::Frozen;
            member.filesystems = Some(count);
            member.incomplete |= short;
            *incomplete = member.incomplete;
            if count < wanted {
                member.note(format!("{count} of {wanted} named mount points were frozen"));
            }
            for line in words(skipped) {
                member.note(format!("not frozen: {line}"));
            }
            member.skipped.extend(skipped.iter().map(|(path, _)| (*path).to_owned()));
            // Which ones were left out, a stock agent does not say; of none, all were.
            if count == 0 && skipped.is_empty() {
                member.skipped.extend(named);
            }
            member.skipped.sort_unstable();
            member.skipped.dedup();
            member.frozen_at = Some(SystemTime::now());
            member.frozen_boot = Some(now);
            member.agent = began;
        });
    }

    /// How many distinct mount points are named.
    fn wanted(&self) -> Option<u64> {
        let mut named: Vec<&str> =
            self.plan.mountpoints.as_ref()?.iter().map(String::as_str).collect();
        named.sort_unstable();
        named.dedup();
        Some(named.len() as u64)
    }

    /// The guest answered the freeze with an error. qemu-ga thaws what it froze until then; make
    /// sure of it, unless the error says that somebody else was faster.
    async fn refused(&mut self, error: CallError) -> Next {
        let taken = matches!(
            &error,
            CallError::Agent(error)
                if error.is_disabled() || error.desc.starts_with("filesystems are frozen already")
        );
        match self.status().await {
            Ok(FsfreezeStatus::Thawed) => Next::No(FreezeError::Call(error)),
            Ok(_) if taken => Next::No(FreezeError::FrozenMeanwhile),
            _ => Next::Undo(FreezeError::Call(error)),
        }
    }
}

/// Sends the freeze: for a lease and until a deadline, if the agent can. Gives whether it could.
async fn send(
    vm: VmHandle,
    lease: String,
    deadline: Option<Duration>,
    mountpoints: Option<Vec<String>>,
    until: BootTime,
    disruptions: u64,
) -> (bool, Result<Answer, CallError>) {
    let options = vm.options(&GuestFsfreezeFreeze::INFO);
    // It is for the guest that was asked.
    let unless_disrupted = Some(disruptions);
    let options = || CallOptions { timeout: until.remaining(), unless_disrupted, ..options };
    if let Some(deadline) = deadline {
        let deadline_ms = Some(i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX));
        let freeze = XFsfreezeFreeze { lease, deadline_ms, mountpoints: mountpoints.clone() };
        match vm.call(freeze, options()).await {
            // What was known of the agent was another one's: nothing has happened.
            Err(CallError::Unsupported) => {}
            answer => return (true, answer.map(Answer::Leased)),
        }
    }
    let count = match mountpoints {
        None => vm.call(GuestFsfreezeFreeze {}, options()).await,
        some => vm.call(GuestFsfreezeFreezeList { mountpoints: some }, options()).await,
    };
    let count = count.and_then(|count| frozen_count(count).map_err(CallError::Agent));
    (false, count.map(Answer::Count))
}

/// What is not frozen by us although it could be written to, each with the reason.
fn left_out(filesystems: &[FilesystemFreeze]) -> Vec<(&str, String)> {
    let reason = |filesystem: &FilesystemFreeze| {
        Some(match filesystem.freeze {
            FreezeResult::Frozen => return None,
            FreezeResult::Unsupported if filesystem.read_only => return None,
            FreezeResult::Unsupported => "it cannot freeze".into(),
            FreezeResult::AlreadyFrozen => "somebody else had frozen it".into(),
            FreezeResult::Failed => {
                filesystem.error.clone().unwrap_or_else(|| "its freeze failed".into())
            }
            FreezeResult::Pending | FreezeResult::Freezing => "its freeze has not ended".into(),
        })
    };
    let left = filesystems.iter().map(|f| (f.mountpoint.as_str(), reason(f)));
    left.filter_map(|(path, reason)| Some((path, reason?))).collect()
}

fn words(skipped: &[(&str, String)]) -> Vec<String> {
    skipped.iter().map(|(path, reason)| format!("{path} ({reason})")).collect()
}
