//! Runs keepers, and should one ever panic, has another take over from what the table holds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Reply;
use super::controls::Controls;
use super::keeper::Keeper;
use super::table::Table;
use crate::vm::handle::VmHandle;
use crate::vm::lease::{Lease, LeaseId, ThawCause};

/// Before the next keeper takes over: a defect must not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(200);

/// How a keeper begins.
pub(super) enum Start {
    /// Freeze these; they are told when the lease is on disk, and how it came out.
    Freeze { vms: Vec<VmHandle>, begun: oneshot::Sender<Lease>, told: Reply },
    /// Thaw what this lease never froze.
    Force { vms: Vec<VmHandle>, cause: ThawCause, told: Reply },
    /// Go on from what the table holds.
    Resume,
}

pub(super) fn spawn(table: Arc<Table>, id: LeaseId, controls: Controls, start: Start) {
    let keeper = Keeper::new(table.clone(), id.clone(), controls);
    let mut running = tokio::spawn(keeper.run(start));
    tokio::spawn(async move {
        while let Err(error) = running.await {
            if !error.is_panic() {
                return;
            }
            tracing::error!(
                lease.id = %id,
                "{id}: its keeper panicked, which is a defect; another takes over"
            );
            tokio::time::sleep(PAUSE).await;
            let Some(controls) = table.reattach(&id) else { return };
            let keeper = Keeper::new(table.clone(), id.clone(), controls);
            running = tokio::spawn(keeper.run(Start::Resume));
        }
    });
}
