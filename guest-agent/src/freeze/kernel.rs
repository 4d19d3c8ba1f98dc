//! What the engine asks of the kernel. A trait, because the engine's tests play a kernel in which
//! filesystems hang and time jumps.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use qga_proto::QgaError;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::device_writes;
use super::hook_process::{self, HookProcess};
use super::mounts::{Mounts, Target};
use super::reach;
use crate::disk::Roots;
use crate::sys::{fsfreeze, threads};
use crate::{errno, helper};

/// How a FIFREEZE ended.
pub(super) enum Frozen {
    /// This call froze it.
    Yes(Thaw),
    /// Somebody else froze it before. Neither counts nor fails.
    Already,
    /// It cannot freeze. Neither counts nor fails.
    Unsupported,
    /// The freeze as a whole fails, with this text.
    Failed(String),
}

/// How a thaw ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thawed {
    /// It was frozen until then.
    Yes,
    /// It was not frozen, or is there no more.
    No,
    /// It may be frozen, but nothing leads to it, for this reason.
    OutOfReach(String),
}

impl Thawed {
    fn from(thawed: bool) -> Self {
        if thawed { Self::Yes } else { Self::No }
    }
}

/// Thaws what was frozen, on the thread that froze it. Until it is
/// called or dropped, the filesystem stays within reach, wherever it is mounted.
pub(super) type Thaw = Box<dyn FnOnce() -> Thawed>;

/// [`freeze`](Self::freeze), [`thaw`](Self::thaw) and [`hook`](Self::hook) may sleep for ever; they
/// are each made on a thread of their own.
pub(super) trait Kernel: Send + Sync + 'static {
    /// The mount table.
    fn mounts(&self) -> io::Result<Mounts>;
    /// Freezes a filesystem, even if something else covers it where it is mounted.
    fn freeze(&self, target: &Target) -> Frozen;
    /// Thaws a filesystem, however often it was frozen, wherever it is mounted by now.
    fn thaw(&self, target: &Target) -> Thawed;
    /// Runs a hook to its end, or for as long as `patience` and `stop` let it run. One that a killed
    /// agent has left behind is ended first, which may take as long again.
    fn hook(
        &self,
        path: &Path,
        argument: &str,
        patience: Duration,
        stop: &AtomicBool,
    ) -> Result<(), QgaError>;
    /// Sectors that the devices of a filesystem took since they are there, where it counts them.
    fn sectors_written(&self, target: &Target) -> Option<u64>;
    /// `CLOCK_BOOTTIME`, in milliseconds.
    fn now_ms(&self) -> u64;
    /// Ticks from this time on, once a second; none: never.
    fn tick_from(&self, at_ms: Option<u64>);
}

/// The kernel that runs this process.
#[derive(Debug)]
pub(super) struct Linux {
    timer: Arc<OwnedFd>,
    hooks: HookProcess,
}

impl Linux {
    pub(super) fn new(state_dir: &Path) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = Arc::new(timerfd_create(TimerfdClockId::Boottime, flags)?);
        Ok(Self { timer, hooks: HookProcess::new(state_dir) })
    }

    /// What becomes readable at each tick.
    pub(super) fn timer(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.timer)
    }
}

/// `CLOCK_BOOTTIME`, in milliseconds: it goes on while the guest is suspended.
pub(super) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // The clock starts at 0 with the boot.
    Duration::try_from(now).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

impl Kernel for Linux {
    fn mounts(&self) -> io::Result<Mounts> {
        Mounts::read()
    }

    fn freeze(&self, target: &Target) -> Frozen {
        leave_the_channel();
        let path = target.path.display();
        let failed = |what: &str, error: Errno| {
            Frozen::Failed(format!("failed to {what} {path}: {}", errno::text(error)))
        };
        let directory = match open_directory(&target.path) {
            Ok(directory) if reach::is_on(&directory, target) => directory,
            Ok(_) => match reach::by_device(target) {
                Ok(Some(directory)) => directory,
                // Of a kind that is not known, which mostly means that it cannot freeze.
                Ok(None) | Err(_) => return Frozen::Unsupported,
            },
            Err(error) => return failed("open", error),
        };
        match fsfreeze::freeze(&directory) {
            Ok(()) => Frozen::Yes(Box::new(move || Thawed::from(thaw(&directory)))),
            Err(Errno::BUSY) => Frozen::Already,
            Err(Errno::OPNOTSUPP) => Frozen::Unsupported,
            Err(error) => failed("freeze", error),
        }
    }

    fn thaw(&self, target: &Target) -> Thawed {
        leave_the_channel();
        match open_directory(&target.path) {
            Ok(directory) if reach::is_on(&directory, target) => Thawed::from(thaw(&directory)),
            _ => match reach::by_device(target) {
                Ok(found) => Thawed::from(found.is_some_and(|directory| thaw(&directory))),
                Err(why) => Thawed::OutOfReach(why),
            },
        }
    }

    fn hook(
        &self,
        path: &Path,
        argument: &str,
        patience: Duration,
        stop: &AtomicBool,
    ) -> Result<(), QgaError> {
        self.hooks.end(patience, stop);
        let record = self.hooks.begin(argument);
        let command = [path.as_os_str(), argument.as_ref()];
        let write_down = move || {
            if let Ok(record) = &record {
                hook_process::write_down(record);
            }
        };
        helper::run_until(&command, "execute fsfreeze hook", patience, stop, write_down)
    }

    fn sectors_written(&self, target: &Target) -> Option<u64> {
        device_writes::sectors(&Roots::system(), target)
    }

    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn tick_from(&self, at_ms: Option<u64>) {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at = at_ms.map(|at| Duration::from_millis(at.max(1)));
        let it_value = at.and_then(|at| Timespec::try_from(at).ok()).unwrap_or(never);
        let setting = Itimerspec { it_interval: second, it_value };
        // It fails only for invalid arguments.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting);
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn thaw(directory: &OwnedFd) -> bool {
    let mut thawed = false;
    while fsfreeze::thaw(directory).is_ok() {
        thawed = true;
    }
    thawed
}

/// If this thread gets stuck and the agent is killed, the next agent must be able to open the
/// channel.
fn leave_the_channel() {
    // It fails only for lack of memory, and then nothing is worse than without it.
    let _ = threads::leave_descriptors();
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn ticks_from_a_time_that_is_past_and_not_when_told_not_to() {
        let dir = tempfile::tempdir().unwrap();
        let linux = Linux::new(dir.path()).unwrap();
        let ticks = |milliseconds: i64| {
            let limit = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
            let mut timer = [PollFd::new(&*linux.timer, PollFlags::IN)];
            poll(&mut timer, Some(&limit)).unwrap() == 1
        };
        assert!(!ticks(0));
        linux.tick_from(Some(linux.now_ms().saturating_sub(1)));
        assert!(ticks(900));
        linux.tick_from(None);
        assert!(!ticks(10));
        linux.tick_from(Some(linux.now_ms() + 30));
        assert!(ticks(900));
    }
}
