//! Each FIFREEZE and FITHAW on a thread of its own.
//!
//! The thread that has frozen a filesystem stays, with the directory open through which it did so.
//! So the filesystem can be thawed even if it was unmounted lazily meanwhile, or something else
//! was mounted over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use qga_proto::command::{FreezeResult, ThawResult};

use super::{Engine, Message, Returned, STACK, no_mount_table};
use crate::errno;
use crate::freeze::kernel::{Frozen, Kernel};
use crate::freeze::mounts::{Device, Target};

/// A call that is in the kernel.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) device: Device,
    pub(super) path: PathBuf,
    since: Instant,
}

impl Call {
    pub(super) fn shown(&self) -> (String, Instant) {
        (self.path.display().to_string(), self.since)
    }
}

/// A thread that holds a frozen filesystem.
#[derive(Debug)]
pub(super) struct Held {
    device: Device,
    path: PathBuf,
    /// Makes it thaw; dropped, it just lets go.
    release: SyncSender<()>,
}

impl<K: Kernel> Engine<K> {
    pub(super) fn is_in_kernel(&self, device: Device) -> bool {
        self.calls.iter().any(|call| call.device == device)
    }

    pub(super) fn call_freeze(&mut self, target: &Target) -> Result<(), String> {
        let (device, path) = (target.device, target.path.clone());
        let (kernel, outbox) = (Arc::clone(&self.kernel), self.outbox.clone());
        let (release, released) = sync_channel(1);
        spawn(&target.path, move || {
            let (result, error, thaw) = match kernel.freeze(&path) {
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
        self.held.push(Held { device, path: target.path.clone(), release });
        self.begun(device, &target.path);
        Ok(())
    }

    /// Thaws all of `targets`, and then what was frozen and is mounted nowhere any more.
    pub(super) fn call_all_thaws(&mut self, targets: &[Target]) {
        let is_gone = |held: &&Held| targets.iter().all(|target| target.device != held.device);
        let gone: Vec<_> = self
            .held
            .iter()
            .filter(is_gone)
            .map(|held| Target { device: held.device, path: held.path.clone() })
            .collect();
        for target in targets.iter().chain(&gone) {
            if !self.is_in_kernel(target.device) {
                self.call_thaw(target);
                self.wait(Some(target.device), self.patience.each);
            }
        }
    }

    fn call_thaw(&mut self, target: &Target) {
        let device = target.device;
        let held = self.held.iter().position(|held| held.device == device);
        if let Some(held) = held.map(|at| self.held.swap_remove(at))
            && held.release.try_send(()).is_ok()
        {
            self.begun(device, &held.path);
            return;
        }
        let path = target.path.clone();
        let (kernel, outbox) = (Arc::clone(&self.kernel), self.outbox.clone());
        let spawned = spawn(&target.path, move || {
            drop(outbox.send(Message::Returned(device, Returned::Thaw(kernel.thaw(&path)))));
        });
        match spawned {
            Ok(()) => self.begun(device, &target.path),
            Err(why) => self.untried = Some(why),
        }
    }

    fn begun(&mut self, device: Device, path: &Path) {
        self.calls.push(Call { device, path: path.to_owned(), since: Instant::now() });
        let freezing = self.freezing;
        if let Some(filesystem) = self.record.filesystem(path) {
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
        let at = self.calls.iter().position(|call| call.device == device)?;
        let path = self.calls.swap_remove(at).path;
        if let Some(filesystem) = self.record.filesystem(&path) {
            match returned {
                Returned::Freeze(result, error) => {
                    filesystem.freeze = *result;
                    filesystem.error.clone_from(error);
                }
                Returned::Thaw(true) => filesystem.thaw = Some(ThawResult::Thawed),
                Returned::Thaw(false) => filesystem.thaw = Some(ThawResult::NotFrozen),
            }
        }
        if !matches!(returned, Returned::Freeze(FreezeResult::Frozen, _)) {
            self.held.retain(|held| held.device != device);
        }
        self.publish();
        Some(Target { device, path })
    }

    /// A call has returned that a thaw, or nobody, waits for.
    pub(super) fn note(&mut self, device: Device, returned: &Returned) {
        let Some(target) = self.returned(device, returned) else { return };
        match returned {
            Returned::Freeze(..) => self.call_thaw(&target),
            Returned::Thaw(thawed) => self.thawed += u64::from(*thawed),
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
