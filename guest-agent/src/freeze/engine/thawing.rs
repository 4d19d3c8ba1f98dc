//! A thaw, from the order or the deadline to its answer.

use std::time::{Duration, Instant};

use qga_proto::command::ThawCause;
use qga_proto::{Outcome, QgaError};

use super::{Engine, no_mount_table};
use crate::freeze::kernel::Kernel;
use crate::freeze::mounts::Device;
use crate::freeze::order::By;
use crate::freeze::phase::Phase;
use crate::freeze::record::{Stage, Thaw};
use crate::log;
use crate::worker::Reply;

impl<K: Kernel> Engine<K> {
    pub(super) fn thaw(&mut self, by: &By, reply: Reply) {
        log::info(format_args!("guest-fsthaw called"));
        if let Err(error) = self.may_thaw(by) {
            self.stay_frozen();
            return reply.send(Outcome::Error(error));
        }
        if !self.entered
            && *by == By::Client
            && let Some(error) = self.tell()
        {
            return reply.send(Outcome::Error(error));
        }
        if self.entered {
            self.phase.set(Phase::Thawing);
        }
        let outcome = self.thaw_all(match by {
            By::Client => ThawCause::Requested,
            By::Lease(_) => ThawCause::Lease,
            By::Ending => ThawCause::Stopped,
        });
        let outcome = outcome.and_then(|count| match self.tell() {
            // The deadline had passed, and only a stuck filesystem kept the freeze from its end.
            Some(error) if *by != By::Ending => Err(error),
            _ => Ok(count),
        });
        reply.send(match (outcome, by) {
            (Ok(count), By::Lease(_)) => {
                Outcome::value(&self.report.leased_thaw(&self.record, count))
            }
            (Ok(count), _) => Outcome::value(&count),
            (Err(error), _) => Outcome::Error(error),
        });
    }

    /// Thaws everything, and leaves the frozen state unless one of them is stuck.
    pub(super) fn thaw_all(&mut self, cause: ThawCause) -> Result<u64, QgaError> {
        let cause = self.cause_or(cause);
        let ends_freeze = self.entered;
        self.stuck = false;
        self.untried = None;
        if !ends_freeze {
            self.thawed = 0;
            self.hook_error = None;
            // As qemu-ga's, a thaw of nothing runs it.
            self.hook_due = true;
        }
        // While the hook runs, nothing is frozen yet, and what others froze is not ours.
        if self.record.stage() != Some(Stage::Hook) {
            let Ok(mounts) = self.kernel.mounts() else {
                self.stay_frozen();
                return Err(no_mount_table());
            };
            self.call_all_thaws(&mounts.targets());
            self.wait(None, self.patience.all);
        }
        if !self.all_thawed() {
            self.stuck = ends_freeze;
            self.stay_frozen();
            if std::mem::take(&mut self.hook_due) {
                self.run_thaw_hook();
            }
        }
        if !self.all_thawed() {
            return Err(self.not_all_thawed());
        }
        if ends_freeze {
            self.leave(Some(cause));
        } else if std::mem::take(&mut self.hook_due) {
            self.run_thaw_hook();
        }
        self.hook_error.clone().map_or(Ok(self.thawed), Err)
    }

    /// The first cause of a freeze's end is the one that counts.
    fn cause_or(&mut self, cause: ThawCause) -> ThawCause {
        match &mut self.record.freeze {
            Some(freeze) => *freeze.cause.get_or_insert(cause),
            None => cause,
        }
    }

    pub(super) fn all_thawed(&self) -> bool {
        self.calls.is_empty() && !self.predecessor && self.untried.is_none()
    }

    fn not_all_thawed(&self) -> QgaError {
        let thawed = self.thawed;
        QgaError::generic(if let Some(why) = &self.untried {
            format!("failed to thaw: {why}; thawed {thawed} filesystems")
        } else {
            let mut stuck: Vec<_> =
                self.calls.iter().map(|call| call.target.path.display().to_string()).collect();
            if self.predecessor {
                stuck.push("what the previous agent was freezing".to_owned());
            }
            format!(
                "failed to thaw {}: busy in the kernel, it will be thawed as soon as that ends; \
                 thawed {thawed} filesystems",
                stuck.join(", ")
            )
        })
    }

    /// A call has returned: perhaps the last one that a thaw has left behind.
    pub(super) fn leave_if_last(&mut self) {
        if self.stuck && self.all_thawed() {
            let cause = self.cause_or(ThawCause::Requested);
            self.leave(Some(cause));
        }
    }

    /// Waits until the call for `device` has returned, or all of them, or `patience` is over.
    /// Orders have to wait.
    pub(super) fn wait(&mut self, device: Option<Device>, patience: Duration) {
        let deadline = Instant::now() + patience;
        while match device {
            Some(device) => self.is_in_kernel(device),
            None => !self.calls.is_empty() || self.predecessor,
        } {
            match self.receive(Some(deadline)) {
                Ok(message) => self.put_by(message),
                Err(_) => return,
            }
        }
    }

    /// The freeze is over, with its hook; the marker goes.
    pub(super) fn settle(&mut self, cause: Option<ThawCause>, faults: &mut Vec<QgaError>) {
        let freeze = self.record.freeze.take();
        if let Some(cause) = cause {
            self.record.last_thaw = Some(Thaw {
                cause,
                at_ms: self.kernel.now_ms(),
                generation: self.record.generation,
                lease: freeze.and_then(|freeze| freeze.lease),
                count: self.thawed,
                hook_error: self.hook_error.as_ref().map(|error| error.desc.clone()),
                untold: cause.is_automatic(),
            });
        }
        faults.extend(self.persist().err());
        if let Err(e) = self.marker.remove() {
            let path = self.marker.path().display();
            let e = crate::errno::of(&e);
            faults.push(QgaError::generic(format!("unable to remove {path}: {e}")));
        }
    }
}
