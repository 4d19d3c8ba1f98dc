//! Leaving the terminal, and starting programs apart from the agent.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{Pid, setsid};

use super::signals;

/// Which side of a fork this is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Parent,
    Child,
}

/// Forks the process. Only for a process that still has a single thread.
pub(crate) fn fork() -> std::io::Result<Side> {
    // SAFETY: the caller is single-threaded, so the child finds every lock free.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => Ok(Side::Child),
        _ => Ok(Side::Parent),
    }
}

/// Makes the program that `command` starts the leader of a session of its own, with no signal
/// blocked or ignored.
pub(crate) fn in_own_session(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only async-signal-safe calls are made, and nothing is
    // allocated.
    unsafe {
        command.pre_exec(|| {
            signals::reset_all();
            setsid()?;
            Ok(())
        })
    }
}

/// Has the process that `command` starts call `prepare` before it becomes the program. It must make
/// async-signal-safe calls only, and allocate nothing.
pub(crate) fn prepared(command: &mut Command, mut prepare: impl FnMut() + Send + Sync + 'static) {
    // SAFETY: the contract above, which the callers keep.
    unsafe {
        command.pre_exec(move || {
            prepare();
            Ok(())
        });
    }
}

/// Sends a signal by its number, of which some have no name, to the group that `leader` leads or to
/// that process alone.
pub(crate) fn signal(leader: Pid, signal: i32, alone: bool) -> Result<(), Errno> {
    let leader = leader.as_raw_nonzero().get();
    // SAFETY: no pointers.
    if unsafe { libc::kill(if alone { leader } else { -leader }, signal) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::PERM))
}
