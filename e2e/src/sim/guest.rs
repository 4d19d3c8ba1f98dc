//! The inside of a guest, as its kernel knows it: which filesystems are frozen, since when and by
//! whom, and what was written to them meanwhile.
//!
//! A program in the guest writes whenever it can: to each filesystem once at the moment of its
//! thaw, and then a hundred times a second. So two looks at a frozen filesystem see the same
//! number of writes only if it was frozen all the time between them.

use std::collections::VecDeque;
use std::time::Duration;

use qga_proto::command::{FreezeResult, ThawCause, ThawResult};

use super::clock::Clock;

/// Freezes that a guest remembers.
const HISTORY: usize = 256;
/// How often the program in the guest writes.
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// How a filesystem takes a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As ext4 does.
    Freezes,
    /// It cannot, and is passed over (vfat, squashfs, …).
    Unsupported,
    /// It fails, and with it the whole freeze.
    Fails,
}

/// One mounted filesystem.
#[derive(Clone, Debug)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mountpoint: String,
    /// How it takes a freeze.
    pub kind: Kind,
    /// Whether it is frozen.
    pub frozen: bool,
    /// How often it was written to.
    pub writes: u64,
    /// Time that it was thawed, without the time since `changed`.
    thawed_for: Duration,
    changed: Duration,
    thaws: u64,
    /// How often it was thawed and frozen again past the agent since that froze it: what the
    /// counters of its device would show.
    pub(super) torn: u64,
}

/// From the first frozen filesystem to the last thawed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// When it began, on the guest's clock.
    pub since: Duration,
    /// When it ended; `None` while it lasts.
    pub until: Option<Duration>,
    /// What froze.
    pub by: By,
    /// What thawed.
    pub ended: Option<Ended>,
}

/// What froze a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A command to the agent, for a lease if it was one of ours.
    Command {
        /// Its name.
        name: String,
        /// The lease that it named.
        lease: Option<String>,
        /// The agent's number for it; 0 if it does not count.
        generation: u64,
    },
    /// Somebody inside.
    Inside,
}

/// What thawed a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A command to the agent, for a lease if it was one of ours.
    Command {
        /// Its name.
        name: String,
        /// The lease that it named.
        lease: Option<String>,
    },
    /// The agent or VSS, by itself.
    Itself(ThawCause),
    /// Somebody inside.
    Inside,
    /// The guest was reset or switched off.
    Reset,
}

/// The kernel and the disks of one guest.
#[derive(Debug)]
pub(super) struct Guest {
    clock: Clock,
    pub(super) boot_id: String,
    pub(super) filesystems: Vec<Filesystem>,
    current: Option<Episode>,
    past: VecDeque<Episode>,
}

