//! Notices when the large messages have stopped, without asking for the time at each of them:
//! there are guests in which that costs more than to move some kilobytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// It is quiet when for this long there was nothing; it is noticed after twice as long at most.
const QUIET: Duration = Duration::from_millis(700);

/// A timer that runs while it is not quiet.
#[derive(Debug)]
pub(crate) struct Quiet {
    timer: OwnedFd,
    running: bool,
    /// Something came since the timer was started.
    disturbed: bool,
}

impl Quiet {
    /// After something that is to be over first.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let mut quiet = Self { timer, running: false, disturbed: false };
        quiet.disturb();
        Ok(quiet)
    }

    /// Something came.
    pub(crate) fn disturb(&mut self) {
        self.disturbed = self.running;
        if self.running {
            return;
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Less than a second always converts.
        let Ok(it_value) = Timespec::try_from(QUIET) else { return };
        let once = Itimerspec { it_interval: zero, it_value };
        self.running = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).is_ok();
    }

    /// The descriptor is readable: whether it has become quiet.
    pub(crate) fn is_reached(&mut self) -> bool {
        if rustix::io::read(&self.timer, &mut [0_u8; 8]).is_err() {
            return false;
        }
        self.running = false;
        if self.disturbed {
            self.disturb();
        }
        !self.running
    }
}

/// The descriptor is readable when it may have become quiet.
impl AsFd for Quiet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn a_disturbance_puts_it_off_and_nothing_runs_once_it_is_reached() {
        let mut quiet = Quiet::new().unwrap();
        let readable = |quiet: &Quiet, seconds| {
            let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
            poll(&mut [PollFd::new(quiet, PollFlags::IN)], Some(&limit)).unwrap() == 1
        };
        assert!(!quiet.is_reached(), "not at once");
        quiet.disturb();
        assert!(readable(&quiet, 10) && !quiet.is_reached(), "it was disturbed meanwhile");
        assert!(readable(&quiet, 10) && quiet.is_reached());
        assert!(!readable(&quiet, 1), "nothing to notice any more");
        quiet.disturb();
        assert!(readable(&quiet, 10) && quiet.is_reached());
    }
}
