//! A freeze, from the order to its answer.

use std::time::Duration;

use qga_proto::command::{Command as _, FilesystemFreeze, FreezeResult, ThawCause};
use qga_proto::command::{GuestFsfreezeFreeze, GuestFsfreezeFreezeList};
use qga_proto::{Outcome, QgaError};

use super::hooks::{HookFault, Verb};
use super::{Engine, Message, Returned};
use crate::freeze::choice::{choose, holding_state};
use crate::freeze::kernel::Kernel;
use crate::freeze::mounts::{Device, Target};
use crate::freeze::order::{By, Lease, Order, Term};
use crate::freeze::phase::Phase;
use crate::freeze::record::{Freeze, OnDevice, Stage};
use crate::worker::Reply;
use crate::{errno, log};

/// Why a freeze did not come to its end.
pub(super) enum Stopped {
    /// Nothing was frozen, and no hook was run.
    Refused(QgaError),
    /// The hook or a mount failed.
    Failed(QgaError),
    /// A client wants a thaw, which may be that of the lease.
    ByThaw(By, Reply),
    /// It took too long.
    ByDeadline,
}

impl<K: Kernel> Engine<K> {
    pub(super) fn freeze(
        &mut self,
        names: Option<&[String]>,
        lease: Option<(Lease, Term)>,
        reply: Reply,
    ) {
        if self.entered {
            let order = Order::Freeze { names: names.map(<[_]>::to_vec), lease };
            reply.send(Outcome::Error(self.refusal(&order)));
            // The poll thread may have set it to `Freezing`.
            self.phase.set(Phase::Frozen);
            return;
        }
        log::info(format_args!("guest-fsfreeze called"));
        self.phase.set(Phase::Freezing);
        let leased = lease.is_some();
        self.freezing = true;
        let result = self.freeze_chosen(names, lease);
        self.freezing = false;
        match result {
            Ok(0) => {
                self.leave(None);
                reply.send(self.frozen_answer(0, leased));
            }
            Ok(count) => {
                self.phase.set(Phase::Frozen);
                reply.send(self.frozen_answer(count, leased));
            }
            Err(Stopped::Refused(error)) => {
                self.record.error = Some(error.desc.clone());
                self.record.freeze = None;
                self.publish();
                self.phase.set(Phase::Thawed);
                reply.send(Outcome::Error(error));
            }
            Err(Stopped::Failed(error)) => {
                self.record.error = Some(error.desc.clone());
                self.roll_back(ThawCause::Rollback);
                reply.send(Outcome::Error(error));
            }
            Err(Stopped::ByDeadline) => {
                let error = QgaError::generic("stopped by its deadline");
                self.record.error = Some(error.desc.clone());
                self.roll_back(ThawCause::Deadline);
                reply.send(Outcome::Error(error));
            }
            Err(Stopped::ByThaw(by, thaw)) => {
                self.phase.set(Phase::Thawing);
                let error = QgaError::generic("stopped by thaw");
                self.record.error = Some(error.desc.clone());
                reply.send(Outcome::Error(error));
                self.thaw(&by, thaw);
            }
        }
    }

    fn frozen_answer(&self, count: u64, leased: bool) -> Outcome {
        if leased {
            let now = self.kernel.now_ms();
            Outcome::value(&self.report.leased_freeze(&self.record, count, now))
        } else {
            Outcome::value(&count)
        }
    }

    fn roll_back(&mut self, cause: ThawCause) {
        self.phase.set(Phase::Thawing);
        if let Err(stuck) = self.thaw_all(cause) {
            log::critical(format_args!("{stuck}"));
        }
    }

    fn freeze_chosen(
        &mut self,
        names: Option<&[String]>,
        lease: Option<(Lease, Term)>,
    ) -> Result<u64, Stopped> {
        let (lease, term) = lease.unzip();
        self.begin(lease.as_ref(), term.unwrap_or(Term::Default));
        let mut targets = self.choose(names).map_err(Stopped::Refused)?;
        if self.settings.hook.is_some() {
            self.enter().map_err(|error| self.refused(error))?;
            self.hook_due = true;
            match self.run_hook(Verb::Freeze) {
                Ok(()) => {}
                Err(HookFault::Failed(error)) => return Err(Stopped::Failed(error)),
                Err(HookFault::Stopped(by, reply)) => return Err(Stopped::ByThaw(by, reply)),
            }
            // It may have mounted something.
            targets = self.choose(names).map_err(Stopped::Failed)?;
        }
        self.record.filesystems = targets.iter().map(shown).collect();
        self.record.devices = targets.iter().map(OnDevice::of).collect();
        self.at_stage(Stage::Freezing, None);
        self.set_deadline();
        Self::go_quiet();
        if let Err(error) = self.enter() {
            return Err(if self.hook_due { Stopped::Failed(error) } else { self.refused(error) });
        }
        let count = self.freeze_all(&targets)?;
        self.record.count = Some(count);
        if count > 0 {
            self.at_stage(Stage::Frozen, None);
            // The deadline counts from here.
            self.set_deadline();
            self.persist().map_err(Stopped::Failed)?;
        }
        Ok(count)
    }

