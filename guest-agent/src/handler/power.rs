//! `guest-shutdown`, `guest-suspend-disk`, `-ram`, `-hybrid`.

use std::time::Duration;

use qga_proto::command::{
    Command as _, GuestShutdown, GuestSuspendDisk, GuestSuspendHybrid, GuestSuspendRam,
    ShutdownMode,
};
use qga_proto::{Outcome, QgaError, Request};
use rustix::fs::{Access, access};

use super::{Handler, Place};
use crate::suspend::{Means, Sleep};
use crate::{helper, log};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestShutdown::INFO.name, place: Place::Helpers(shutdown) },
    Handler { command: GuestSuspendDisk::INFO.name, place: Place::Helpers(suspend_disk) },
    Handler { command: GuestSuspendRam::INFO.name, place: Place::Helpers(suspend_ram) },
    Handler { command: GuestSuspendHybrid::INFO.name, place: Place::Helpers(suspend_hybrid) },
];

/// How long a program that shuts the guest down may take to say that it will.
const PATIENCE: Duration = Duration::from_secs(120);

fn shutdown(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestShutdown { mode } = request.arguments()?;
    let (program, flag) = match mode.unwrap_or(ShutdownMode::Powerdown) {
        ShutdownMode::Powerdown => ("/sbin/poweroff", "-P"),
        ShutdownMode::Halt => ("/sbin/halt", "-H"),
        ShutdownMode::Reboot => ("/sbin/reboot", "-r"),
        // The missing bracket is qemu-ga's.
        ShutdownMode::Other(_) => {
            return Err(QgaError::generic(
                "mode is invalid (valid values are: halt|powerdown|reboot",
            ));
        }
    };
    log::info(format_args!("guest-shutdown called, {program}"));
    // As qemu-ga has it, `-h` stands before `-r` too.
    let shutdown = ["/sbin/shutdown", "-h", flag, "+0", "hypervisor initiated shutdown"];
    let direct = access(program, Access::EXEC_OK).is_ok();
    let command: &[&str] = if direct { &[program] } else { &shutdown };
    helper::run(command, "shutdown", PATIENCE)?;
    Ok(Outcome::Silent)
}

fn suspend_disk(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestSuspendDisk {} = request.arguments()?;
    suspend(Sleep::Disk)
}

fn suspend_ram(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestSuspendRam {} = request.arguments()?;
    suspend(Sleep::Ram)
}

fn suspend_hybrid(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestSuspendHybrid {} = request.arguments()?;
    suspend(Sleep::Hybrid)
}

fn suspend(sleep: Sleep) -> Result<Outcome, QgaError> {
    log::info(format_args!("guest-suspend called, {sleep:?}"));
    Means::of_system().suspend(sleep)?;
    Ok(Outcome::Silent)
}
