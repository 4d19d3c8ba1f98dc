//! The test's own channel into the guest, served by `qga-e2e-guest` on a virtio port.
//!
//! It is the measure of truth: whether writers make progress, what lies in a file, and when the
//! agent is killed. Lines of JSON, each request with a number that its answer repeats.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::wait::{check_interrupted, until};

/// How long an ordinary question may take; software emulation on a busy machine is slow.
const ANSWER_BOUND: Duration = Duration::from_secs(30);
/// How often a wait for a line looks whether this program is to end.
const LOOK_UP: Duration = Duration::from_millis(250);

/// What the host may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Run a shell command with busybox from memory.
    Run {
        /// The command line for `sh -c`.
        command: String,
    },
    /// How far the writers are.
    Progress,
    /// Kill the agent with SIGKILL; start it again at once if `respawn`.
    KillAgent {
        /// Whether the agent comes back by itself.
        respawn: bool,
    },
    /// Start the agent if it does not run.
    StartAgent,
    /// The agent's pid, 0 while it does not run.
    AgentPid,
}

/// What the guest answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Sent once, unasked, when the guest is up.
    Hello {
        /// The kernel's boot id, another one after every boot.
        boot_id: String,
    },
    /// Of [`Ask::Run`].
    Ran(RunResult),
    /// Of [`Ask::Progress`], by filesystem.
    Writers(BTreeMap<String, Progress>),
    /// Of the questions about the agent.
    Agent {
        /// Its pid, 0 while it does not run.
        pid: u32,
    },
    /// The question could not be answered.
    Failed(String),
}

/// How a shell command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// Exit status, -1 after a signal.
    pub status: i32,
    /// Output and error output.
    pub output: String,
}

/// How far a writer is. A blocked one has begun a record that is not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Records that it began to write.
    pub begun: u64,
    /// Records on the disk as far as the guest's kernel says (`fdatasync` returned).
    pub done: u64,
    /// Why it gave up, if it did.
    pub error: Option<String>,
}

/// A line from host to guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostLine {
    /// Number of the question, from 1.
    pub id: u64,
    /// The question.
    pub ask: Ask,
}

/// A line from guest to host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuestLine {
    /// Number of the question, 0 for [`Answer::Hello`].
    pub id: u64,
    /// The answer.
    pub answer: Answer,
}

/// The host's end.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    unread: Vec<u8>,
    hellos: VecDeque<String>,
    last_id: u64,
}

impl Control {
    /// Name of the virtio port.
    pub const PORT: &str = "org.qga.e2e.control";

    /// Connects to QEMU's socket, which stands before the guest runs.
    ///
    /// # Errors
    /// Nobody listens at `socket`.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("connecting to the control socket")?;
        Ok(Self { stream, unread: Vec::new(), hellos: VecDeque::new(), last_id: 0 })
    }

    /// Waits until the guest says that it is up; gives its boot id. Call it once per boot.
    ///
    /// # Errors
    /// The guest is not up within `bound`, or QEMU has gone.
    pub fn wait_hello(&mut self, bound: Duration) -> Result<String> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(boot_id) = self.hellos.pop_front() {
                return Ok(boot_id);
            }
            self.next_line(deadline).context("waiting for the guest to come up")?;
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// No answer in time, or the guest could not do it.
    pub fn ask(&mut self, ask: Ask) -> Result<Answer> {
        self.last_id += 1;
        let mut line = serde_json::to_vec(&HostLine { id: self.last_id, ask })?;
        line.push(b'\n');
        self.stream.write_all(&line).context("writing to the guest")?;
        let deadline = Instant::now() + ANSWER_BOUND;
        loop {
            match self.next_line(deadline)? {
                Some(GuestLine { id, answer }) if id == self.last_id => match answer {
                    Answer::Failed(why) => bail!("the guest says: {why}"),
                    answer => return Ok(answer),
                },
                _ => {}
            }
        }
    }

    /// Runs a shell command in the guest, from memory: it works while all disks are frozen, as
    /// long as the command itself writes to none of them.
    ///
    /// # Errors
    /// As [`Control::ask`]; a command that fails is no error here.
    pub fn run(&mut self, command: &str) -> Result<RunResult> {
        match self.ask(Ask::Run { command: command.to_owned() })? {
            Answer::Ran(result) => Ok(result),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Output of a shell command that must succeed, without white space at its ends.
    ///
    /// # Errors
    /// As [`Control::run`], and if the command fails.
    pub fn output(&mut self, command: &str) -> Result<String> {
        let result = self.run(command)?;
        if result.status != 0 {
            bail!("`{command}` in the guest: status {}: {}", result.status, result.output);
        }
        Ok(result.output.trim().to_owned())
    }

    /// How far each writer is, by filesystem; one that gave up says why.
    ///
    /// # Errors
    /// As [`Control::ask`].
    pub fn writers(&mut self) -> Result<BTreeMap<String, Progress>> {
        match self.ask(Ask::Progress)? {
            Answer::Writers(writers) => Ok(writers),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// How far the writer on `disk` is.
    ///
    /// # Errors
    /// As [`Control::ask`], and if the writer has given up.
    pub fn progress(&mut self, disk: Disk) -> Result<Progress> {
        let progress = self.writers()?.remove(disk.name()).context("no such writer")?;
        if let Some(error) = &progress.error {
            bail!("the writer on {disk} gave up: {error}");
        }
        Ok(progress)
    }

    /// Waits until the writer on `disk` has finished more records than it had; gives the new
    /// count.
    ///
    /// # Errors
    /// It does not go on within `bound`.
    pub fn wait_writing(&mut self, disk: Disk, bound: Duration) -> Result<u64> {
        let before = self.progress(disk)?.done;
        until(format_args!("the writer on {disk} goes on after record {before}"), bound, || {
            let done = self.progress(disk)?.done;
            Ok((done > before).then_some(done))
        })
    }

    /// The agent's pid, 0 while it does not run.
    ///
    /// # Errors
    /// As [`Control::ask`].
    pub fn agent_pid(&mut self) -> Result<u32> {
        self.agent(Ask::AgentPid)
    }

    /// Kills the agent with SIGKILL; gives the pid that it had.
    ///
    /// # Errors
    /// As [`Control::ask`].
    pub fn kill_agent(&mut self, respawn: bool) -> Result<u32> {
        self.agent(Ask::KillAgent { respawn })
    }

    /// Starts the agent if it does not run.
    ///
    /// # Errors
    /// As [`Control::ask`].
    pub fn start_agent(&mut self) -> Result<()> {
        self.agent(Ask::StartAgent).map(drop)
    }

    fn agent(&mut self, ask: Ask) -> Result<u32> {
        match self.ask(ask)? {
            Answer::Agent { pid } => Ok(pid),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// The next line, or `None` when it was a greeting, which is kept.
    fn next_line(&mut self, deadline: Instant) -> Result<Option<GuestLine>> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                // A guest that was killed in mid-line leaves half of one behind.
                let Ok(line) = serde_json::from_slice::<GuestLine>(&line) else { continue };
                if let Answer::Hello { boot_id } = line.answer {
                    self.hellos.push_back(boot_id);
                    return Ok(None);
                }
                return Ok(Some(line));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer from the guest in time");
            }
            check_interrupted()?;
            self.stream.set_read_timeout(Some(left.min(LOOK_UP)))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("QEMU closed the control socket"),
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e).context("reading from the guest"),
            }
        }
    }
}
