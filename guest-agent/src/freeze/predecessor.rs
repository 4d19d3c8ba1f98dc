//! The agent that left the marker behind.
//!
//! A FIFREEZE outlives the SIGKILL of its agent, and for a while the kernel answers a FITHAW as if
//! nothing were being frozen (until its writers are stopped, `freeze_super` holds no lock). So a
//! thaw by the next agent is complete only once the process before it is gone with all its
//! threads. The marker names it by pid and start time.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// This process, as the marker names it.
pub(super) fn myself() -> String {
    let pid = std::process::id();
    format!("{pid} {}\n", start_time(&pid.to_string()).unwrap_or_default())
}

/// The process that `text` names, if any of its threads is still there.
pub(crate) fn find(text: &str) -> Option<OwnedFd> {
    let (pid, started) = text.trim_end().split_once(' ')?;
    // rustix refuses negative numbers with a panic.
    let process = Pid::from_raw(pid.parse().ok().filter(|pid| *pid > 0)?)?;
    // Kernels before 5.3 have no such descriptor; there nothing can be waited for.
    let descriptor = pidfd_open(process, PidfdFlags::empty()).ok()?;
    (start_time(pid)? == started).then_some(descriptor)
}

/// Waits until the process is gone with all its threads.
pub(super) fn wait(process: &OwnedFd) {
    let mut gone = [PollFd::new(process, PollFlags::IN)];
    while poll(&mut gone, None) == Err(Errno::INTR) {}
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
fn start_time(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_time_in(&stat).map(str::to_owned)
}

/// That field of what stands in such a file.
pub(crate) fn start_time_in(stat: &str) -> Option<&str> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    behind_name.split(' ').nth(19)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_pid_and_start_time_as_long_as_it_is_there() {
        let me = myself();
        assert!(find(&me).is_some(), "{me}");
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = other.id().to_string();
        let name = format!("{pid} {}\n", start_time(&pid).unwrap());
        let process = find(&name).unwrap();
        other.kill().unwrap();
        wait(&process);
        other.wait().unwrap();
        assert!(find(&name).is_none());
        for text in ["", "x y", "1", "1 0", "-5 7"] {
            assert!(find(text).is_none(), "{text}");
        }
    }
}
