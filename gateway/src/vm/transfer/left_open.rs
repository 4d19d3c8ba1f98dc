//! Handles of transfers of a gateway that was killed: closed as soon as their guest answers.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::closing::GuestFile;
use crate::store::LeftOpen;
use crate::vm::handle::VmHandle;
use crate::vm::open_files::Whose;
use crate::vm::{Registry, VmId};

/// For how long a VM and its guest are waited for.
const BOUND: Duration = Duration::from_secs(600);

/// How long one of them may take to answer, and the pause between two tries.
const PATIENCE: Duration = Duration::from_secs(5);

/// Closes what is left of the gateway before this one, each VM's by itself.
pub(crate) fn close_left_open(registry: &Registry, left: &[LeftOpen]) {
    for of_vm in left.chunk_by(|one, next| one.vm == next.vm) {
        let (registry, of_vm) = (registry.clone(), of_vm.to_vec());
        tokio::spawn(async move {
            let Some(first) = of_vm.first() else { return };
            let vm = answering(&registry, &first.vm).await;
            for file in of_vm {
                close(&registry, vm.as_ref(), &file);
            }
        });
    }
}

/// The VM, once its guest has answered: only then it is known which one it is.
async fn answering(registry: &Registry, id: &VmId) -> Option<VmHandle> {
    let until = Instant::now() + BOUND;
    while Instant::now() < until {
        let Some(vm) = registry.get(id) else {
            sleep(PATIENCE).await;
            continue;
        };
        let mut link = vm.link_changes();
        if vm.resync(PATIENCE).await.is_ok() {
            return Some(vm);
        }
        let _ = timeout(PATIENCE, link.changed()).await;
    }
    None
}

/// Agents number on, so that a number which nobody has by now is that of then.
fn close(registry: &Registry, vm: Option<&VmHandle>, left: &LeftOpen) {
    let (id, handle) = (&left.vm, left.handle);
    let same = |vm: &&VmHandle| {
        vm.incarnation() == Some(left.process)
            && matches!(vm.open_files().whose(handle), Whose::Nobodys | Whose::Untold)
    };
    match vm.filter(same) {
        Some(vm) => {
            tracing::info!(
                vm.id = %id,
                "{id}: file handle {handle}, of a transfer of the gateway before this one, is closed"
            );
            drop(GuestFile::left_open(vm, handle));
        }
        None => registry.settings().handle_closed(id, handle),
    }
}
