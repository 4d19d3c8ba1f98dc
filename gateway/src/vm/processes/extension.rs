//! Programs that were started by `x-guest-exec-start`: one wait for all of them, then reads of what
//! is new. The wait gives way to every other command, so it costs nobody anything.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use qga_proto::command::{
    Command, Known, OutputStream, XExecForget, XExecList, XExecOutput, XExecProgram, XExecRead,
    XExecWait,
};
use tokio::time::Instant;

use super::process::{Process, ProcessState, STREAMS, Way};
use super::pump::{Pauses, Pump, lose};
use super::sweep_later;
use crate::config::Mode;
use crate::vm::handle::VmHandle;
use crate::vm::transfer::PART;
use crate::vm::{CallError, CallOptions};

const WAIT: Duration = Duration::from_secs(30);

/// How much later than the guest's own time a wait is given up.
const LATE: Duration = Duration::from_secs(10);

/// The most that is read of a stream before others get their turn.
const TURN: usize = 1 << 20;

/// The most programs that one wait may name.
const MAX_KNOWN: usize = 512;

const UNKNOWN: &str = "the guest's agent does not know it any more";

/// So many waits that ended early with nothing are followed by a look at everything: a program may
/// be gone.
const LOOK_AFTER: u32 = 16;

pub(super) async fn follow(mut pump: Pump) {
    let on_demand = pump.vm.mode() == Mode::OnDemand;
    // After a wait that had to give way: what made it is probably not alone.
    let mut given_way = Pauses::new(Duration::from_millis(2), Duration::from_millis(50));
    let mut failed = Pauses::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut polls = Pauses::new(Duration::from_millis(10), Duration::from_secs(10));
    let mut looked_at = None;
    let mut early = 0;
    let mut idle = 0;
    while let Some(live) = pump.live() {
        if !pump.answers(&live).await {
            continue;
        }
        let disruptions = pump.vm.disruptions();
        if looked_at != Some(disruptions) {
            match look(&pump.vm, &live).await {
                Ok(()) => looked_at = Some(disruptions),
                Err(_) => {
                    failed.pause(&pump.wake).await;
                    continue;
                }
            }
            finish(&pump.vm, &live).await;
        }
        match read_all(&pump.vm, &live).await {
            // News of nothing must not keep the gateway busy.
            Ok(0) if idle > 3 => drop(given_way.pause(&pump.wake).await),
            Ok(0) => idle += 1,
            Ok(_) => idle = 0,
            Err(_) => {
                looked_at = None;
                failed.pause(&pump.wake).await;
                continue;
            }
        }
        finish(&pump.vm, &live).await;
        if live.iter().all(|process| process.is_complete()) {
            continue;
        }
        // On demand, a wait would keep others out of the socket for as long as a program runs.
        let wait = if on_demand { Duration::ZERO } else { WAIT };
        let asked = Instant::now();
        let news = tokio::select! {
            news = wait_for_news(&pump.vm, &live, wait) => news,
            () = pump.wake.notified() => {
                polls.reset();
                continue;
            }
        };
        match news {
            Ok(ready) => {
                failed.reset();
                let news = take(&live, &ready);
                if news {
                    (early, looked_at) = (0, Some(disruptions));
                    given_way.reset();
                    polls.reset();
                } else if on_demand {
                    polls.pause(&pump.wake).await;
                } else {
                    early += 1;
                    if early >= LOOK_AFTER || asked.elapsed() >= wait {
                        (early, looked_at) = (0, None);
                    }
                    given_way.pause(&pump.wake).await;
                }
            }
            Err(_) => {
                looked_at = None;
                failed.pause(&pump.wake).await;
            }
        }
    }
}

