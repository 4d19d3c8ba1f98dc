//! Waiting for a guest that stands still: frozen, paused, or busy with what came first.

use std::time::Duration;

use qga_proto::command::{Command as _, CommandInfo, FsfreezeStatus, GuestFsfreezeStatus};
use tokio::time::{Instant, timeout};

use super::TransferError;
use crate::vm::call::CallError;
use crate::vm::handle::VmHandle;
use crate::vm::link::LinkState;

/// How often a guest is asked whether it is thawed, where nobody tells.
const PAUSE: Duration = Duration::from_secs(1);

/// Refusals by a guest that says it is thawed: more than one can be a freeze that came and went.
const MOST_REFUSALS: u32 = 3;

/// How long a transfer waits, from its last progress on.
#[derive(Debug)]
pub(super) struct Patience {
    vm: VmHandle,
    since: Option<Instant>,
    refusals: u32,
}

impl Patience {
    pub(super) fn new(vm: &VmHandle) -> Self {
        Self { vm: vm.clone(), since: None, refusals: 0 }
    }

    /// There is progress.
    pub(super) fn renew(&mut self) {
        (self.since, self.refusals) = (None, 0);
    }

    /// Waits until the guest moves again, if it does not now.
    pub(super) async fn moving(&mut self) -> Result<(), TransferError> {
        if self.is_needed() { self.stands_still().await } else { Ok(()) }
    }

    /// Whether the guest stands still, as far as is known.
    pub(super) fn is_needed(&self) -> bool {
        let link = &self.vm.shared().link;
        link.is_paused() || link.state() == LinkState::Frozen
    }

    /// After a command that certainly did nothing: waits until it may be sent again. Any other
    /// failure is given back.
    pub(super) async fn wait(
        &mut self,
        command: &'static CommandInfo,
        error: CallError,
    ) -> Result<(), TransferError> {
        let waits = match &error {
            CallError::TimedOut { sent: false, .. } | CallError::QueueFull => true,
            CallError::Unavailable { link } => {
                matches!(link.state, LinkState::Frozen | LinkState::Paused)
            }
            CallError::Agent(error) if error.is_disabled() => {
                self.refusals += 1;
                self.refusals <= MOST_REFUSALS
            }
            _ => false,
        };
        if waits {
            self.stands_still().await
        } else {
            Err(TransferError::Call { command, source: error })
        }
    }

    async fn stands_still(&mut self) -> Result<(), TransferError> {
        let limit = self.vm.settings().limits().transfer_pause;
        let until = *self.since.get_or_insert_with(Instant::now) + limit;
        let mut link = self.vm.link_changes();
        loop {
            let state = link.borrow_and_update().state;
            if Instant::now() >= until {
                return Err(TransferError::Halted { after: limit });
            }
            if state != LinkState::Paused {
                let info = &GuestFsfreezeStatus::INFO;
                match self.vm.call(GuestFsfreezeStatus {}, self.vm.options(info)).await {
                    Ok(FsfreezeStatus::Thawed) => return Ok(()),
                    Ok(_) | Err(CallError::TimedOut { sent: false, .. }) => {}
                    Err(CallError::Unavailable { link }) if link.state == LinkState::Paused => {}
                    // An agent that cannot freeze is not frozen.
                    Err(CallError::Agent(_) | CallError::Unsupported) => return Ok(()),
                    Err(error) => return Err(TransferError::call(info)(error)),
                }
            }
            let stop = self.vm.settings().transfers.stopping();
            tokio::select! {
                () = stop.cancelled() => return Err(TransferError::Stopping),
                _ = timeout(PAUSE, link.changed()) => {}
            }
        }
    }
}
