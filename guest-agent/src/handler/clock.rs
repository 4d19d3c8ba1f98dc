//! `guest-get-time`, `guest-set-time`.

use std::io;
use std::path::Path;
use std::time::Duration;

use qga_proto::command::{Command as _, GuestGetTime, GuestSetTime};
use qga_proto::{Outcome, QgaError, Request};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::{Handler, Place, View};
use crate::hardware_clock::HardwareClock;
use crate::{errno, helper, log};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestGetTime::INFO.name, place: Place::Poll(time) },
    Handler { command: GuestSetTime::INFO.name, place: Place::Helpers(set_time) },
];

const SECOND: i64 = 1_000_000_000;
/// 2070-01-01: qemu-ga takes no later times.
const END: i64 = 3_155_760_000;
const HWCLOCK: &str = "/sbin/hwclock";
const PATIENCE: Duration = Duration::from_secs(60);
const ACTION: &str = "set hardware clock to system time";

fn time(_: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetTime {} = request.arguments()?;
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
    // Whole microseconds, as qemu-ga has them; an i64 lasts until 2262.
    Ok(Outcome::value(&tv_sec.saturating_mul(SECOND).saturating_add(tv_nsec / 1000 * 1000)))
}

/// With a time, the hardware clock follows the system's; without, the other way round. A guest
/// that has no `hwclock` is served by the kernel.
fn set_time(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestSetTime { time } = request.arguments()?;
    log::info(format_args!("guest-set-time called"));
    if let Some(time) = time {
        set_system_clock(time / SECOND, time % SECOND / 1000 * 1000)?;
    }
    let flag = if time.is_some() { "-w" } else { "-s" };
    if access(Path::new(HWCLOCK), Access::EXEC_OK).is_ok() {
        helper::run(&[HWCLOCK, flag], ACTION, PATIENCE)?;
    } else if time.is_some() {
        set_hardware_clock()?;
    } else {
        follow_hardware_clock()?;
    }
    Ok(Outcome::empty())
}

fn set_system_clock(seconds: i64, nanoseconds: i64) -> Result<(), QgaError> {
    if !(0..END).contains(&seconds) {
        return Err(QgaError::generic("Invalid time"));
    }
    clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
        .map_err(|e| QgaError::generic(format!("Failed to set time to guest: {}", errno::text(e))))
}

/// A machine without such a clock has nothing to set: the command has done all that can be.
fn set_hardware_clock() -> Result<(), QgaError> {
    let set = |clock: HardwareClock| clock.set(clock_gettime(ClockId::Realtime).tv_sec);
    match HardwareClock::open().and_then(set) {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::NOENT) => {
            log::info(format_args!("guest-set-time: this machine has no hardware clock"));
            Ok(())
        }
        done => done.map_err(|e| failed(&e)),
    }
}

fn follow_hardware_clock() -> Result<(), QgaError> {
    let seconds = HardwareClock::open().and_then(|clock| clock.read()).map_err(|e| failed(&e))?;
    set_system_clock(seconds, 0)
}

fn failed(e: &io::Error) -> QgaError {
    QgaError::generic(format!("failed to access the hardware clock: {}", errno::of(e)))
}
