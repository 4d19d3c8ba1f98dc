//! Runs inside the guest, from memory: appends records to every data disk, keeps the agent
//! running, and answers the host's questions on the control port.
//!
//! `qga-e2e-guest AGENT [ARGUMENT…]`

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use qga_e2e::bare::{self, Bare};
use qga_e2e::{
    Answer, Ask, Control, Disk, GuestLine, HostLine, Progress, RECORD_LENGTH, RunResult,
    encode_record,
};
use rustix::process::{Pid, Signal, kill_process};

/// Between two records: frequent enough to notice a freeze, without eating an emulated CPU.
const RECORD_PAUSE: Duration = Duration::from_millis(10);
/// Before an agent that ended is started again.
const RESPAWN_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at a port that no host holds.
const PORT_PAUSE: Duration = Duration::from_millis(50);

fn main() -> Result<()> {
    let command: Vec<String> = std::env::args().skip(1).collect();
    let agent = Arc::new(Agent::default());
    let supervisor = Arc::clone(&agent);
    thread::spawn(move || supervisor.supervise(&command));

    let bare = port(bare::PORT);
    // A guest that is measured does nothing else.
    let disks = if bare.is_ok() { &[][..] } else { &Disk::DATA };
    if let Ok(port) = bare {
        // It ends only with the port.
        thread::spawn(move || Bare::default().serve(WhileHostless(port)));
    }
    let writers: Arc<BTreeMap<String, Arc<Writer>>> = Arc::new(
        disks
            .iter()
            .map(|disk| {
                (disk.name().to_owned(), Writer::start(&disk.mount_point().join("records")))
            })
            .collect(),
    );
    serve(&agent, &writers)
}

/// Answers on the control port for ever.
fn serve(agent: &Arc<Agent>, writers: &Arc<BTreeMap<String, Arc<Writer>>>) -> Result<()> {
    let port = port(Control::PORT).context("opening the control port")?;
    let out = Arc::new(Mutex::new(port.try_clone()?));
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    send(&out, &GuestLine { id: 0, answer: Answer::Hello { boot_id } })?;

    let mut lines = BufReader::new(WhileHostless(port));
    let mut line = String::new();
    loop {
        line.clear();
        lines.read_line(&mut line).context("reading the control port")?;
        let Ok(HostLine { id, ask }) = serde_json::from_str(&line) else { continue };
        let (agent, writers, out) = (Arc::clone(agent), Arc::clone(writers), Arc::clone(&out));
        // A command may hang on a frozen disk; the others go on.
        thread::spawn(move || {
            let answer = answer(ask, &agent, &writers);
            drop(send(&out, &GuestLine { id, answer }));
        });
    }
}

/// Opens a virtio port by its name.
fn port(name: &str) -> io::Result<File> {
    File::options().read(true).write(true).open(Path::new("/dev/virtio-ports").join(name))
}

fn send(out: &Mutex<File>, line: &GuestLine) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(lock(out).write_all(&text)?)
}

fn answer(ask: Ask, agent: &Agent, writers: &BTreeMap<String, Arc<Writer>>) -> Answer {
    match ask {
        Ask::Run { command } => run(&command),
        Ask::Progress => Answer::Writers(
            writers.iter().map(|(name, writer)| (name.clone(), writer.progress())).collect(),
        ),
        Ask::KillAgent { respawn } => Answer::Agent { pid: agent.kill(respawn) },
        Ask::StartAgent => Answer::Agent { pid: agent.start() },
        Ask::AgentPid => Answer::Agent { pid: lock(&agent.state).pid },
    }
}

fn run(command: &str) -> Answer {
    let merged = format!("exec 2>&1; {command}");
    match Command::new("/run/bin/sh").args(["-c", &merged]).stdin(Stdio::null()).output() {
        Ok(done) => Answer::Ran(RunResult {
            status: done.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&done.stdout).into_owned(),
        }),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// A panicked thread leaves nothing half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A virtio port reads as ended while no host holds it; that is no end.
struct WhileHostless(File);

impl Read for WhileHostless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer)? {
                0 => thread::park_timeout(PORT_PAUSE),
                count => return Ok(count),
            }
        }
    }
}

impl Write for WhileHostless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Appends records to one file.
#[derive(Default)]
struct Writer {
    begun: AtomicU64,
    done: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Writer {
    fn start(path: &Path) -> Arc<Self> {
        let writer = Arc::new(Self::default());
        let shared = Arc::clone(&writer);
        let path: PathBuf = path.to_owned();
        thread::spawn(move || {
            if let Err(error) = shared.write(&path) {
                *lock(&shared.error) = Some(error.to_string());
            }
        });
        writer
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::options().create(true).append(true).open(path)?;
        // What an earlier boot was killed over ends in a torn record at most.
        let whole = file.metadata()?.len() / RECORD_LENGTH as u64;
        file.set_len(whole * RECORD_LENGTH as u64)?;
        self.done.store(whole, Ordering::SeqCst);
        for number in whole.. {
            self.begun.store(number + 1, Ordering::SeqCst);
            file.write_all(&encode_record(number))?;
            file.sync_data()?;
            self.done.store(number + 1, Ordering::SeqCst);
            thread::park_timeout(RECORD_PAUSE);
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress {
            begun: self.begun.load(Ordering::SeqCst),
            done: self.done.load(Ordering::SeqCst),
            error: lock(&self.error).clone(),
        }
    }
}

/// Keeps the agent running unless told otherwise.
struct Agent {
    state: Mutex<AgentState>,
    changed: Condvar,
}

struct AgentState {
    pid: u32,
    wanted: bool,
}

impl Default for Agent {
    fn default() -> Self {
        Self { state: Mutex::new(AgentState { pid: 0, wanted: true }), changed: Condvar::new() }
    }
}

impl Agent {
    fn supervise(&self, command: &[String]) {
        loop {
            let mut state = lock(&self.state);
            while !state.wanted {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let mut child = spawn_agent(command);
            state.pid = child.as_ref().map_or(0, Child::id);
            drop(state);
            if let Some(child) = &mut child {
                drop(child.wait());
            }
            lock(&self.state).pid = 0;
            thread::park_timeout(RESPAWN_PAUSE);
        }
    }

    fn kill(&self, respawn: bool) -> u32 {
        let mut state = lock(&self.state);
        state.wanted = respawn;
        if let Some(pid) = i32::try_from(state.pid).ok().and_then(Pid::from_raw) {
            let _gone = kill_process(pid, Signal::KILL);
        }
        state.pid
    }

    fn start(&self) -> u32 {
        let mut state = lock(&self.state);
        state.wanted = true;
        self.changed.notify_all();
        state.pid
    }
}

fn spawn_agent(command: &[String]) -> Option<Child> {
    let (program, args) = command.split_first()?;
    let log = File::options().create(true).append(true).open("/run/agent.log").ok()?;
    Command::new(program)
        .args(args)
        .env("PATH", "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(log.try_clone().ok()?)
        .stderr(log)
        .spawn()
        .ok()
}
