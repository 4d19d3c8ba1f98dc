//! What the agent before this one left behind.

use qga_proto::command::ThawCause;

use super::{Engine, Message, STACK, lock_memory};
use crate::freeze::kernel::Kernel;
use crate::freeze::phase::Phase;
use crate::freeze::predecessor;
use crate::freeze::record::{Record, Stage};
use crate::log;

impl<K: Kernel> Engine<K> {
    /// Takes up the record. It happens before the first client can ask for it.
    pub(in crate::freeze) fn load(&mut self) {
        self.record = self.store.load().unwrap_or_default();
        let boot_id = self.report.identity().boot_id.clone();
        self.other_boot = self.record.boot_id != boot_id;
        if self.other_boot {
            // Its times mean nothing.
            self.record.last_thaw = None;
            self.record.devices.clear();
        }
        // qemu-ga leaves an empty marker, and knows nothing of the record.
        self.resumes = self.entered && self.marker.is_ours();
        if !self.resumes {
            self.record = Record {
                generation: self.record.generation,
                last_thaw: self.record.last_thaw.take(),
                ..Record::default()
            };
        }
        self.record.boot_id = boot_id;
        if self.entered && !matches!(self.record.stage(), Some(Stage::Hook | Stage::ThawHook)) {
            self.left_behind = self.marker.predecessor();
            self.predecessor = self.left_behind.is_some();
        }
        self.publish();
    }

    /// Goes on where the last agent stopped: a freeze that is in force stays so until its
    /// deadline; one that cannot be is ended.
    pub(super) fn resume(&mut self) {
        if !self.resumes {
            if self.entered {
                self.take_over();
            }
            return;
        }
        self.hook_due = self.settings.hook.is_some();
        let freeze = self.record.freeze.as_ref();
        match freeze.map(|freeze| (freeze.stage, freeze.cause)) {
            // It was killed before it could remove the marker.
            None => {
                self.hook_due = false;
                self.predecessor = false;
                self.leave(None);
            }
            Some((Stage::ThawHook, cause)) => self.leave(cause),
            Some((Stage::Hook, _)) => self.leave(Some(ThawCause::Restart)),
            Some(_) if self.other_boot => {
                log::warning(format_args!("the freeze on record is of another boot"));
                self.phase.set(Phase::Thawing);
                if let Err(error) = self.thaw_all(ThawCause::Restart) {
                    log::critical(format_args!("{error}"));
                }
            }
            Some(_) => {
                self.take_over();
                self.kernel.tick_from(self.record.deadline_ms());
                self.tick();
            }
        }
    }

    fn take_over(&mut self) {
        self.hook_due = self.settings.hook.is_some();
        lock_memory();
        self.watch_predecessor();
        self.publish();
    }

    fn watch_predecessor(&mut self) {
        let Some(process) = self.left_behind.take() else { return };
        let outbox = self.outbox.clone();
        let watching = std::thread::Builder::new()
            .name("predecessor".into())
            .stack_size(STACK)
            .spawn(move || {
                predecessor::wait(&process);
                drop(outbox.send(Message::PredecessorGone));
            });
        self.predecessor = watching.is_ok();
    }
}
