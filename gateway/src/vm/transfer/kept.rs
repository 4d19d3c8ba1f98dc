//! Uploads that can be gone on with: those whose sender went away, and those under way, which
//! their sender may believe to be broken.
//!
//! ```text
//!   claim ──▶ active ── broken off ──▶ kept ── taken, or its time is over ──▶ gone
//!               │  ▲                     │
//!               │  └──── gone on with ───┘
//!               └── taken over: it is broken off, and kept
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::upload::Writer;
use super::{Beneath, Digests, GuestPath, TransferError};
use crate::principal::Principal;
use crate::vm::VmId;
use crate::vm::handle::VmHandle;
use crate::vm::share::{Own, Taken};

/// How long an upload that is taken over may take to be put aside: its last chunks are answered.
const HAND_OVER: Duration = Duration::from_secs(35);

/// Whose upload it is, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct UploadKey {
    pub(crate) principal: Principal,
    pub(crate) vm: VmId,
    pub(crate) path: GuestPath,
    /// What it was held below when it began: who may do less by now does not go on with it.
    pub(crate) beneath: Beneath,
}

/// What there is of an upload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partial {
    /// Up to where the guest has it.
    pub(crate) received: u64,
    /// Until when it is kept; none while it goes on.
    pub(crate) expires: Option<SystemTime>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    uploads: Mutex<Uploads>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Uploads {
    next: u64,
    by_key: HashMap<UploadKey, (u64, State)>,
}

#[derive(Debug)]
enum State {
    Active { received: Arc<AtomicU64>, taken_over: CancellationToken },
    Kept { writer: Box<Writer>, expires: SystemTime },
}

/// The place of an upload under way.
#[derive(Debug)]
pub(super) struct Claim {
    key: UploadKey,
    number: u64,
    vm: VmHandle,
    /// It stays, without its sender.
    kept: bool,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut self.lock().by_key);
        drop(all);
    }

    fn remove(&self, key: &UploadKey, number: u64) {
        let mut uploads = self.lock();
        let gone = match uploads.by_key.get(key) {
            Some((current, _)) if *current == number => uploads.by_key.remove(key),
            _ => None,
        };
        drop(uploads);
        drop(gone);
        self.changed.notify_waiters();
    }
}

/// What there is of an upload, for its sender.
pub(crate) fn partial(vm: &VmHandle, key: &UploadKey) -> Option<Partial> {
    let uploads = vm.settings().transfers.kept.lock();
    Some(match &uploads.by_key.get(key)?.1 {
        State::Active { received, .. } => {
            Partial { received: received.load(Ordering::Relaxed), expires: None }
        }
        State::Kept { writer, expires } => {
            Partial { received: writer.received(), expires: Some(*expires) }
        }
    })
}

/// Takes what was kept under this key, to go on with it from `offset`. One that is under way is
/// broken off for it.
pub(super) async fn take(
    vm: &VmHandle,
    key: &UploadKey,
    offset: u64,
    digests: &Digests,
) -> Result<Box<Writer>, TransferError> {
    let kept = &vm.settings().transfers.kept;
    let until = Instant::now() + HAND_OVER;
    loop {
        let changed = kept.changed.notified();
        if let Some(taken) = kept.lock().take(key, offset, digests) {
            return taken;
        }
        if timeout_at(until, changed).await.is_err() {
            let received = partial(vm, key).map_or(0, |partial| partial.received);
            return Err(TransferError::OtherOffset { received });
        }
    }
}

impl Uploads {
    /// What is kept, of everybody and of this one's principal and VM.
    fn kept_beside(&self, key: &UploadKey) -> Taken {
        let mut taken = Taken { principal: Some(Own::default()), ..Taken::default() };
        let kept = self.by_key.iter().filter(|(_, (_, s))| matches!(s, State::Kept { .. }));
        for (other, _) in kept {
            taken.add(other.vm == key.vm, other.principal == key.principal);
        }
        taken
    }

    /// Nothing, if it has to be waited for.
    fn take(
        &mut self,
        key: &UploadKey,
        offset: u64,
        digests: &Digests,
    ) -> Option<Result<Box<Writer>, TransferError>> {
        let received = match self.by_key.get(key) {
            None => 0,
            Some((_, State::Active { taken_over, .. })) => {
                taken_over.cancel();
                return None;
            }
            Some((_, State::Kept { writer, .. })) => {
                if !writer.digests.covers(digests) {
                    return Some(Err(TransferError::LateDigest));
                }
                writer.received()
            }
        };
        if received == offset
            && let Some((_, State::Kept { writer, .. })) = self.by_key.remove(key)
        {
            return Some(Ok(writer));
        }
        Some(Err(TransferError::OtherOffset { received }))
    }
}

impl Claim {
    /// An upload begins; what was kept of one before it is let go.
    pub(super) fn new(
        vm: &VmHandle,
        key: UploadKey,
        received: Arc<AtomicU64>,
        taken_over: CancellationToken,
    ) -> Self {
        let mut uploads = vm.settings().transfers.kept.lock();
        uploads.next += 1;
        let number = uploads.next;
        let state = State::Active { received, taken_over };
        let before = uploads.by_key.insert(key.clone(), (number, state));
        drop(uploads);
        // Its handle is closed without the lock.
        drop(before);
        Self { key, number, vm: vm.clone(), kept: false }
    }

    /// The sender has gone: what is there is kept for a while, if there is room.
    pub(super) fn keep(mut self, mut writer: Writer) {
        let limits = self.vm.settings().limits();
        let transfers = &self.vm.settings().transfers;
        let mut uploads = transfers.kept.lock();
        let room = uploads.kept_beside(&self.key).room(limits.uploads_kept).is_ok()
            && !transfers.stopping().is_cancelled();
        if !room || writer.received() == 0 || !writer.file.rest() {
            return;
        }
        // Somebody may have begun afresh meanwhile.
        let entry = uploads.by_key.get_mut(&self.key).filter(|(number, _)| *number == self.number);
        let Some((_, state)) = entry else { return };
        let expires = SystemTime::now() + limits.upload_resume;
        *state = State::Kept { writer: Box::new(writer), expires };
        drop(uploads);
        transfers.kept.changed.notify_waiters();
        self.kept = true;
        let (key, number, vm) = (self.key.clone(), self.number, self.vm.clone());
        tokio::spawn(async move {
            sleep(limits.upload_resume).await;
            vm.settings().transfers.kept.remove(&key, number);
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            self.vm.settings().transfers.kept.remove(&self.key, self.number);
        }
    }
}
