//! systemd's watchdog: it is told that the gateway lives only while it does its work.
//!
//! What tells is a task like those that serve VMs and callers, so that a runtime that hangs tells
//! nothing; and each time the thread that writes leases has to take something up first. systemd then
//! ends the gateway (`WatchdogSec=`) and starts it again, and leases go on as after any crash.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::store::Store;

/// Of the time that systemd allows, how often it is told.
const SHARE: u32 = 3;

/// Tells systemd for as long as the process runs, if it asks for that.
pub(crate) async fn feed(store: Store) {
    let Some(bound) = sd_notify::watchdog_enabled().filter(|bound| !bound.is_zero()) else {
        return;
    };
    let mut pulse = interval((bound / SHARE).max(Duration::from_millis(1)));
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse.tick().await;
        if store.turns().await {
            crate::daemon::notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                "the thread that writes the state takes up no work; unless it does, systemd ends \
                 this gateway within {} s and starts another one, which goes on with the leases",
                bound.as_secs()
            );
        }
    }
}
