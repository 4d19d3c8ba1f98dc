//! What bursts leave free in the heap goes back to the kernel.
//!
//! Leases and answers live for hours among buffers that live for moments. What those leave free between
//! them is the process's all the same, and more of it from hour to hour: in a soak three quarters of
//! the heap were free, and nothing of that was at its end, where it would go back by itself.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::process::ProcessFigures;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(30);
/// Growth since the last time that is worth the milliseconds, in bytes.
const WORTH: u64 = 1 << 20;

/// Gives back for as long as the process runs, whenever it has grown.
pub(crate) async fn keep_small() {
    let mut pulse = interval(PAUSE);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut least = u64::MAX;
    loop {
        pulse.tick().await;
        let resident = resident();
        least = least.min(resident);
        if resident - least >= WORTH {
            // What is left is the new measure, even if it is more: it is used.
            least = match spawn_blocking(qga_heap::give_back).await {
                Ok(()) => self::resident(),
                Err(_) => resident,
            };
        }
    }
}

fn resident() -> u64 {
    ProcessFigures::now().resident_bytes
}
