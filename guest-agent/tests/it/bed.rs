//! An agent that listens on a socket in a temporary directory, and clients for it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

/// What anything in these tests may take at most.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Waits until `check` gives something.
pub(crate) fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).unwrap();
    }
}

/// The agent's binary.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_qga-agent");

/// A running agent. It is killed when this is dropped.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    /// Runs `command`, which is to listen on `socket`, until it does.
    pub(crate) fn spawn(command: &mut Command, socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        wait_for("the agent's socket", || {
            assert_eq!(child.try_wait().unwrap(), None, "the agent ended: {command:?}");
            UnixStream::connect(socket).ok()
        });
        Self { child, socket: socket.to_owned() }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for("the agent's end", || self.child.try_wait().unwrap())
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let deadline = Instant::now() + Duration::from_secs(2);
        // A thread that is stuck in the kernel keeps it from going; that is not ours to wait for.
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        }
    }
}

/// A directory with a state directory and a place for the socket.
pub(crate) struct Bed {
    pub(crate) dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command line of an agent in this bed.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-m", "unix-listen", "-p"]).arg(self.path("socket"));
        command.arg("-t").arg(self.path("state"));
        command.current_dir(self.dir.path()).stderr(Stdio::null());
        command
    }

    pub(crate) fn start(&self) -> Agent {
        Agent::spawn(&mut self.command(AGENT), &self.path("socket"))
    }
}

/// One client of an agent.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    received: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = wait_for("a connection", || UnixStream::connect(socket).ok());
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self { stream, received: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, without its newline; a sentinel shows as `<FF>`.
    pub(crate) fn line(&mut self) -> String {
        let mut searched = 0;
        let end = loop {
            if let Some(end) = self.received[searched..].iter().position(|&byte| byte == b'\n') {
                break searched + end;
            }
            searched = self.received.len();
            let mut buffer = [0; 65536];
            let n = match self.stream.read(&mut buffer) {
                // With a timeout set, the kernel does not start a read again by itself.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.expect("an answer in time"),
            };
            assert!(n > 0, "the agent closed the connection");
            self.received.extend_from_slice(&buffer[..n]);
        };
        let line: Vec<u8> = self.received.drain(..=end).collect();
        let mut text = String::new();
        for &byte in &line[..end] {
            match byte {
                0xFF => text.push_str("<FF>"),
                _ => text.push(char::from(byte)),
            }
        }
        text
    }

    /// Appends what has come, at least one byte.
    pub(crate) fn receive(&mut self, received: &mut Vec<u8>) {
        let mut buffer = [0; 65536];
        let n = self.stream.read(&mut buffer).expect("an answer in time");
        assert!(n > 0, "the agent closed the connection");
        received.extend_from_slice(&buffer[..n]);
    }

    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> String {
        self.send(request);
        self.line()
    }

    /// Calls a command and returns its answer's line. `arguments` is JSON, or empty.
    pub(crate) fn call(&mut self, command: &str, arguments: &str) -> String {
        let arguments = if arguments.is_empty() { "{}" } else { arguments };
        self.ask(format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n"))
    }

    /// As [`call`](Self::call), for an answer that is a success; returns what stands behind
    /// `return`.
    pub(crate) fn get(&mut self, command: &str, arguments: &str) -> String {
        let line = self.call(command, arguments);
        let value = line.strip_prefix("{\"return\": ").and_then(|rest| rest.strip_suffix('}'));
        value.unwrap_or_else(|| panic!("{command} {arguments}: {line}")).to_owned()
    }

    /// As [`call`](Self::call), for an answer that is an error; returns its text.
    pub(crate) fn error(&mut self, command: &str, arguments: &str) -> String {
        let line = self.call(command, arguments);
        let text = line.strip_prefix("{\"error\": {\"class\": \"GenericError\", \"desc\": \"");
        let text = text.and_then(|rest| rest.strip_suffix("\"}}"));
        text.unwrap_or_else(|| panic!("{command} {arguments}: {line}")).to_owned()
    }

    /// Calls an extension: its answer, or the error's `errno` and text.
    pub(crate) fn extension(
        &mut self,
        command: &str,
        arguments: &serde_json::Value,
    ) -> Result<serde_json::Value, (String, String)> {
        let line = self.call(command, &arguments.to_string());
        let mut answer: serde_json::Value = serde_json::from_str(&line).unwrap();
        if let Some(value) = answer.get_mut("return") {
            return Ok(value.take());
        }
        let text = |member: &str| answer["error"][member].as_str().map(str::to_owned);
        match (text("errno"), text("desc")) {
            (Some(errno), Some(desc)) => Err((errno, desc)),
            _ => panic!("{command} {arguments}: {line}"),
        }
    }

    /// What comes until the agent closes the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.stream.read_to_end(&mut self.received).unwrap();
        std::mem::take(&mut self.received)
    }
}
