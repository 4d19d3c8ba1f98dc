//! QEMU's control socket, in this process: one client at a time, answers from a script.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// A QMP socket whose client is told what the test says.
pub(crate) struct Qmp {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    truth: Mutex<Truth>,
    events: broadcast::Sender<Value>,
}

/// What QEMU would know.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) status: &'static str,
    pub(crate) port_open: bool,
    /// The agent's socket, as QEMU lists it.
    pub(crate) chardev: String,
    /// Commands in the order in which they came.
    pub(crate) asked: Vec<String>,
    pub(crate) connections: usize,
}

impl Qmp {
    /// Of a VM that runs, with an agent behind `agent` that has its port open.
    pub(crate) fn start(path: &Path, agent: &Path) -> Self {
        Self::with(path, agent, |_| {})
    }

    pub(crate) fn with(path: &Path, agent: &Path, change: impl FnOnce(&mut Truth)) -> Self {
        let mut truth = Truth {
            status: "running",
            port_open: true,
            chardev: format!("unix:{},server=on", agent.display()),
            asked: Vec::new(),
            connections: 0,
        };
        change(&mut truth);
        let shared =
            Arc::new(Shared { truth: Mutex::new(truth), events: broadcast::Sender::new(16) });
        let listener = UnixListener::bind(path).expect("bind");
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let _ = serving.serve(stream).await;
            }
        });
        Self { shared, task }
    }

    pub(crate) fn truth(&self) -> Truth {
        self.shared.truth.lock().expect("truth").clone()
    }

    /// Changes the truth, and then tells the client of it.
    pub(crate) fn happens(&self, event: &str, change: impl FnOnce(&mut Truth)) {
        change(&mut self.shared.truth.lock().expect("truth"));
        let event = json!({ "timestamp": { "seconds": 1, "microseconds": 2 }, "event": event });
        let _ = self.shared.events.send(event);
    }

    pub(crate) fn stop(&self) {
        self.happens("STOP", |truth| truth.status = "paused");
    }

    pub(crate) fn resume(&self) {
        self.happens("RESUME", |truth| truth.status = "running");
    }

    pub(crate) fn port(&self, open: bool) {
        self.happens("VSERPORT_CHANGE", |truth| truth.port_open = open);
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn serve(&self, stream: UnixStream) -> std::io::Result<()> {
        let mut events = self.events.subscribe();
        self.truth.lock().expect("truth").connections += 1;
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let version = json!({ "qemu": { "major": 10, "minor": 0, "micro": 0 }, "package": "" });
        let greeting = json!({ "QMP": { "version": version, "capabilities": ["oob"] } });
        writer.write_all(format!("{greeting}\r\n").as_bytes()).await?;
        loop {
            let line = tokio::select! {
                line = lines.next_line() => match line? {
                    Some(line) => self.answer(&line),
                    None => return Ok(()),
                },
                event = events.recv() => event.expect("few events"),
            };
            writer.write_all(format!("{line}\r\n").as_bytes()).await?;
        }
    }

    fn answer(&self, line: &str) -> Value {
        let request: Value = serde_json::from_str(line).expect("a request");
        let command = request["execute"].as_str().expect("a command").to_owned();
        let mut truth = self.truth.lock().expect("truth");
        truth.asked.push(command.clone());
        match command.as_str() {
            "qmp_capabilities" => json!({ "return": {} }),
            "query-status" => {
                let status = truth.status;
                json!({ "return": { "status": status, "running": status == "running" } })
            }
            "query-chardev" => json!({ "return": [
                { "label": "compat_monitor0", "filename": "stdio", "frontend-open": true },
                { "label": "qga", "filename": truth.chardev, "frontend-open": truth.port_open },
            ] }),
            other => panic!("asked for {other}"),
        }
    }
}