impl Guest {
    pub(super) fn new(clock: Clock, filesystems: &[(String, Kind)], boot_id: String) -> Self {
        let now = clock.now();
        let filesystems = filesystems
            .iter()
            .map(|(mountpoint, kind)| Filesystem {
                mountpoint: mountpoint.clone(),
                kind: *kind,
                frozen: false,
                writes: 0,
                thawed_for: Duration::ZERO,
                changed: now,
                thaws: 0,
                torn: 0,
            })
            .collect();
        Self { clock, boot_id, filesystems, current: None, past: VecDeque::new() }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Freezes one filesystem.
    pub(super) fn freeze(&mut self, at: usize, by: &By) -> FreezeResult {
        let now = self.now();
        let filesystem = &mut self.filesystems[at];
        match filesystem.kind {
            Kind::Unsupported => return FreezeResult::Unsupported,
            Kind::Fails => return FreezeResult::Failed,
            Kind::Freezes if filesystem.frozen => return FreezeResult::AlreadyFrozen,
            Kind::Freezes => {}
        }
        filesystem.settle(now);
        filesystem.frozen = true;
        filesystem.torn = 0;
        self.current.get_or_insert_with(|| Episode {
            since: now,
            until: None,
            by: by.clone(),
            ended: None,
        });
        FreezeResult::Frozen
    }

    /// Thaws one filesystem at `at_time`, which may have passed already.
    pub(super) fn thaw(&mut self, at: usize, by: &Ended, at_time: Duration) -> ThawResult {
        let filesystem = &mut self.filesystems[at];
        if !filesystem.frozen {
            return ThawResult::NotFrozen;
        }
        filesystem.changed = at_time;
        filesystem.frozen = false;
        // Whoever waited to write does so now.
        filesystem.thaws += 1;
        if self.filesystems.iter().all(|filesystem| !filesystem.frozen)
            && let Some(mut episode) = self.current.take()
        {
            episode.until = Some(at_time);
            episode.ended = Some(by.clone());
            if self.past.len() == HISTORY {
                self.past.pop_front();
            }
            self.past.push_back(episode);
        }
        ThawResult::Thawed
    }

    /// How many filesystems were thawed.
    pub(super) fn thaw_all(&mut self, by: &Ended, at_time: Duration) -> u64 {
        let thawed = |guest: &mut Self, at| guest.thaw(at, by, at_time) == ThawResult::Thawed;
        (0..self.filesystems.len()).map(|at| u64::from(thawed(self, at))).sum()
    }

    /// Thaws, lets the writers write, and freezes again, past the agent.
    pub(super) fn tear(&mut self) {
        let frozen: Vec<usize> =
            (0..self.filesystems.len()).filter(|at| self.filesystems[*at].frozen).collect();
        let now = self.now();
        self.thaw_all(&Ended::Inside, now);
        for at in frozen {
            let torn = self.filesystems[at].torn + 1;
            self.freeze(at, &By::Inside);
            self.filesystems[at].torn = torn;
        }
    }

    /// What was just done was done by somebody inside.
    pub(super) fn mark_inside(&mut self) {
        if let Some(episode) = &mut self.current {
            episode.by = By::Inside;
        } else if let Some(episode) = self.past.back_mut() {
            episode.ended = Some(Ended::Inside);
        }
    }

    /// Another boot: nothing is frozen any more.
    pub(super) fn reset(&mut self, boot_id: String) {
        let now = self.now();
        self.thaw_all(&Ended::Reset, now);
        self.boot_id = boot_id;
    }

    pub(super) fn current(&self) -> Option<&Episode> {
        self.current.as_ref()
    }

    pub(super) fn past(&self) -> Vec<Episode> {
        self.past.iter().cloned().collect()
    }

    /// The filesystems, with their writes counted until now.
    pub(super) fn counted(&self) -> Vec<Filesystem> {
        let now = self.now();
        let counted = |filesystem: &Filesystem| {
            let mut filesystem = filesystem.clone();
            filesystem.settle(now);
            filesystem
        };
        self.filesystems.iter().map(counted).collect()
    }
}

impl Filesystem {
    /// Counts what was written until `now`.
    fn settle(&mut self, now: Duration) {
        if !self.frozen {
            self.thawed_for += now.saturating_sub(self.changed);
        }
        self.changed = now;
        let regular = self.thawed_for.as_millis() / WRITE_EVERY.as_millis();
        self.writes = self.thaws + u64::try_from(regular).unwrap_or(u64::MAX / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        let disks = [("/", Kind::Freezes), ("/efi", Kind::Unsupported), ("/srv", Kind::Freezes)];
        let disks = disks.map(|(mountpoint, kind)| (mountpoint.to_owned(), kind));
        Guest::new(Clock::default(), &disks, "boot".into())
    }

    fn writes(guest: &Guest) -> u64 {
        guest.counted().iter().filter(|f| f.kind == Kind::Freezes).map(|f| f.writes).sum()
    }

    #[test]
    fn nothing_is_written_while_frozen_and_a_tear_shows() {
        let mut guest = guest();
        guest.clock.advance(Duration::from_secs(1));
        let results: Vec<_> = (0..3).map(|at| guest.freeze(at, &By::Inside)).collect();
        use FreezeResult::{Frozen, Unsupported};
        assert_eq!(results, [Frozen, Unsupported, Frozen]);
        let before = writes(&guest);
        assert!(before >= 200, "{before}");
        guest.clock.advance(Duration::from_secs(60));
        assert_eq!(writes(&guest), before);
        guest.tear();
        assert_eq!(writes(&guest), before + 2);
        assert_eq!(guest.past().len(), 1);
        assert!(guest.current().is_some());
    }

    #[test]
    fn an_episode_lasts_until_the_last_filesystem_is_thawed() {
        let mut guest = guest();
        guest.freeze(0, &By::Inside);
        guest.freeze(2, &By::Inside);
        let now = guest.now();
        assert_eq!(guest.thaw(0, &Ended::Inside, now), ThawResult::Thawed);
        assert_eq!(guest.thaw(0, &Ended::Inside, now), ThawResult::NotFrozen);
        assert!(guest.current().is_some());
        assert_eq!(guest.thaw_all(&Ended::Reset, now), 1);
        assert_eq!(guest.past()[0].ended, Some(Ended::Reset));
        assert!(guest.current().is_none());
    }
}
