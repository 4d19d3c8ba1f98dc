//! A VM that the gateway does not know, after a restart: its lease waits for it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Order, Orders, Seat};
use crate::vm::call::CallError;
use crate::vm::handle::VmHandle;
use crate::vm::lease::{LeaseState, ThawCause, Verdict};
use crate::vm::link::{LinkState, LinkStatus};

const LOOK: Duration = Duration::from_millis(250);

/// Waits until the VM is known. `None`: it was given up, or its keeper is gone.
pub(super) async fn wait(seat: &Seat, orders: &mut Orders) -> Option<VmHandle> {
    let since = Instant::now();
    let link = LinkStatus {
        state: LinkState::Absent,
        reason: Some("the gateway does not know this VM: neither configured nor discovered".into()),
        since: std::time::SystemTime::now(),
    };
    let change = |change: &dyn Fn(&mut crate::vm::lease::Member)| {
        seat.table.change_member(&seat.lease, seat.index, change);
    };
    let mut told = false;
    loop {
        if let Some(vm) = seat.table.vm(&seat.vm) {
            return Some(vm);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                vm.id = %seat.vm, lease.id = %seat.lease,
                "{}: held by {}, and not there", seat.vm, seat.lease
            );
            change(&|member| {
                member.state = LeaseState::Orphaned;
                member.note("the VM was not there when the gateway was back".into());
            });
        }
        tokio::select! {
            order = orders.recv() => match order? {
                Order::Thaw { told, .. } | Order::Renew { told, .. } => {
                    let _ = told.send(Err(CallError::Unavailable { link: link.clone() }));
                }
                Order::Freeze { .. } => {}
            },
            () = sleep(LOOK) => {}
        }
        let overdue = seat.table.is_overdue(&seat.lease);
        if overdue && since.elapsed() >= seat.table.orphan_bound() {
            change(&|member| {
                member.thaw_cause = Some(ThawCause::Expired);
                member.verdict = Some(Verdict::Lost);
                member.note("the VM went away and did not come back".into());
            });
            return None;
        }
    }
}
