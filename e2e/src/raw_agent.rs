//! A bare client on an agent's chardev socket, without the gateway and without `qga-proto`, so
//! that a fault of theirs cannot hide itself.

use std::fmt::{self, Display};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long a command may take unless told otherwise.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// An error that the agent answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentError {
    /// Such as `GenericError`.
    pub class: String,
    /// The agent's text.
    pub desc: String,
}

impl Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.desc)
    }
}

impl std::error::Error for AgentError {}

/// One connection to an agent.
#[derive(Debug)]
pub struct RawAgent {
    stream: UnixStream,
    unread: Vec<u8>,
    last_id: u64,
}

impl RawAgent {
    /// Connects. QEMU lets a second client connect too, and serves it when the first has gone.
    ///
    /// # Errors
    /// Nobody listens at `socket`.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connecting to {}", socket.display()))?;
        Ok(Self { stream, unread: Vec::new(), last_id: 0x7161_0000 })
    }

    /// `guest-sync-delimited`: drops whatever earlier clients left on the wire.
    ///
    /// # Errors
    /// No answer in time.
    pub fn sync(&mut self) -> Result<()> {
        self.last_id += 1;
        let id = self.last_id;
        let mut bytes = vec![0xff];
        bytes.extend_from_slice(request("guest-sync-delimited", &json!({ "id": id })).as_bytes());
        self.send(&bytes)?;
        let deadline = Instant::now() + ANSWER_BOUND;
        loop {
            let line = self.line(deadline).context("waiting for the sync's answer")?;
            let Some(at) = line.iter().rposition(|b| *b == 0xff) else { continue };
            let answer: Value = serde_json::from_slice(&line[at + 1..])?;
            if answer["return"] == json!(id) {
                return Ok(());
            }
        }
    }

    /// Runs a command and gives its return value.
    ///
    /// # Errors
    /// [`AgentError`] if the agent answers one; else no answer in time, or nonsense.
    pub fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(request(command, arguments).as_bytes())?;
        let line = self
            .line(Instant::now() + ANSWER_BOUND)
            .with_context(|| format!("waiting for {command}"))?;
        let mut answer: Value = serde_json::from_slice(&line)
            .with_context(|| format!("{command}: {:?}", String::from_utf8_lossy(&line)))?;
        if let Some(error) = answer.get("error") {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            return Err(AgentError { class: text("class"), desc: text("desc") }.into());
        }
        Ok(answer["return"].take())
    }

    /// Writes bytes as they are, and waits for nothing.
    ///
    /// # Errors
    /// The socket has gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("writing to the agent")
    }

    /// The next line as it stands on the wire.
    ///
    /// # Errors
    /// None came in time.
    pub fn answer(&mut self) -> Result<Vec<u8>> {
        self.line(Instant::now() + ANSWER_BOUND)
    }

    fn line(&mut self, deadline: Instant) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                return Ok(self.unread.drain(..=end).collect());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the agent did not answer in time");
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("QEMU closed the agent's socket"),
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e).context("reading from the agent"),
            }
        }
    }
}

fn request(command: &str, arguments: &Value) -> String {
    let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
    text.push('\n');
    text
}
