//! Asks guests now and then for what the figures show: their filesystems and their load.
//!
//! ```text
//!   a round: VM ── pause ── VM ── pause ── VM …      each only if it is ready, persistent, unleased
//! ```
//!
//! Off unless configured. The VMs are spread over the interval, so that no host has all of its guests
//! busy at once, and few are asked at a time, so that guests that hang hold up nobody but each other.
//! The answers are kept as those to anybody's reads are; here nothing is kept.

use std::sync::Arc;
use std::time::Duration;

use qga_proto::command::{Command, FilesystemInfo, GuestGetFsinfo, GuestGetLoad, LoadAverage};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::call::CallOptions;
use super::capabilities::CommandState;
use super::freeze::Leases;
use super::handle::VmHandle;
use super::link::LinkState;
use super::reads::translate;
use super::registry::Registry;
use crate::config::Mode;

/// Guests that are asked at a time.
const GUESTS: usize = 16;

/// How long one may take. Nobody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks until the registry is closed, as often as is configured.
pub async fn refresh_guests(registry: Registry, leases: Leases) {
    let closed = registry.closed().clone();
    closed.run_until_cancelled(run(&registry, &leases)).await;
}

async fn run(registry: &Registry, leases: &Leases) {
    let mut configured = registry.settings().refresh.subscribe();
    let guests = Arc::new(Semaphore::new(GUESTS));
    loop {
        let interval = *configured.borrow_and_update();
        let round = async {
            if interval.is_zero() {
                std::future::pending::<()>().await;
            }
            round(registry, leases, &guests, interval).await;
        };
        tokio::select! {
            () = round => {}
            // The settings live as long as the registry.
            _ = configured.changed() => {}
        }
    }
}

async fn round(registry: &Registry, leases: &Leases, guests: &Arc<Semaphore>, interval: Duration) {
    let begun = Instant::now();
    let vms = registry.list();
    let count = u32::try_from(vms.len()).unwrap_or(u32::MAX).max(1);
    for (n, vm) in (0_u32..).zip(vms) {
        sleep_until(begun + interval.mul_f64(f64::from(n) / f64::from(count))).await;
        // The semaphore is never closed.
        let Ok(permit) = guests.clone().acquire_owned().await else { return };
        if is_wanted(&vm, leases) {
            tokio::spawn(async move {
                ask::<GuestGetFsinfo, Vec<FilesystemInfo>>(&vm, interval).await;
                ask::<GuestGetLoad, LoadAverage>(&vm, interval).await;
                drop(permit);
            });
        }
    }
    sleep_until(begun + interval).await;
}

/// On demand, a question would take the socket from whoever else uses it; and nothing may stand
/// between a guest and its freeze.
fn is_wanted(vm: &VmHandle, leases: &Leases) -> bool {
    vm.mode() == Mode::Persistent && vm.link().state == LinkState::Ready && !leases.is_held(vm.id())
}

async fn ask<C, B>(vm: &VmHandle, interval: Duration)
where
    C: Command,
    B: From<C::Return> + Serialize,
{
    let info = const { &C::INFO };
    let has = |agent: &super::Capabilities| agent.command(info.name) == Some(CommandState::Enabled);
    if vm.capabilities().is_some_and(|agent| has(&agent)) {
        let options = vm.options(info);
        let options = CallOptions { timeout: options.timeout.min(PATIENCE), ..options };
        // Somebody else may have asked just now. What goes wrong shows on the link and in the
        // figures.
        drop(vm.read(info, options, Some(interval / 2), translate::<C, B>).await);
    }
}
