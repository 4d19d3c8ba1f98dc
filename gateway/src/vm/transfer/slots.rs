//! How many transfers there are, and the handles that are left to be closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::TransferError;
use super::kept::Kept;
use super::places::Places;
use crate::principal::Principal;
use crate::vm::VmId;
use crate::vm::handle::VmHandle;
use crate::vm::share::{Own, Taken};

/// Handles that are being closed on one VM. A guest that does not let them go has its own bound.
const MOST_CLOSING: usize = 64;

/// All transfers, of all VMs.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    counts: Mutex<Counts>,
    pub(super) kept: Kept,
    pub(super) places: Arc<Places>,
    stopping: CancellationToken,
    fewer: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    /// Transfers under way.
    open: Vec<(VmId, Principal)>,
    vms: HashMap<VmId, Count>,
}

#[derive(Debug, Default)]
struct Count {
    open: usize,
    closing: usize,
}

/// One transfer's place among them.
#[derive(Debug)]
pub(super) struct Slot {
    vm: VmHandle,
    owner: Principal,
    closing: bool,
}

impl Transfers {
    /// Room for one more transfer on this VM, of this principal's.
    pub(super) fn begin(vm: &VmHandle, owner: &Principal) -> Result<Slot, TransferError> {
        let transfers = &vm.settings().transfers;
        if transfers.stopping.is_cancelled() {
            return Err(TransferError::Stopping);
        }
        let limits = vm.settings().limits();
        let mut counts = transfers.lock();
        let by_vm = counts.vms.get(vm.id()).map_or(0, |count| count.open);
        if by_vm >= limits.transfers_vm {
            return Err(TransferError::TooManyOfVm { limit: limits.transfers_vm });
        }
        let mut taken = Taken { principal: Some(Own::default()), ..Taken::default() };
        for (id, other) in &counts.open {
            taken.add(id == vm.id(), other == owner);
        }
        taken
            .room(limits.transfers)
            .map_err(|full| TransferError::TooMany { limit: limits.transfers, full })?;
        counts.vms.entry(vm.id().clone()).or_default().open += 1;
        counts.open.push((vm.id().clone(), owner.clone()));
        drop(counts);
        Ok(Slot { vm: vm.clone(), owner: owner.clone(), closing: false })
    }

    /// The handle of a transfer that is over.
    pub(super) fn left_open(vm: &VmHandle) -> Slot {
        let mut counts = vm.settings().transfers.lock();
        counts.vms.entry(vm.id().clone()).or_default().closing += 1;
        Slot { vm: vm.clone(), owner: Principal::new("gateway"), closing: true }
    }

    /// Cancelled when transfers are to end.
    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Ends all transfers and waits until their handles are closed, for a while.
    pub(crate) async fn end(&self, patience: Duration) {
        self.stopping.cancel();
        self.kept.clear();
        let until = Instant::now() + patience;
        loop {
            let fewer = self.fewer.notified();
            if self.lock().vms.is_empty() || timeout_at(until, fewer).await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// A transfer of this principal's is over.
    fn ended(&mut self, vm: &VmId, owner: &Principal) {
        if let Some(at) = self.open.iter().position(|(id, who)| id == vm && who == owner) {
            self.open.swap_remove(at);
        }
    }
}

impl Slot {
    /// The transfer is over, and only its handle is left. False: too many are, it is given up.
    pub(super) fn close(&mut self) -> bool {
        let mut counts = self.vm.settings().transfers.lock();
        let count = counts.vms.entry(self.vm.id().clone()).or_default();
        if self.closing {
            return true;
        }
        if count.closing >= MOST_CLOSING {
            return false;
        }
        count.open -= 1;
        count.closing += 1;
        counts.ended(self.vm.id(), &self.owner);
        drop(counts);
        self.closing = true;
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let transfers = &self.vm.settings().transfers;
        let mut counts = transfers.lock();
        let id = self.vm.id();
        if let Some(count) = counts.vms.get_mut(id) {
            if self.closing {
                count.closing -= 1;
            } else {
                count.open -= 1;
            }
            if count.open + count.closing == 0 {
                counts.vms.remove(id);
            }
        }
        if !self.closing {
            counts.ended(id, &self.owner);
        }
        drop(counts);
        transfers.fewer.notify_waiters();
    }
}
