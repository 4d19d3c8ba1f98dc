//! From options to a running agent, in qemu-ga's order: settings, a socket that was handed over,
//! frozen or not, log, state, channels, background, and only then threads.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;

use crate::agent::Agent;
use crate::channel::reopen::{self, Reopener};
use crate::channel::{Channel, OpenError, activation};
use crate::completions::Completions;
use crate::config::{ChannelConfig, Config};
use crate::daemon::{Background, PidFile, Readiness, become_daemon};
use crate::dispatch::Dispatch;
use crate::files::{FileTable, Leftovers};
use crate::freeze::choice::holding_state;
use crate::freeze::marker::Marker;
use crate::freeze::mounts::Mounts;
use crate::freeze::{Freezer, WhenThawed};
use crate::options::Options;
use crate::state::State;
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
    let dump = options.dump;
    let mut config = options.configure(std::env::var_os("QGA_CONF")).map_err(said)?;
    let activated = activation::take().map_err(said)?;
    if let Some(activated) = &activated {
        config.method = Some(activated.method.into());
        config.path = None;
    }
    let mut channels = config.channels();
    if let (Some(_), Some(general)) = (&activated, channels.first_mut()) {
        // It is not the agent's to make.
        general.retry = false;
    }
    if channels.iter().skip(usize::from(activated.is_some())).any(|c| c.path.is_none()) {
        return Err(said(OpenError::NoPath));
    }
    if dump {
        drop(std::io::stdout().write_all(config.dump().as_bytes()));
        return Ok(ExitCode::SUCCESS);
    }
    serve(config, channels, activated.map(|activated| activated.channel))
}

fn serve(
    config: Config,
    channels: Vec<ChannelConfig>,
    activated: Option<Channel>,
) -> Result<ExitCode, Failed> {
    let marker = Marker::new(&config.state_dir);
    let frozen = marker.exists();
    warn_of_state_dir(&config.state_dir);
    open_log(&config, &marker, frozen)?;
    let state = load_state(&config.state_dir, frozen)?;
    let signals = sys::signals::ending_signals().map_err(|e| critical("signals", &e))?;
    let mut open = open_channels(&channels, activated)?;

    let mut readiness = None;
    if config.daemonize {
        if !wait_for_one(&channels, &mut open, &signals) {
            return Ok(ExitCode::SUCCESS);
        }
        match become_daemon().map_err(|e| critical("failed to become a daemon", &e))? {
            Background::Started(true) => return Ok(ExitCode::SUCCESS),
            Background::Started(false) => return Err(Failed),
            Background::Daemon(line) => readiness = Some(line),
        }
    }
    let pid_file = SharedPidFile::default();
    let mut when_thawed: Option<WhenThawed> = None;
    if readiness.is_some() && frozen {
        let (path, pid_file) = (config.pid_file, Arc::clone(&pid_file));
        when_thawed = Some(Box::new(move || drop(write_pid_file(&path, &pid_file))));
    } else if readiness.is_some() {
        write_pid_file(&config.pid_file, &pid_file)?;
    }
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    let mut files = FileTable::new(state, config.policy, umask);
    if !frozen {
        files.sweep();
    }
    let leftovers = Leftovers::new(&config.state_dir);
    let freezer = || Freezer::start(marker, config.freeze, when_thawed);
    let dir = &config.state_dir;
    let result = run_threads((channels, open), signals, files, freezer, readiness, dir);
    leftovers.sweep_at_last();
    drop(pid_file.lock().unwrap_or_else(PoisonError::into_inner).take());
    result.map_err(|e| critical("error initializing guest agent", &e))?;
    Ok(ExitCode::SUCCESS)
}

fn run_threads(
    (channels, open): (Vec<ChannelConfig>, Vec<Channel>),
    signals: OwnedFd,
    files: FileTable,
    freezer: impl FnOnce() -> std::io::Result<Freezer>,
    readiness: Option<Readiness>,
    state_dir: &Path,
) -> std::io::Result<()> {
    log::start()?;
    let completions = Completions::new()?;
    let filters = channels.iter().map(|channel| channel.filter.clone()).collect();
    let dispatch =
        Dispatch::start(Arc::clone(&completions), files, freezer()?, filters, state_dir)?;
    let reopener = Reopener::new(Arc::clone(&completions), channels);
    let mut agent = Agent::new(open, signals, completions, dispatch, reopener)?;
    if let Some(readiness) = readiness {
        readiness.report()?;
    }
    let result = agent.run();
    agent.thaw_at_last();
    agent.end_programs();
    result
}

/// Those that cannot be opened are fatal, or closed for now. The first may be there already.
fn open_channels(
    channels: &[ChannelConfig],
    mut activated: Option<Channel>,
) -> Result<Vec<Channel>, Failed> {
    let open = |config: &ChannelConfig| {
        if let Some(channel) = activated.take() {
            return Ok(channel);
        }
        Channel::open(&config.method, config.path.clone()).or_else(|error| {
            error.log();
            if config.retry { Ok(Channel::Closed) } else { Err(Failed) }
        })
    };
    channels.iter().map(open).collect()
}

/// A daemon goes into the background once it can be reached. False if a signal came first.
fn wait_for_one(channels: &[ChannelConfig], open: &mut [Channel], signals: &OwnedFd) -> bool {
    // The interval is a few seconds.
    let interval = Timespec::try_from(reopen::INTERVAL).ok();
    while open.iter().all(|channel| matches!(channel, Channel::Closed)) {
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], interval.as_ref());
        if sys::signals::take(signals) {
            return false;
        }
        for (config, channel) in channels.iter().zip(open.iter_mut()) {
            if let Ok(opened) = Channel::open(&config.method, config.path.clone()) {
                *channel = opened;
            }
        }
    }
    true
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

fn open_log(config: &Config, marker: &Marker, frozen: bool) -> Result<(), Failed> {
    if frozen {
        log::warning(format_args!(
            "previous instance appears to have exited with frozen filesystems. deferring \
             logging/pidfile creation and disabling non-fsfreeze-safe commands until \
             guest-fsfreeze-thaw is issued, or filesystems are manually unfrozen and the file {} \
             is removed",
            marker.path().display()
        ));
        log::open_when_thawed(config.log_file.clone(), config.verbose);
        return Ok(());
    }
    log::open(config.log_file.as_deref(), config.verbose)
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
        return Err(said("error initializing guest agent"));
    }
    Ok(state)
}

fn write_pid_file(path: &Path, pid_file: &SharedPidFile) -> Result<(), Failed> {
    let created =
        PidFile::create(path).map_err(|e| critical("failed to create pidfile", &e.into()))?;
    *pid_file.lock().unwrap_or_else(PoisonError::into_inner) = Some(created);
    Ok(())
}

fn said(error: impl std::fmt::Display) -> Failed {
    log::critical(format_args!("{error}"));
    Failed
}

fn critical(what: &str, error: &std::io::Error) -> Failed {
    log::critical(format_args!("{what}: {}", errno::of(error)));
    Failed
}
