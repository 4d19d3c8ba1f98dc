//! An agent as old as QEMU 0.15: no delimited sync, no `id`, no command list, numbers where later
//! ones take names, and a freeze or thaw that fails by a negative count.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct OldAgent(Arc<Mutex<Truth>>);

#[derive(Debug)]
pub(crate) struct Truth {
    /// What `guest-fsfreeze-status` says: `thawed`, `frozen`, or `error` after a failure.
    pub(crate) status: &'static str,
    /// Answered instead of doing what the command says, for as long as it stands here.
    pub(crate) instead: HashMap<&'static str, Value>,
    /// The next reply to this command is repeated in front of what is written after it.
    pub(crate) twice: Option<&'static str>,
    again: String,
    /// All that ran, syncs left out.
    pub(crate) ran: Vec<String>,
}

impl OldAgent {
    /// Serves one client after the other, as a QEMU chardev does.
    pub(crate) fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("bind");
        let truth = Truth {
            status: "thawed",
            instead: HashMap::new(),
            twice: None,
            again: String::new(),
            ran: Vec::new(),
        };
        let agent = Self(Arc::new(Mutex::new(truth)));
        let shared = agent.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
                    let reply = shared.answer(&line);
                    line.clear();
                    if write.write_all(reply.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        agent
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        self.0.lock().expect("truth")
    }

    /// From now on `name` answers this and does nothing.
    pub(crate) fn answers(&self, name: &'static str, value: Value) {
        self.truth().instead.insert(name, value);
    }

    pub(crate) fn mend(&self, name: &'static str) {
        self.truth().instead.remove(name);
    }

    pub(crate) fn ran(&self, name: &str) -> usize {
        self.truth().ran.iter().filter(|ran| *ran == name).count()
    }

    fn answer(&self, line: &[u8]) -> String {
        let mut replies = std::mem::take(&mut self.truth().again);
        let flushed = line.iter().rposition(|byte| *byte == 0xFF);
        if flushed.is_some() {
            replies += &error("JSONParsing", "Invalid JSON syntax");
        }
        let text = &line[flushed.map_or(0, |at| at + 1)..];
        let request: Value = serde_json::from_slice(text).expect("a request");
        if request.get("id").is_some() {
            return replies + &error("QMPExtraInputObjectMember", "member 'id' is unexpected");
        }
        let name = request["execute"].as_str().expect("a name");
        let mut truth = self.truth();
        let reply = match truth.run(name, &request["arguments"]) {
            Ok(value) => format!("{}\n", json!({ "return": value })),
            Err(reply) => reply,
        };
        if truth.twice.take_if(|twice| *twice == name).is_some() {
            truth.again.clone_from(&reply);
        }
        replies + &reply
    }
}

impl Truth {
    fn run(&mut self, name: &str, arguments: &Value) -> Result<Value, String> {
        if name == "guest-sync" {
            return Ok(arguments["id"].clone());
        }
        self.ran.push(name.into());
        if let Some(value) = self.instead.get(name) {
            return Ok(value.clone());
        }
        Ok(match name {
            "guest-ping" | "guest-shutdown" => json!({}),
            "guest-info" => json!({"version": "0.15.50"}),
            "guest-fsfreeze-status" => json!(self.status),
            "guest-fsfreeze-freeze" => {
                self.status = "frozen";
                json!(2)
            }
            "guest-fsfreeze-thaw" => {
                json!(if std::mem::replace(&mut self.status, "thawed") == "thawed" { 0 } else { 2 })
            }
            "guest-file-seek" if !arguments["whence"].is_i64() => {
                return Err(error("InvalidParameterType", "'whence' expects: integer"));
            }
            "guest-file-seek" => json!({"position": 7, "eof": false}),
            name => {
                let desc = format!("The command {name} has not been found");
                return Err(error("CommandNotFound", &desc));
            }
        })
    }
}

fn error(class: &str, desc: &str) -> String {
    format!("{}\n", json!({"error": {"class": class, "desc": desc, "data": {}}}))
}
