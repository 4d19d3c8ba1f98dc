//! `guest-shutdown`.

use std::time::Duration;

use qga_proto::command::{Command as _, GuestShutdown, ShutdownMode};
use qga_proto::{Outcome, QgaError, Request};
use rustix::fs::{Access, access};

use super::{Handler, Place};
use crate::helper;
use crate::log;

pub(super) const HANDLERS: &[Handler] =
    &[Handler { command: GuestShutdown::INFO.name, place: Place::Helpers(shutdown) }];

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
