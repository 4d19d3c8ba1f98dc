//! From options to a running agent, in qemu-ga's order: frozen or not, log, state, channel,
//! background, and only then threads.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::Mode;

use crate::agent::Agent;
use crate::channel::{Channel, OpenError};
use crate::daemon::{Background, PidFile, Readiness, become_daemon};
use crate::dispatch::Dispatch;
use crate::files::FileTable;
use crate::freeze::choice::holding_state;
use crate::freeze::marker::Marker;
use crate::freeze::mounts::Mounts;
use crate::freeze::settings::FreezeSettings;
use crate::freeze::{Freezer, WhenThawed};
use crate::options::Options;
use crate::state::State;
use crate::worker::Completions;
use crate::{errno, log, sys};

/// The pid file, created at the start or after the thaw of a frozen start, removed at the end.
type SharedPidFile = Arc<Mutex<Option<PidFile>>>;

/// Has been said already.
struct Failed;

/// Runs the agent to its end.
pub(crate) fn run(options: Options) -> ExitCode {
    sys::memory::configure_allocator();
    // Files that clients create are never writable for all, whatever the agent was started with.
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask | Mode::from_raw_mode(0o022));

    let result = start(options);
    log::flush(Duration::from_secs(1));
    result.unwrap_or(ExitCode::FAILURE)
}

fn start(options: Options) -> Result<ExitCode, Failed> {
    let marker = Marker::new(&options.state_dir);
    let frozen = marker.exists();
    warn_of_state_dir(&options.state_dir);
    open_log(&options, &marker, frozen)?;
    let state = load_state(&options.state_dir, frozen)?;
    let channel = open_channel(&options.method, options.path)?;

    let mut readiness = None;
    if options.daemonize {
        match become_daemon().map_err(|e| critical("failed to become a daemon", &e))? {
            Background::Started(true) => return Ok(ExitCode::SUCCESS),
            Background::Started(false) => return Err(Failed),
            Background::Daemon(line) => readiness = Some(line),
        }
    }
    let pid_file = SharedPidFile::default();
    let mut when_thawed: Option<WhenThawed> = None;
    if readiness.is_some() && frozen {
        let (path, pid_file) = (options.pid_file, Arc::clone(&pid_file));
        when_thawed = Some(Box::new(move || drop(write_pid_file(&path, &pid_file))));
    } else if readiness.is_some() {
        write_pid_file(&options.pid_file, &pid_file)?;
    }
    let settings = FreezeSettings { hook: options.fsfreeze_hook, ..FreezeSettings::default() };
    let freezer = || Freezer::start(marker, settings, when_thawed);
    let result = serve(channel, state, freezer, readiness);
    drop(pid_file.lock().unwrap_or_else(PoisonError::into_inner).take());
    result.map_err(|e| critical("error initializing guest agent", &e))?;
    Ok(ExitCode::SUCCESS)
}

fn serve(
    channel: Channel,
    state: State,
    freezer: impl FnOnce() -> std::io::Result<Freezer>,
    readiness: Option<Readiness>,
) -> std::io::Result<()> {
    let signals = sys::signals::ending_signals()?;
    log::start()?;
    let completions = Completions::new()?;
    let freezer = freezer()?;
    let dispatch = Dispatch::start(Arc::clone(&completions), FileTable::new(state), freezer)?;
    let mut agent = Agent::new(vec![channel], signals, completions, dispatch)?;
    if let Some(readiness) = readiness {
        readiness.report()?;
    }
    let result = agent.run();
    agent.thaw_at_last();
    result
}

fn warn_of_state_dir(dir: &Path) {
    let Ok(mounts) = Mounts::read() else { return };
    if let Ok(Some(target)) = holding_state(&mounts, &mounts.targets(), dir) {
        log::warning(format_args!(
            "the state directory {} lies on {}, which therefore cannot be frozen; \
             choose another one with --statedir",
            dir.display(),
            target.path.display()
        ));
    }
}

fn open_log(options: &Options, marker: &Marker, frozen: bool) -> Result<(), Failed> {
    if frozen {
        log::warning(format_args!(
            "previous instance appears to have exited with frozen filesystems. deferring \
             logging/pidfile creation and disabling non-fsfreeze-safe commands until \
             guest-fsfreeze-thaw is issued, or filesystems are manually unfrozen and the file {} \
             is removed",
            marker.path().display()
        ));
        log::open_when_thawed(options.log_file.clone(), options.verbose);
        return Ok(());
    }
    log::open(options.log_file.as_deref(), options.verbose)
        .map_err(|e| critical("unable to open specified log file", &e))
}

/// While filesystems are frozen, the state is left for the first file that is opened.
fn load_state(dir: &Path, frozen: bool) -> Result<State, Failed> {
    let mut state = State::new(dir);
    if !frozen && let Err(e) = state.load() {
        let path = state.path().display();
        let e = errno::of(&e);
        log::critical(format_args!("failed to write persistent state to {path}: {e}"));
        log::critical(format_args!("unable to create state file at path {path}"));
        log::critical(format_args!("failed to load persistent state"));
        log::critical(format_args!("error initializing guest agent"));
        return Err(Failed);
    }
    Ok(state)
}

fn open_channel(method: &str, path: Option<PathBuf>) -> Result<Channel, Failed> {
    Channel::open(method, path).map_err(|error| {
        log::critical(format_args!("{error}"));
        if matches!(error, OpenError::Device { .. } | OpenError::Bind { .. }) {
            log::critical(format_args!("failed to create guest agent channel"));
        }
        log::critical(format_args!("failed to initialize guest agent channel"));
        Failed
    })
}

fn write_pid_file(path: &Path, pid_file: &SharedPidFile) -> Result<(), Failed> {
    let created =
        PidFile::create(path).map_err(|e| critical("failed to create pidfile", &e.into()))?;
    *pid_file.lock().unwrap_or_else(PoisonError::into_inner) = Some(created);
    Ok(())
}

fn critical(what: &str, error: &std::io::Error) -> Failed {
    log::critical(format_args!("{what}: {}", errno::of(error)));
    Failed
}
