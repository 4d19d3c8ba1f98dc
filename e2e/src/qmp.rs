//! A small client of QEMU's own control socket.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// A connection to QEMU's machine protocol.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    unread: Vec<u8>,
    events: VecDeque<Value>,
    closed: bool,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// Nobody listens at `socket`, or what answers is not QEMU.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("connecting to QMP")?;
        let mut qmp = Self { stream, unread: Vec::new(), events: VecDeque::new(), closed: false };
        let greeting = qmp.next(Instant::now() + ANSWER_BOUND)?.context("no greeting from QMP")?;
        if greeting.get("QMP").is_none() {
            bail!("not a QMP greeting: {greeting}");
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments and gives its return value.
    ///
    /// # Errors
    /// QEMU refuses, or does not answer.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).with_context(|| format!("sending {command}"))?;
        let deadline = Instant::now() + ANSWER_BOUND;
        loop {
            let mut message =
                self.next(deadline)?.with_context(|| format!("no answer to {command}"))?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(error) = message.get("error") {
                bail!("{command}: {error}");
            } else {
                return Ok(message["return"].take());
            }
        }
    }

    /// The machine's run state, such as `running` or `paused`.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn status(&mut self) -> Result<String> {
        let status = self.execute("query-status")?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Stops the guest's CPUs: the agent falls silent, the socket stays.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn stop(&mut self) -> Result<()> {
        self.execute("stop").map(drop)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn cont(&mut self) -> Result<()> {
        self.execute("cont").map(drop)
    }

    /// Waits for an event such as `SHUTDOWN` or `RESET`, dropping those before it.
    ///
    /// # Errors
    /// It does not come within `bound`, or QEMU ends first.
    pub fn wait_event(&mut self, name: &str, bound: Duration) -> Result<Value> {
        let deadline = Instant::now() + bound;
        loop {
            while let Some(event) = self.events.pop_front() {
                if event["event"] == name {
                    return Ok(event);
                }
            }
            match self.next(deadline)? {
                Some(message) => self.events.push_back(message),
                None => bail!("no {name} event within {bound:?} (QEMU gone: {})", self.closed),
            }
        }
    }

    /// The next message, or `None` at the deadline or the end.
    fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).context("reading QMP").map(Some);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.closed {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => self.closed = true,
                Err(e) => return Err(e).context("reading QMP"),
            }
        }
    }
}