async fn wait_for_news(
    vm: &VmHandle,
    live: &[Arc<Process>],
    wait: Duration,
) -> Result<Vec<XExecProgram>, CallError> {
    let known = |process: &Arc<Process>| {
        let at = |stream| process.wants(stream).map(|wanted| wanted.offset);
        Some(Known {
            handle: process.handle()?,
            stdout: at(OutputStream::Stdout),
            stderr: at(OutputStream::Stderr),
            stdin: process.wants_input_room().then_some(true),
            end: (!process.is_exited()).then_some(true),
        })
    };
    let programs = live.iter().filter_map(known).take(MAX_KNOWN).collect();
    // A constant of seconds.
    let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(0);
    let options = vm.options(&XExecWait::INFO);
    let options = CallOptions { timeout: wait + LATE, ..options };
    Ok(vm.call(XExecWait { programs, wait_ms }, options).await?.ready)
}

/// Takes the guest's word on those that it names. Returns whether it named any.
fn take(live: &[Arc<Process>], programs: &[XExecProgram]) -> bool {
    let mut any = false;
    for program in programs {
        if let Some(process) = live.iter().find(|p| p.handle() == Some(program.handle)) {
            // That is how a wait says that it is not there.
            if program.pid == 0 {
                process.lose(UNKNOWN);
            } else {
                process.stands(program);
            }
            any = true;
        }
    }
    any
}

/// Finds out how all of them stand, and which are gone.
async fn look(vm: &VmHandle, live: &[Arc<Process>]) -> Result<(), CallError> {
    let list = match vm.call(XExecList {}, vm.options(&XExecList::INFO)).await {
        Ok(list) => list,
        // Another agent has taken its place. One that is disabled may only be frozen.
        Err(CallError::Agent(error)) if error.is_not_found() && !error.is_disabled() => {
            lose(live, "the guest's agent was replaced by one that does not know it");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for process in live {
        let Way::Extension { handle, instance } = &process.way else { continue };
        if *instance != list.agent_instance {
            process.lose("the guest's agent was started afresh, which ends its programs");
        } else if !list.programs.iter().any(|program| program.handle == *handle) {
            process.lose(UNKNOWN);
        }
    }
    take(live, &list.programs);
    Ok(())
}

/// Reads what is there of every stream that there is room for.
async fn read_all(vm: &VmHandle, live: &[Arc<Process>]) -> Result<usize, CallError> {
    let streams = live.iter().flat_map(|process| STREAMS.map(|stream| (process, stream)));
    let reads = streams.map(|(process, stream)| read(vm, process, stream));
    join_all(reads).await.into_iter().sum()
}

/// One read at a time: a read says that what lies before it has arrived.
async fn read(vm: &VmHandle, process: &Process, stream: OutputStream) -> Result<usize, CallError> {
    let Some(handle) = process.handle() else { return Ok(0) };
    let mut turn = 0;
    while turn < TURN
        && let Some(wanted) = process.wants(stream).filter(|wanted| wanted.pending)
    {
        let count = wanted.room.min(PART);
        let read = XExecRead { handle, stream, offset: wanted.offset, count: Some(count as u64) };
        let options = vm.options(&XExecRead::INFO);
        let options = CallOptions { reply_cap: count.div_ceil(3) * 4 + 4096, ..options };
        let XExecOutput { offset, buf_b64, eof } = match vm.call(read, options).await {
            Ok(output) => output,
            // Gone, or frozen: a look finds out.
            Err(error) => return Err(error),
        };
        let nothing = buf_b64.0.is_empty() && offset <= wanted.offset && !eof;
        process.received(stream, offset, &buf_b64.0, eof);
        if nothing {
            break;
        }
        turn += buf_b64.0.len();
    }
    Ok(turn)
}

/// Gives the guest back what it keeps of those that are complete. What they have left running in
/// their process group ends with that.
async fn finish(vm: &VmHandle, live: &[Arc<Process>]) {
    for process in live.iter().filter(|process| process.is_complete()) {
        sweep_later(vm);
        // One that is lost may have a handle that another agent has given to another program.
        let exited = matches!(process.view().state, ProcessState::Exited { .. });
        if let Some(handle) = process.handle().filter(|_| exited) {
            // If it fails, the agent forgets by itself in time.
            let _ = vm.call(XExecForget { handle }, vm.options(&XExecForget::INFO)).await;
        }
    }
}
