//! Each FIFREEZE and FITHAW on a thread of its own.
//!
//! The thread that has frozen a filesystem stays, with the directory open through which it did so.
//! So the filesystem can be thawed even if it was unmounted lazily meanwhile, or something else
//! was mounted over it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use qga_proto::command::{FreezeResult, ThawResult};

use super::{Engine, Message, Returned, STACK, no_mount_table};
use crate::errno;
use crate::freeze::kernel::{Frozen, Kernel, Thawed};
use crate::freeze::mounts::{Device, Target};

/// A call that is in the kernel.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) target: Target,
    since: Instant,
}

impl Call {
    pub(super) fn shown(&self) -> (String, Instant) {
        (self.target.path.display().to_string(), self.since)
    }
}

/// A thread that holds a frozen filesystem.
#[derive(Debug)]
pub(super) struct Held {
    target: Target,
    /// Makes it thaw; dropped, it just lets go.
    release: SyncSender<()>,
}

impl<K: Kernel> Engine<K> {
    pub(super) fn is_in_kernel(&self, device: Device) -> bool {
        self.calls.iter().any(|call| call.target.device == device)
    }

    pub(super) fn call_freeze(&mut self, target: &Target) -> Result<(), String> {
        let (device, wanted) = (target.device, target.clone());
        let (kernel, outbox) = (Arc::clone(&self.kernel), self.outbox.clone());
        let (release, released) = sync_channel(1);
        spawn(&target.path, move || {
            let (result, error, thaw) = match kernel.freeze(&wanted) {
                Frozen::Yes(thaw) => (FreezeResult::Frozen, None, Some(thaw)),
                Frozen::Already => (FreezeResult::AlreadyFrozen, None, None),
                Frozen::Unsupported => (FreezeResult::Unsupported, None, None),
                Frozen::Failed(error) => (FreezeResult::Failed, Some(error), None),
            };
            // The engine, and so the inbox, lives as long as the agent.
            drop(outbox.send(Message::Returned(device, Returned::Freeze(result, error))));
            if let Some(thaw) = thaw
                && released.recv().is_ok()
            {
                drop(outbox.send(Message::Returned(device, Returned::Thaw(thaw()))));
            }
        })?;
        self.held.push(Held { target: target.clone(), release });
        self.begun(target);
        Ok(())
    }

    /// Thaws all of `targets`, and then what was frozen, by this agent or the one before it, and is
    /// mounted nowhere any more.
    pub(super) fn call_all_thaws(&mut self, targets: &[Target]) {
        let mut gone: Vec<_> = self.held.iter().map(|held| held.target.clone()).collect();
        let left = self.record.still_frozen();
        gone.extend(
            left.filter(|one| self.held.iter().all(|held| held.target.device != one.device)),
        );
        gone.retain(|one| targets.iter().all(|target| target.device != one.device));
        for target in targets.iter().chain(&gone) {
            if !self.is_in_kernel(target.device) {
                self.call_thaw(target);
                self.wait(Some(target.device), self.patience.each);
            }
        }
    }

    fn call_thaw(&mut self, target: &Target) {
        let device = target.device;
        let sectors = self.kernel.sectors_written(target);
        let held = self.held.iter().position(|held| held.target.device == device);
        if let Some(held) = held.map(|at| self.held.swap_remove(at)) {
            self.record.thaws_at(&held.target.path, sectors);
            if held.release.try_send(()).is_ok() {
                self.begun(&held.target);
                return;
            }
        }
        self.record.thaws_at(&target.path, sectors);
        let wanted = target.clone();
        let (kernel, outbox) = (Arc::clone(&self.kernel), self.outbox.clone());
        let spawned = spawn(&target.path, move || {
            drop(outbox.send(Message::Returned(device, Returned::Thaw(kernel.thaw(&wanted)))));
        });
        match spawned {
            Ok(()) => self.begun(target),
            Err(why) => self.untried = Some(why),
        }
    }

    fn begun(&mut self, target: &Target) {
        self.calls.push(Call { target: target.clone(), since: Instant::now() });
        let freezing = self.freezing;
        if let Some(filesystem) = self.record.filesystem(&target.path) {
            if freezing {
                filesystem.freeze = FreezeResult::Freezing;
            } else {
                filesystem.thaw = Some(ThawResult::Thawing);
            }
        }
        self.publish();
    }

    /// A call has returned; what it returned goes on record.
    pub(super) fn returned(&mut self, device: Device, returned: &Returned) -> Option<Target> {
        let at = self.calls.iter().position(|call| call.target.device == device)?;
        let target = self.calls.swap_remove(at).target;
        let held = self.record.holds(&target.path);
        if let Returned::Freeze(FreezeResult::Frozen, _) = returned {
            let sectors = self.kernel.sectors_written(&target);
            self.record.froze_at(&target.path, sectors);
        }
        if let Some(filesystem) = self.record.filesystem(&target.path) {
            match returned {
                Returned::Freeze(result, error) => {
                    filesystem.freeze = *result;
                    filesystem.error.clone_from(error);
                }
                Returned::Thaw(Thawed::Yes) => filesystem.thaw = Some(ThawResult::Thawed),
                Returned::Thaw(Thawed::OutOfReach(why)) if held => {
                    filesystem.thaw = None;
                    filesystem.error = Some(why.clone());
                }
                Returned::Thaw(_) => filesystem.thaw = Some(ThawResult::NotFrozen),
            }
        }
        if !matches!(returned, Returned::Freeze(FreezeResult::Frozen, _)) {
            self.held.retain(|held| held.target.device != device);
        }
        self.publish();
        Some(target)
    }

    /// A call has returned that a thaw, or nobody, waits for.
    pub(super) fn note(&mut self, device: Device, returned: &Returned) {
        let Some(target) = self.returned(device, returned) else { return };
        match returned {
            Returned::Freeze(..) => self.call_thaw(&target),
            Returned::Thaw(Thawed::Yes) => self.thawed += 1,
            Returned::Thaw(Thawed::OutOfReach(why)) if self.record.holds(&target.path) => {
                self.untried = Some(why.clone());
            }
            // What this freeze has not frozen is no matter of it.
            Returned::Thaw(_) => {}
        }
    }

    /// Whatever the last agent froze last it froze behind the back of a thaw.
    pub(super) fn predecessor_gone(&mut self, thawing: bool) {
        self.predecessor = false;
        if thawing {
            match self.kernel.mounts() {
                Ok(mounts) => self.call_all_thaws(&mounts.targets()),
                Err(_) => self.untried = Some(no_mount_table().desc),
            }
        }
        self.publish();
    }
}

/// Where threads are listed, this one says which filesystem it is stuck on.
fn spawn(path: &Path, call: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let mount_point = path.file_name().unwrap_or(path.as_os_str());
    std::thread::Builder::new()
        .name(format!("fs:{}", mount_point.to_string_lossy().replace('\0', "")))
        .stack_size(STACK)
        .spawn(call)
        .map(drop)
        .map_err(|e| format!("failed to start a thread: {}", errno::of(&e)))
}
