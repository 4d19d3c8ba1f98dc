//! The processes of a session: all that a program has started, unless it made itself independent.
//!
//! A number may stand for another process at any time. So each one is held by a descriptor before
//! it is looked at, and then it is that one which gets the signal.

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills the members of the session that `leader` leads or has led. Whether there were any; a look
/// may miss what is started meanwhile, so look again until there are none.
pub(crate) fn kill(leader: Pid) -> bool {
    let mut any = false;
    for pid in processes() {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The number stands for this process as long as it is there, and it is, if it has a
        // session and is no zombie.
        if is_member(pid, leader) && signal(&process) {
            any = true;
        }
    }
    any
}

/// Whether anything of the session is there that is no zombie.
pub(crate) fn are_there(leader: Pid) -> bool {
    processes().any(|pid| is_member(pid, leader))
}

fn signal(process: &OwnedFd) -> bool {
    pidfd_send_signal(process, Signal::KILL).is_ok()
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    // rustix refuses negative numbers with a panic.
    let number =
        |name: &str| name.parse().ok().filter(|pid: &i32| *pid > 0).and_then(Pid::from_raw);
    entries.filter_map(move |entry| entry.file_name().to_str().and_then(number))
}

/// Whether a process that is no zombie belongs to the session.
fn is_member(pid: Pid, leader: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let Ok(stat) = stat else { return false };
    // pid (name) state ppid pgrp session …
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let mut fields = fields.split(' ');
    let alive = fields.next().is_some_and(|state| !["Z", "X"].contains(&state));
    alive && fields.nth(2) == Some(&leader.as_raw_nonzero().to_string())
}
