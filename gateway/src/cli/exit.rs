//! What the commands exit with. The same for all of them; docs/cli.md has the table.

use std::process::ExitCode;

use qga_gateway::client::Failure;

/// The gateway or the guest said no.
pub(super) const REFUSED: u8 = 1;
/// The command line, a variable or a file that it names makes no sense.
pub(super) const USAGE: u8 = 2;
/// All was done, and the freeze did not hold.
pub(super) const NOT_HELD: u8 = 3;
/// No gateway answers, or it stopped doing so.
pub(super) const UNREACHABLE: u8 = 4;
/// Of what exits with a program's code: whatever is not the program's.
pub(super) const NOT_THE_PROGRAM: u8 = 255;

/// What makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// What an error exits with.
pub(super) fn code(error: &anyhow::Error) -> ExitCode {
    number(error).into()
}

pub(super) fn number(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Refused(_)) => REFUSED,
        Some(_) => UNREACHABLE,
        None if error.is::<Usage>() => USAGE,
        None => REFUSED,
    }
}

/// A process's own exit code or the signal that ended it, as shells tell it.
pub(super) fn of_process(code: Option<i64>, signal: Option<i64>) -> Option<u8> {
    let byte = |number: i64| u8::try_from(number & 0xFF).ok();
    match (code, signal) {
        (Some(code), _) => byte(code),
        (None, Some(signal)) => byte(signal).map(|signal| signal.wrapping_add(128)),
        (None, None) => None,
    }
}
