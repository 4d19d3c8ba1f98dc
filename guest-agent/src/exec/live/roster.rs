//! `qga.state.programs`: who runs, for the agent that is started next.
//!
//! Programs outlive the SIGKILL of their agent, and then nobody could read what they write or end
//! them. So the next agent ends them. A file of places, one per program: each process writes itself
//! down there before it becomes the program, with the boot's id and its `/proc/self/stat`. Nothing
//! is ever taken out: a place that is free names a process that is gone, or another boot.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::Pid;

use crate::freeze::predecessor;
use crate::sys::launch::RECORD;
use crate::{bounded, kin, log};

/// The size of a place.
const RECORD_SIZE: i64 = RECORD.cast_signed() as i64;
/// Between two looks at what was killed.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How long processes may take to die.
const DYING: Duration = Duration::from_secs(1);

/// The file, and which of its places are taken.
#[derive(Debug, Default)]
pub(super) struct Roster {
    path: PathBuf,
    boot_id: String,
    taken: BTreeSet<u16>,
}

/// A place for one program.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// What stands in front.
    pub(super) head: Vec<u8>,
    number: u16,
}

impl Roster {
    pub(super) fn new(state_dir: &Path, boot_id: &str) -> Self {
        let path = state_dir.join("qga.state.programs");
        Self { path, boot_id: boot_id.to_owned(), taken: BTreeSet::new() }
    }

    /// The number of a free place. There are more of them than programs.
    pub(super) fn take(&mut self) -> u16 {
        let number = (0..u16::MAX).find(|number| !self.taken.contains(number)).unwrap_or(u16::MAX);
        self.taken.insert(number);
        number
    }

    pub(super) fn give_back(&mut self, number: u16) {
        self.taken.remove(&number);
    }

    /// The place with a number, for the thread that starts a program.
    pub(super) fn place(&self, number: u16) -> Place {
        let head = format!("{} ", self.boot_id).into_bytes();
        Place { path: self.path.clone(), head, number }
    }

    /// Ends what the agent before this one has left behind, each with its session. A program whose
    /// own process is gone is not found: its number may be somebody else's by now.
    pub(super) fn end_predecessors(&self) {
        let Ok(text) = bounded::read(&self.path, bounded::SMALL) else { return };
        let left: Vec<_> = text.chunks(RECORD).filter_map(|record| self.find(record)).collect();
        if left.is_empty() {
            return;
        }
        let count = left.len();
        log::warning(format_args!("killing {count} programs of the agent that was killed"));
        let deadline = Instant::now() + DYING;
        let kill = || left.iter().fold(false, |any, leader| kin::kill(*leader) | any);
        while kill() && Instant::now() < deadline {
            let _ = poll(&mut [], Some(&GLANCE));
        }
    }

    fn find(&self, record: &[u8]) -> Option<Pid> {
        let text = String::from_utf8_lossy(record);
        let stat = text.strip_prefix(self.boot_id.as_str())?.strip_prefix(' ')?;
        let (pid, _) = stat.split_once(' ')?;
        let ticks = predecessor::start_time_in(stat)?;
        predecessor::find(&format!("{pid} {ticks}"))?;
        // `find` has looked at it.
        Pid::from_raw(pid.parse().ok()?)
    }
}

impl Place {
    /// May take as long as the filesystem of the state directory.
    pub(super) fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A flag of open(2) is no negative number.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&self.path)
    }

    pub(super) fn offset(&self) -> i64 {
        i64::from(self.number) * RECORD_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_other_boots_mean_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut roster = Roster::new(dir.path(), "boot");
        assert_eq!([(); 3].map(|()| roster.take()), [0, 1, 2]);
        roster.give_back(1);
        assert_eq!((roster.take(), roster.take()), (1, 3));
        let place = roster.place(3);
        assert_eq!((place.offset(), place.head.as_slice()), (3 * 512, &b"boot "[..]));
        place.open().unwrap();

        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let me = Pid::from_raw(std::process::id().cast_signed());
        assert_eq!(roster.find(format!("boot {stat}").as_bytes()), me);
        let later = stat.replacen(predecessor::start_time_in(&stat).unwrap(), "1", 1);
        for other in [
            format!("boot2 {stat}"),
            format!("other {stat}"),
            format!("boot {later}"),
            "boot -5 ".into(),
        ] {
            assert_eq!(roster.find(other.as_bytes()), None, "{other}");
        }
        assert_eq!(roster.find(&[0; 512]), None);
    }
}
