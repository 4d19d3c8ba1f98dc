//! Which process is behind a VM's socket, so that a new one is known to be new.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A process, told from every other one that had or will have its number.
///
/// It is the one that called `listen(2)` on the socket: QEMU itself, also where libvirt made the
/// socket, because QEMU listens on it once more. Where a proxy or systemd listens in QEMU's place,
/// it is that one, and a VM that is replaced behind it shows only in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// Its process id, as the gateway's PID namespace has it.
    pub pid: u32,
    /// When it started, in clock ticks after the host's boot (`proc_pid_stat(5)`, field 22).
    pub start_time: u64,
}

impl Incarnation {
    /// The process with that number now. `None` if it is gone, or hidden from the gateway.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        // What listens in another PID namespace has no number here.
        if pid == 0 {
            return None;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start_time: start_time(&stat)? })
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (started at tick {})", self.pid, self.start_time)
    }
}

/// The name in the second field may hold anything, parentheses and blanks included.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_time(&format!("42 (qemu) {rest}")), Some(4711));
        assert_eq!(start_time(&format!("42 (a) b) (1 2 3) {rest}")), Some(4711));
        for bad in ["", "42 (qemu)", "42 (qemu) S 1", "42"] {
            assert_eq!(start_time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_process_is_itself_and_one_that_ended_is_nobody() {
        let me = std::process::id();
        let found = Incarnation::of(me).expect("this process runs");
        assert_eq!((found.pid, Some(found)), (me, Incarnation::of(me)));
        assert_eq!(Incarnation::of(0), None);
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let pid = child.id();
        child.wait().expect("wait");
        assert_ne!(Incarnation::of(pid).map(|i| i.start_time), Some(found.start_time));
    }
}
