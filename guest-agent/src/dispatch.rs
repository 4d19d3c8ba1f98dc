//! From a request to the place where it runs.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;

use qga_proto::command::CommandInfo;
use qga_proto::{Job, Outcome, QgaError};

use crate::accounts::Desk;
use crate::completions::Completions;
use crate::exec::Executor;
use crate::files::FileTable;
use crate::filter::Filter;
use crate::freeze::{Freezer, phase::Phase};
use crate::gauge::Gauge;
use crate::handler::{self, Handler, Place, View};
use crate::worker::{Reply, Worker};

/// Stack of the workers' threads, in bytes.
const STACK: usize = 128 << 10;

/// The agent's commands and the threads that run them.
pub(crate) struct Dispatch {
    handlers: Vec<Handler>,
    completions: Arc<Completions>,
    files: Worker<FileTable>,
    helpers: Worker<()>,
    queries: Worker<()>,
    filesystems: Worker<Gauge>,
    trims: Worker<()>,
    accounts: Worker<Desk>,
    programs: Executor,
    freezer: Freezer,
    /// What each channel may use, by its index.
    filters: Vec<Arc<Filter>>,
    /// The file worker was given something.
    handed_over: Cell<bool>,
}

impl Dispatch {
    pub(crate) fn start(
        completions: Arc<Completions>,
        files: FileTable,
        freezer: Freezer,
        filters: Vec<Filter>,
        state_dir: &Path,
    ) -> io::Result<Self> {
        let programs = Executor::start(files.policy(), freezer.identity(), state_dir)?;
        Ok(Self {
            filters: filters.into_iter().map(Arc::new).collect(),
            handlers: handler::all(),
            completions,
            files: Worker::start_apart("file", STACK, files)?,
            helpers: Worker::start("helper", STACK, ())?,
            queries: Worker::start_apart("query", STACK, ())?,
            filesystems: Worker::start_apart("filesystem", STACK, Gauge::new())?,
            trims: Worker::start_apart("trim", STACK, ())?,
            accounts: Worker::start("account", STACK, Desk::default())?,
            programs,
            freezer,
            handed_over: Cell::new(false),
        })
    }

    /// Where the freeze engine stands.
    pub(crate) fn phase(&self) -> Phase {
        self.freezer.phase()
    }

    /// The freeze engine itself.
    pub(crate) fn freezer(&self) -> &Freezer {
        &self.freezer
    }

    /// Ends the programs that do not outlive the agent.
    pub(crate) fn end_programs(&self) {
        self.programs.end();
    }

    /// Whether the file worker was given something since this was last asked.
    pub(crate) fn take_handed_over(&self) -> bool {
        self.handed_over.take()
    }

    /// Whether a command may start now. While a freeze or thaw is under way, what is not allowed
    /// while frozen waits for its end.
    pub(crate) fn may_start(&self, info: &CommandInfo) -> bool {
        info.allowed_while_frozen || matches!(self.freezer.phase(), Phase::Thawed | Phase::Frozen)
    }

    /// Runs a job, or hands it to the thread that runs it. Returns the outcome if there is one
    /// already; otherwise it comes through the completions.
    pub(crate) fn start_job(&self, channel: usize, job: Job) -> Option<Outcome> {
        let Job { ticket, info, request } = job;
        let frozen = self.freezer.phase() != Phase::Thawed;
        let filter = &self.filters[channel];
        let allowed = filter.allows_now(info, frozen);
        if !allowed {
            return Some(Outcome::Error(QgaError::disabled(info.name)));
        }
        let found = self.handlers.binary_search_by_key(&info.name, |handler| handler.command);
        let Ok(at) = found else {
            // A test holds the handlers against proto's table.
            return Some(Outcome::Error(QgaError::not_found(info.name)));
        };
        let reply = || Reply::new(&self.completions, channel, ticket);
        match self.handlers[at].place {
            Place::Poll(run) => {
                let view = View { frozen, filter: Arc::clone(filter) };
                return Some(run(&view, &request).unwrap_or_else(Outcome::Error));
            }
            Place::Freezes(run) => {
                return Some(run(&self.freezer, &request).unwrap_or_else(Outcome::Error));
            }
            Place::Files(run) => {
                self.files.submit(run, request, reply());
                self.handed_over.set(true);
            }
            Place::FilesIf(check, run) => match check(filter, &request) {
                Ok(()) => self.files.submit(run, request, reply()),
                Err(error) => return Some(Outcome::Error(error)),
            },
            Place::Queries(run) => self.queries.submit(run, request, reply()),
            Place::Filesystems(run) => self.filesystems.submit(run, request, reply()),
            Place::Trims(run) => self.trims.submit(run, request, reply()),
            Place::Accounts(run) => self.accounts.submit(run, request, reply()),
            Place::Helpers(run) => self.helpers.submit(run, request, reply()),
            Place::Programs(ask) => self.programs.submit(ask, request, reply()),
            Place::Freezer(order) => match order(&request) {
                Ok(order) => self.freezer.submit(order, reply()),
                Err(error) => return Some(Outcome::Error(error)),
            },
        }
        None
    }
}
