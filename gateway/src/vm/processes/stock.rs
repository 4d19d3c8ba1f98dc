//! Programs that were started by `guest-exec`: asked for until they have ended, because their agent
//! gives nothing before that, and its result once.

use std::sync::Arc;
use std::time::Duration;

use qga_proto::command::{Command, GuestExecStatus};

use super::process::{Process, Way};
use super::pump::{Pauses, Pump, lose};
use super::sweep_later;
use crate::config::Mode;
use crate::printable::printable;
use crate::vm::{CallError, CallOptions};

const FIRST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(1);

/// On demand, others want the socket too.
const MOST_ON_DEMAND: Duration = Duration::from_secs(10);

pub(super) async fn follow(mut pump: Pump) {
    let on_demand = pump.vm.mode() == Mode::OnDemand;
    let mut pauses = Pauses::new(FIRST, if on_demand { MOST_ON_DEMAND } else { MOST });
    // Set while an answer was lost: the result may be gone with it.
    let mut lost_answer = None;
    while let Some(live) = pump.live() {
        if !pump.answers(&live).await {
            continue;
        }
        for process in &live {
            ask(&pump, process, &mut lost_answer).await;
            if process.is_complete() {
                sweep_later(&pump.vm);
            }
        }
        if pauses.pause(&pump.wake).await {
            pauses.reset();
        }
    }
}

async fn ask(pump: &Pump, process: &Arc<Process>, lost_answer: &mut Option<String>) {
    let vm = &pump.vm;
    let Way::Stock { incarnation } = &process.way else { return };
    if let (Some(then), Some(now)) = (incarnation, vm.incarnation())
        && *then != now
    {
        return lose(std::slice::from_ref(process), "the VM has been started afresh");
    }
    // A result is given once, so none may be too large: qemu-ga keeps 16 MiB of each stream.
    let reply_cap = vm.settings().limits().reply_cap_bytes;
    let options = CallOptions { reply_cap, ..vm.options(&GuestExecStatus::INFO) };
    match vm.call(GuestExecStatus { pid: process.pid }, options).await {
        Ok(status) if status.exited => process.ended(status),
        Ok(_) => {}
        Err(CallError::Agent(error)) if error.is_disabled() => {}
        Err(CallError::Agent(error)) => {
            let desc = printable(&error.desc);
            let reason = match lost_answer {
                Some(lost) => format!("an answer that may have held its result was lost ({lost})"),
                None => format!("the guest's agent does not know it any more: {desc}"),
            };
            process.lose(&reason);
        }
        Err(error) => {
            if error.outcome_unknown() {
                *lost_answer = Some(error.to_string());
            }
        }
    }
}
