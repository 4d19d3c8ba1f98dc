//! `qga.state.hook`: the hook that was started last, for the agent that is started next.
//!
//! A hook outlives the SIGKILL of its agent. The thaw hook must not run beside it: a freeze hook
//! that goes on would stop again what the thaw hook has just let go. So whoever is about to run a
//! hook first ends the one on record.
//!
//! The file holds the hook's argument, and `/proc/PID/stat` of its process, written by that process
//! itself before it becomes the hook: no hook runs without being on record.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use super::predecessor;
use crate::{kin, log};

/// Longer than any `/proc/PID/stat`.
const MAX_BYTES: u64 = 4096;
/// Between two looks at what cannot be waited for.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How long processes may take to die.
const DYING: Duration = Duration::from_secs(1);
/// The unit of start times, on every architecture that has virtual machines.
const USER_HZ: u64 = 100;

/// The file.
#[derive(Debug)]
pub(super) struct HookProcess {
    path: PathBuf,
}

/// A hook that is still running.
#[derive(Debug)]
struct Running {
    /// Of its session too, which it leads.
    pid: Pid,
    process: OwnedFd,
    thaws: bool,
    /// Since the boot, suspended or not.
    started: Duration,
}

impl HookProcess {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("qga.state.hook") }
    }

    /// The file for the next hook to write itself down in. A hook runs without it too, if need be.
    pub(super) fn begin(&self, argument: &str) -> io::Result<OwnedFd> {
        let flags =
            OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(format!("{argument} ").as_bytes())?;
        Ok(file.into())
    }

    /// Ends a hook that is still running, with its whole session: one that froze at once, and one
    /// that thawed when it has run for `patience`, or because of `stop`.
    pub(super) fn end(&self, patience: Duration, stop: &AtomicBool) {
        let Some(running) = self.running() else { return };
        if running.thaws {
            let age =
                Duration::from_millis(super::kernel::now_ms()).saturating_sub(running.started);
            let deadline = Instant::now() + patience.saturating_sub(age);
            while Instant::now() < deadline && !stop.load(Ordering::Relaxed) {
                if running.is_over(&GLANCE) {
                    return;
                }
            }
        }
        let verb = if running.thaws { "thaw" } else { "freeze" };
        log::warning(format_args!("killing the fsfreeze hook '{verb}' that is still running"));
        running.kill_session();
    }

    fn running(&self) -> Option<Running> {
        let mut text = String::new();
        File::open(&self.path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        let noted = Noted::parse(&text)?;
        Some(Running {
            process: predecessor::find(&format!("{} {}", noted.pid, noted.ticks))?,
            // `find` has looked at it.
            pid: Pid::from_raw(noted.pid)?,
            thaws: noted.argument == "thaw",
            started: Duration::from_millis(noted.ticks.saturating_mul(1000 / USER_HZ)),
        })
    }
}

/// What stands in the file.
#[derive(Debug, PartialEq, Eq)]
struct Noted<'a> {
    argument: &'a str,
    pid: i32,
    /// When it started, in clock ticks since the boot.
    ticks: u64,
}

impl<'a> Noted<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (argument, stat) = text.split_once(' ')?;
        let (pid, _) = stat.split_once(' ')?;
        let ticks = predecessor::start_time_in(stat)?.parse().ok()?;
        Some(Self { argument, pid: pid.parse().ok().filter(|pid| *pid > 0)?, ticks })
    }
}

impl Running {
    /// Waits for the hook's own process at most for `limit`.
    fn is_over(&self, limit: &Timespec) -> bool {
        poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(limit)) == Ok(1)
    }

    /// What has left the session is a daemon, which is not waited for elsewhere either.
    fn kill_session(&self) {
        let deadline = Instant::now() + DYING;
        // Each look may miss what was started meanwhile.
        while kin::kill(self.pid) && Instant::now() < deadline {
            let _ = poll(&mut [], Some(&GLANCE));
        }
    }
}

/// Writes the calling process down in `file`. Between fork and exec: it allocates nothing. A hook
/// that cannot be written down runs all the same.
pub(super) fn write_down(file: &OwnedFd) {
    const STAT: &CStr = c"/proc/self/stat";
    let mut stat = [0_u8; 1024];
    let Ok(from) = rustix::fs::open(STAT, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let Ok(length) = rustix::io::read(&from, &mut stat[..]) else { return };
    let _ = rustix::io::write(file, &stat[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{corpus, fuzz};

    #[test]
    fn a_record_names_the_hook_whatever_its_program_is_called() {
        let read = |name: &str| {
            let (_, bytes) = corpus("hook").into_iter().find(|(file, _)| file == name).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let freeze = Noted { argument: "freeze", pid: 4711, ticks: 123_456 };
        assert_eq!(Noted::parse(&read("freeze")), Some(freeze));
        let thaw = Noted { argument: "thaw", pid: 99, ticks: 18 };
        assert_eq!(Noted::parse(&read("thaw-strange-name")), Some(thaw));
        for cut in ["", "freeze", "freeze ", "freeze 1", "thaw -5 (a) S 1 2"] {
            assert_eq!(Noted::parse(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn whatever_stands_there_nothing_panics() {
        fuzz("hook", |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = Noted::parse(text);
            }
        });
    }
}
