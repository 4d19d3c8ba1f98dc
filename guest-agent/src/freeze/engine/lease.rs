//! Whose freeze it is, and until when.

use qga_proto::command::{THAWED_AUTOMATICALLY, ThawCause};
use qga_proto::{Outcome, QgaError};

use super::Engine;
use super::freezing::millis;
use crate::freeze::kernel::Kernel;
use crate::freeze::order::{By, Lease, Term};
use crate::freeze::phase::Phase;
use crate::freeze::record::Thaw;
use crate::log;
use crate::worker::Reply;

impl<K: Kernel> Engine<K> {
    /// Whether there is a freeze that `by` may end. Anybody may, except under a lease's name.
    pub(super) fn may_thaw(&self, by: &By) -> Result<(), QgaError> {
        match by {
            By::Client | By::Ending => Ok(()),
            By::Lease(lease) => self.owns(lease),
        }
    }

    fn owns(&self, lease: &Lease) -> Result<(), QgaError> {
        let lease = lease.as_str();
        if self.entered || self.freezing {
            return match self.record.lease() {
                Some(owner) if owner == lease => Ok(()),
                Some(owner) => Err(QgaError::generic(format!(
                    "the freeze is owned by lease '{owner}', not by '{lease}'"
                ))),
                None => Err(QgaError::generic(format!(
                    "the freeze is owned by no lease, so not by '{lease}'"
                ))),
            };
        }
        match &self.record.last_thaw {
            Some(thaw) if thaw.lease.as_deref() == Some(lease) => Err(self.ended(thaw)),
            _ => Err(QgaError::generic(format!("nothing is frozen by lease '{lease}'"))),
        }
    }

    /// What to say to whom may still believe in a freeze that is over.
    fn ended(&self, thaw: &Thaw) -> QgaError {
        let seconds = self.kernel.now_ms().saturating_sub(thaw.at_ms) / 1000;
        let thawed = match thaw.cause.is_automatic() {
            true => THAWED_AUTOMATICALLY,
            false => "filesystems were thawed",
        };
        QgaError::generic(format!("{thawed} {seconds} s ago ({})", thaw.cause.as_str()))
    }

    /// What a thaw has to be told once after an automatic one.
    pub(super) fn tell(&mut self) -> Option<QgaError> {
        let thaw = self.record.last_thaw.as_mut().filter(|thaw| thaw.untold)?;
        thaw.untold = false;
        let told = thaw.clone();
        self.persist_or_say();
        Some(self.ended(&told))
    }

    pub(super) fn renew(&mut self, lease: &Lease, term: Term, reply: Reply) {
        reply.send(match self.try_renew(lease, term) {
            Ok(()) => Outcome::value(&self.report.renewal(&self.record, self.kernel.now_ms())),
            Err(error) => Outcome::Error(error),
        });
    }

    fn try_renew(&mut self, lease: &Lease, term: Term) -> Result<(), QgaError> {
        self.owns(lease)?;
        let term = match term {
            Term::Default => self.settings.deadline,
            Term::Unlimited => None,
            Term::Of(term) => Some(term),
        };
        let deadline = term.map(|term| self.kernel.now_ms().saturating_add(millis(term)));
        let Some(freeze) = self.record.freeze.as_mut().filter(|freeze| freeze.cause.is_none())
        else {
            return Err(QgaError::generic("filesystems are being thawed"));
        };
        let before = std::mem::replace(&mut freeze.deadline_ms, deadline);
        if let Err(error) = self.persist() {
            if let Some(freeze) = &mut self.record.freeze {
                freeze.deadline_ms = before;
            }
            self.publish();
            return Err(error);
        }
        self.term = term;
        self.kernel.tick_from(deadline);
        Ok(())
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.record.deadline_ms().is_some_and(|deadline| deadline <= self.kernel.now_ms())
    }

    /// Thaws what is overdue. What is stuck in the kernel is thawed when it comes back.
    pub(super) fn tick(&mut self) {
        if !self.entered || !self.is_overdue() {
            return;
        }
        if self.stuck && self.untried.is_none() {
            self.kernel.tick_from(None);
            return;
        }
        log::warning(format_args!("the freeze has passed its deadline"));
        self.phase.set(Phase::Thawing);
        if let Err(error) = self.thaw_all(ThawCause::Deadline) {
            log::critical(format_args!("{error}"));
        }
    }
}
