//! An agent's process and what it keeps in its state directory.

mod answers;
mod files;
mod lists;
mod old;
mod programs;
mod qga;
mod stock;

use std::time::Duration;

use qga_proto::command::{Command as _, GuestSync, GuestSyncDelimited, ThawCause};
use qga_proto::{Job, Outcome, QgaError, Ticket};

pub(super) use self::old::{OldLine, OldLines};
use self::qga::Record;
use super::guest::{Ended, Guest};

/// How long VSS holds a freeze.
pub(super) const VSS_HOLDS: Duration = Duration::from_secs(10);

/// Which agent a guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// qemu-ga 7.2 on Linux: strictly one command after the other, counts, a status.
    #[default]
    Stock,
    /// qga-agent, with leases, deadlines and reports as in `docs/extensions.md`.
    Qga,
    /// qemu-ga on Windows: VSS thaws by itself after ten seconds, and the agent learns so at its
    /// thaw.
    Windows,
    /// qemu-ga on FreeBSD: freezes, but lists no filesystems.
    Bsd,
    /// qemu-ga 0.15: no list of commands, no `id`, no delimited sync.
    Ancient,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Stock, Self::Qga, Self::Windows, Self::Bsd, Self::Ancient];

    /// Its name on a command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Qga => "qga",
            Self::Windows => "windows",
            Self::Bsd => "bsd",
            Self::Ancient => "ancient",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| format!("no such mode; there are {known}"))
    }
}

/// The process, and what outlives it.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) mode: Mode,
    /// Random for each start.
    pub(super) instance: String,
    /// In the state directory: the agent calls itself frozen.
    marker: bool,
    /// In the state directory: freezes begun so far, and the one in force.
    generation: u64,
    record: Option<Record>,
    last_thaw: Option<qga::Past>,
    /// The results and the end of the last freeze, for the report.
    last: qga::Last,
    /// A freeze that has been received and not been run.
    freezing: Option<Freezing>,
    files: files::Files,
    programs: programs::Programs,
}

#[derive(Debug)]
struct Freezing {
    ticket: Ticket,
    lease: Option<String>,
    since: Duration,
    stopped: bool,
}

impl Agent {
    pub(super) fn new(mode: Mode, instance: String) -> Self {
        Self {
            mode,
            instance,
            marker: false,
            generation: 0,
            record: None,
            last_thaw: None,
            last: qga::Last::default(),
            freezing: None,
            files: files::Files::default(),
            programs: programs::Programs::default(),
        }
    }

    /// Another process takes up what the state directory holds.
    pub(super) fn restart(&mut self, instance: String) {
        self.instance = instance;
        self.freezing = None;
        self.files.close_all();
        self.programs = programs::Programs::default();
    }

    /// The guest was started anew: `/run` is empty, and a freeze of another boot is over.
    pub(super) fn reboot(&mut self, guest: &Guest, instance: String) {
        self.restart(instance);
        self.marker = false;
        if self.record.is_some() {
            self.ended(guest.now(), ThawCause::Restart, 0);
        }
    }

    /// Lets happen what time has brought.
    pub(super) fn settle(&mut self, guest: &mut Guest) {
        let now = guest.now();
        if let Some(deadline) = self.record.as_ref().and_then(|record| record.deadline)
            && deadline <= now
        {
            let by = Ended::Itself(ThawCause::Deadline);
            let count = guest.thaw_all(&by, deadline);
            self.ended(deadline, ThawCause::Deadline, count);
        }
        let since = guest.current().map(|episode| episode.since);
        if let (Mode::Windows, Some(since)) = (self.mode, since)
            && now >= since + VSS_HOLDS
        {
            guest.thaw_all(&Ended::Itself(ThawCause::Deadline), since + VSS_HOLDS);
        }
    }

    /// Whether the agent says that it is frozen.
    pub(super) fn says_frozen(&self) -> bool {
        self.marker || self.record.is_some()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// When the guest thaws by itself.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.record.as_ref()?.deadline
    }

    /// Whether commands wait for each other, as in qemu-ga.
    pub(super) fn serial(&self) -> bool {
        self.mode != Mode::Qga
    }

    /// A command has come; it is run later.
    pub(super) fn received(&mut self, guest: &Guest, job: &Job) {
        if job.info.is_freeze() && self.freezing.is_none() && !self.says_frozen() {
            let lease = qga::lease_of(job);
            let since = guest.now();
            self.freezing = Some(Freezing { ticket: job.ticket, lease, since, stopped: false });
        }
    }

    /// Whether the freeze of this job was ended before it was run.
    pub(super) fn is_stopped(&self, ticket: Ticket) -> bool {
        self.freezing.as_ref().is_some_and(|freezing| freezing.ticket == ticket && freezing.stopped)
    }

    /// Runs a command.
    pub(super) fn run(&mut self, guest: &mut Guest, job: &Job) -> Outcome {
        self.settle(guest);
        let name = job.info.name;
        let outcome = if !lists::has(self.mode, name) {
            Outcome::Error(QgaError::not_found(name))
        } else if self.says_frozen() && !job.info.allowed_while_frozen {
            Outcome::Error(QgaError::disabled(name))
        } else if name == GuestSyncDelimited::INFO.name {
            job.request.arguments().map(|GuestSyncDelimited { id }| id).into()
        } else if name == GuestSync::INFO.name {
            job.request.arguments().map(|GuestSync { id }| id).into()
        } else if name.contains("-fsfreeze-") {
            match self.mode {
                Mode::Qga => self.run_qga(guest, job),
                _ => self.run_stock(guest, job),
            }
        } else {
            self.answer(guest, job)
        };
        if self.freezing.as_ref().is_some_and(|freezing| freezing.ticket == job.ticket) {
            self.freezing = None;
        }
        outcome
    }
}
