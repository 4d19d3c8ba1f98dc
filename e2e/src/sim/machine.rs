//! One virtual machine: a chardev's socket, the guest behind it, and the agent in the guest.

mod chardev;
mod state;
mod stop;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::state::State;
pub use self::state::Truth;
pub use self::stop::Stop;
use super::agent::Mode;
use super::clock::Clock;
use super::guest::{Guest, Kind};
use super::qemu::{Listener, listen};
use super::script::{Commands, Latency, Moment, Rule};

/// What a machine is like.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Its agent.
    pub mode: Mode,
    /// Its filesystems, in mount order.
    pub filesystems: Vec<(String, Kind)>,
    /// What its latencies are drawn from.
    pub seed: u64,
    /// Its guest's clock.
    pub clock: Clock,
    /// Somebody inside has frozen it by the agent before anybody can connect.
    pub frozen: bool,
    /// A program that listens in QEMU's place, so that the socket's listener is a process of its
    /// own (`qga-fleet`); else this process does.
    pub listener: Option<PathBuf>,
}

impl Blueprint {
    /// Two filesystems.
    pub fn new(mode: Mode) -> Self {
        let filesystems = ["/", "/srv"].map(|path| (path.to_owned(), Kind::Freezes)).to_vec();
        Self { mode, filesystems, seed: 0, clock: Clock::default(), frozen: false, listener: None }
    }
}

/// A running, or killed, virtual machine. Dropping it kills it.
#[derive(Debug)]
pub struct Machine {
    path: PathBuf,
    shared: Arc<Shared>,
    runtime: Handle,
    listener: Option<PathBuf>,
    qemu: Mutex<Option<Qemu>>,
}

/// What dies with QEMU.
#[derive(Debug)]
struct Qemu {
    serving: JoinHandle<()>,
    listener: Listener,
}

/// What the tasks of a machine share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The connection has something to do.
    wake: Notify,
    /// Something that a waiting command may have waited for.
    moved: Notify,
    /// The same for threads.
    changed: Condvar,
}

impl Machine {
    pub(super) fn start(runtime: &Handle, path: &Path, blueprint: &Blueprint) -> Result<Self> {
        let guest = Guest::new(blueprint.clock.clone(), &blueprint.filesystems, String::new());
        let state = State::new(blueprint.mode, guest, blueprint.seed);
        let machine = Self {
            path: path.to_owned(),
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                wake: Notify::new(),
                moved: Notify::new(),
                changed: Condvar::new(),
            }),
            runtime: runtime.clone(),
            listener: blueprint.listener.clone(),
            qemu: Mutex::new(None),
        };
        machine.boot_with(|state| {
            if blueprint.frozen {
                state.freeze_inside(true);
            }
        })?;
        Ok(machine)
    }

    /// The chardev's socket.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// The process that listens in QEMU's place; `None` while it is off or if this one does.
    pub fn qemu_pid(&self) -> Option<u32> {
        self.qemu().as_ref()?.listener.pid()
    }

    /// What is true of the guest now.
    pub fn truth(&self) -> Truth {
        self.state().truth()
    }

    /// How often a command was run by the guest's agent, in all its lives.
    pub fn ran(&self, name: &str) -> usize {
        self.state().ran(|ran| ran == name)
    }

    /// Waits until what `look` sees in the truth is something.
    ///
    /// # Errors
    /// It is not within `bound`.
    pub fn until<T>(
        &self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut(&Truth) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + bound;
        let mut state = self.state();
        loop {
            let truth = state.truth();
            if let Some(found) = look(&truth) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "not within {bound:?}: {what}: {truth:?}");
            // Deadlines pass without a notice.
            let pause = left.min(Duration::from_millis(20));
            state = match self.shared.changed.wait_timeout(state, pause) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// How long commands take from now on; what was said last of a command counts.
    pub fn latency(&self, commands: Commands, latency: Latency) {
        self.state().script.latency(commands, latency);
    }

    /// Begins [`Machine::slowest`] anew.
    pub fn forget_slowest(&self) {
        self.state().script.forget_slowest();
    }

    /// The longest that a command has been made to take so far.
    pub fn slowest(&self) -> Duration {
        self.state().script.slowest()
    }

    /// What happens to commands from now on.
    pub fn rule(&self, rule: Rule) {
        self.state().script.rule(rule);
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        self.state().script.clear_rules();
    }

    /// The next of these commands stops at that moment until it is let go.
    pub fn stop_at(&self, commands: Commands, moment: Moment) -> Stop {
        let id = self.state().script.stop(commands, moment);
        Stop::new(self.shared.clone(), id)
    }

    /// The agent's process is killed; nothing reads the port until there is another.
    pub fn kill_agent(&self) {
        self.change(State::kill_agent);
    }

    /// A new process of the agent finds what the old one has left in its state directory.
    pub fn start_agent(&self) {
        self.change(State::start_agent);
    }

    /// The guest is reset: another boot, nothing frozen, another agent. QEMU and its client stay.
    pub fn reset(&self) {
        self.change(State::reset);
    }

    /// Somebody inside freezes the guest, past the agent or (`through_agent`) by its command.
    pub fn freeze_inside(&self, through_agent: bool) {
        self.change(|state| state.freeze_inside(through_agent));
    }

    /// Somebody inside thaws all of it past the agent, writes, and freezes again.
    pub fn tear(&self) {
        self.change(|state| state.guest.tear());
    }

    /// The same, by the agent's own commands on another channel.
    pub fn tear_through_agent(&self) {
        self.change(State::tear_through_agent);
    }

    /// The client is thrown out; it may come back.
    pub fn hang_up(&self) {
        self.change(|state| state.hang_up = true);
    }

    /// Bytes for the client that nobody asked for.
    pub fn say(&self, bytes: &[u8]) {
        self.change(|state| state.out.extend_from_slice(bytes));
    }

    /// QEMU is killed, and with it the guest. Its socket stays unless `unlink`.
    pub fn kill_qemu(&self, unlink: bool) {
        let qemu = self.qemu().take();
        if let Some(qemu) = qemu {
            qemu.serving.abort();
            // Until the task is gone, so are not its sockets.
            let ended = Instant::now() + Duration::from_secs(5);
            while !qemu.serving.is_finished() && Instant::now() < ended {
                std::thread::yield_now();
            }
            drop(qemu.listener);
        }
        self.change(State::power_off);
        if unlink {
            // It may be another's by now, or be gone.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// QEMU is started (again), in the place of whatever socket is there, and the guest boots.
    ///
    /// # Errors
    /// There can be no socket.
    pub fn boot(&self) -> Result<()> {
        self.boot_with(|_| {})
    }

    fn boot_with(&self, first: impl FnOnce(&mut State)) -> Result<()> {
        let (listener, accepting) = listen(&self.path, self.listener.as_deref())
            .with_context(|| format!("listening on {}", self.path.display()))?;
        self.change(|state| {
            state.reset();
            first(state);
        });
        let shared = self.shared.clone();
        let _context = self.runtime.enter();
        let accepting = tokio::net::UnixListener::from_std(accepting)?;
        let serving = self.runtime.spawn(chardev::serve(shared, accepting));
        *self.qemu() = Some(Qemu { serving, listener });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.shared.notify();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn qemu(&self) -> MutexGuard<'_, Option<Qemu>> {
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(qemu) = self.qemu().take() {
            qemu.serving.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.wake.notify_one();
        self.moved.notify_waiters();
        self.changed.notify_all();
    }
}
