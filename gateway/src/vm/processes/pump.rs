//! What follows the processes of a VM while any of them is alive: one task, whoever is interested.
//!
//! ```text
//!             the agent answers                     a process has news
//!   no link ─────────────────▶ look who is there ─▶ wait ───────────────▶ read, and wait again
//!      ▲                            ▲                │
//!      │ link lost, frozen, paused  │ unsure         │ nothing alive
//!      └────────────────────────────┴────────────────┴──▶ end
//! ```
//!
//! While the VM is frozen nothing is asked, and it goes on after the thaw. No request owns any of
//! it: a caller that hangs up changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::process::Process;
use super::table::{EXTENSION, STOCK};
use super::{extension, stock};
use crate::vm::LinkState;
use crate::vm::handle::VmHandle;

/// How long processes outlive the link to their agent.
const LINK_PATIENCE: Duration = Duration::from_secs(60);

/// How often somebody looks whether a VM without a link is still known.
const LOOK: Duration = Duration::from_secs(1);

/// Follows one way's processes of a VM.
pub(super) struct Pump {
    pub(super) vm: VmHandle,
    way: usize,
    pub(super) wake: Arc<Notify>,
    ended: bool,
}

/// Follows them, unless that is done already.
pub(super) fn start(vm: &VmHandle, way: usize) {
    let processes = &vm.settings().processes;
    if !processes.begin_following(vm.id(), way) {
        return;
    }
    let wake = processes.wake(vm.id(), way);
    let pump = Pump { vm: vm.clone(), way, wake, ended: false };
    match way {
        EXTENSION => drop(tokio::spawn(extension::follow(pump))),
        STOCK => drop(tokio::spawn(stock::follow(pump))),
        _ => {}
    }
}

impl Pump {
    /// Those that are alive; without any, following ends.
    pub(super) fn live(&mut self) -> Option<Vec<Arc<Process>>> {
        let live = self.vm.settings().processes.live(self.vm.id(), self.way);
        self.ended = live.is_none();
        live
    }

    /// Waits until the agent takes commands. False if the processes are lost meanwhile.
    pub(super) async fn answers(&self, live: &[Arc<Process>]) -> bool {
        let mut changes = self.vm.link_changes();
        let mut since = None;
        loop {
            if self.vm.is_closed() {
                lose(live, "the VM is not known to the gateway any more");
                return false;
            }
            let state = changes.borrow_and_update().state;
            match state {
                LinkState::Ready => return true,
                LinkState::Frozen | LinkState::Paused => since = None,
                _ => {
                    let since = *since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= LINK_PATIENCE {
                        lose(
                            live,
                            &format!(
                                "the link to the guest's agent has been {state} for {} s",
                                LINK_PATIENCE.as_secs()
                            ),
                        );
                        return false;
                    }
                }
            }
            // Its sender lives with the VM.
            let _ = timeout(LOOK, changes.changed()).await;
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if !self.ended {
            self.vm.settings().processes.stop_following(self.vm.id(), self.way);
        }
    }
}

pub(super) fn lose(processes: &[Arc<Process>], reason: &str) {
    for process in processes {
        process.lose(reason);
    }
}

/// Pauses that grow while nothing happens.
pub(super) struct Pauses {
    next: Duration,
    least: Duration,
    most: Duration,
}

impl Pauses {
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        Self { next: least, least, most }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.least;
    }

    /// Waits, unless woken. Returns whether it was.
    pub(super) async fn pause(&mut self, wake: &Notify) -> bool {
        let pause = self.next;
        self.next = (pause * 3 / 2).min(self.most);
        timeout(pause, wake.notified()).await.is_ok()
    }
}