    fn begin(&mut self, lease: Option<&Lease>, term: Term) {
        self.term = match term {
            Term::Default => self.settings.deadline,
            Term::Unlimited => None,
            Term::Of(term) => Some(term),
        };
        self.thawed = 0;
        self.hook_error = None;
        let record = &mut self.record;
        record.boot_id.clone_from(&self.report.identity().boot_id);
        record.generation += 1;
        record.count = None;
        record.error = None;
        record.filesystems.clear();
        record.devices.clear();
        if let Some(thaw) = &mut record.last_thaw {
            thaw.untold = false;
        }
        record.freeze = Some(Freeze {
            stage: Stage::Hook,
            lease: lease.map(|lease| lease.as_str().to_owned()),
            since_ms: self.kernel.now_ms(),
            deadline_ms: None,
            cause: None,
        });
        self.publish();
    }

    /// Nothing was done yet that would have to be undone.
    fn refused(&mut self, error: QgaError) -> Stopped {
        self.record.freeze = None;
        self.hook_due = false;
        self.leave(None);
        Stopped::Refused(error)
    }

    pub(super) fn at_stage(&mut self, stage: Stage, cause: Option<ThawCause>) {
        if let Some(freeze) = &mut self.record.freeze {
            freeze.stage = stage;
            freeze.cause = cause;
        }
    }

    fn freeze_all(&mut self, targets: &[Target]) -> Result<u64, Stopped> {
        let mut count = 0;
        for target in targets {
            // A call of an earlier freeze or thaw.
            while self.is_in_kernel(target.device) {
                self.wait_for_freeze(target.device)?;
            }
            self.call_freeze(target).map_err(|why| Stopped::Failed(QgaError::generic(why)))?;
            // If it hangs and the agent is killed, the next one knows which.
            self.persist_or_say();
            match self.wait_for_freeze(target.device)? {
                Returned::Freeze(FreezeResult::Frozen, _) => count += 1,
                Returned::Freeze(_, Some(error)) => {
                    return Err(Stopped::Failed(QgaError::generic(error)));
                }
                Returned::Freeze(..) | Returned::Thaw(_) => {}
            }
        }
        Ok(count)
    }

    fn choose(&self, names: Option<&[String]>) -> Result<Vec<Target>, QgaError> {
        let mounts = self.kernel.mounts().map_err(|_| super::no_mount_table())?;
        let targets = choose(&mounts, names)?;
        let dir = self.marker.state_dir();
        match holding_state(&mounts, &targets, dir) {
            Ok(None) => Ok(targets),
            Ok(Some(target)) => Err(QgaError::generic(format!(
                "failed to freeze {}: the agent's state directory {} lies on it (see --statedir)",
                target.path.display(),
                dir.display()
            ))),
            Err(e) => Err(QgaError::generic(format!(
                "failed to resolve state directory {}: {}",
                dir.display(),
                errno::of(&e)
            ))),
        }
    }

    /// Waits for the call for `device`: without end, unless a thaw comes or the deadline passes.
    fn wait_for_freeze(&mut self, device: Device) -> Result<Returned, Stopped> {
        loop {
            match self.receive(None) {
                Ok(Message::Order(Order::Thaw(by), reply)) => match self.may_thaw(&by) {
                    Ok(()) => return Err(Stopped::ByThaw(by, reply)),
                    Err(error) => reply.send(Outcome::Error(error)),
                },
                Ok(Message::Returned(which, returned)) => {
                    self.returned(which, &returned);
                    if which == device {
                        return Ok(returned);
                    }
                }
                Ok(Message::Tick) if self.is_overdue() => return Err(Stopped::ByDeadline),
                Ok(other) => self.put_by(other),
                // The engine holds a sender itself.
                Err(_) => {
                    return Err(Stopped::Failed(QgaError::generic("the agent is ending")));
                }
            }
        }
    }

    /// Why a freeze cannot be begun while another one is in force or under way.
    pub(super) fn refusal(&self, order: &Order) -> QgaError {
        match order {
            Order::Freeze { lease: Some(_), .. } => {
                let owner = match self.record.lease() {
                    Some(owner) => format!("lease '{owner}'"),
                    None => "no lease".to_owned(),
                };
                QgaError::generic(format!("filesystems are frozen already, by {owner}"))
            }
            Order::Freeze { names: Some(_), .. } => {
                QgaError::disabled(GuestFsfreezeFreezeList::INFO.name)
            }
            _ => QgaError::disabled(GuestFsfreezeFreeze::INFO.name),
        }
    }

    fn set_deadline(&mut self) {
        let deadline = self.term.map(|term| self.kernel.now_ms().saturating_add(millis(term)));
        if let Some(freeze) = &mut self.record.freeze {
            freeze.deadline_ms = deadline;
        }
        self.kernel.tick_from(deadline);
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn shown(target: &Target) -> FilesystemFreeze {
    let mountpoint = target.path.to_string_lossy().into_owned();
    FilesystemFreeze { mountpoint, read_only: target.read_only, ..FilesystemFreeze::default() }
}
