//! A guest agent on a Unix socket, made of `proto::Server`, that answers as a test wants.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use qga_proto::base64::{Base64, Base64Text};
use qga_proto::command::{
    COMMANDS, FileRead, FileSeek, FileWrite, GuestFileRead, GuestFileSeek, GuestFileWrite,
    GuestSync,
};
use qga_proto::{Job, Outcome, QgaError, Request, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// What an agent does with a command, instead of what it should.
#[derive(Clone, Debug)]
pub(crate) enum Quirk {
    /// Answers with this.
    Value(Value),
    /// Does the next of these each time, and the last for ever.
    Turns(Vec<Self>),
    /// Fails.
    Error(QgaError),
    /// Reads it and says nothing.
    Never,
    /// Writes these bytes.
    Bytes(&'static [u8]),
    /// Closes the connection.
    HangUp,
    /// Does as it should, twice.
    Twice,
    /// Does as it should once [`Agent::release`]d, and nothing else until then.
    Held,
}

impl Quirk {
    /// Answers with these in turn.
    pub(crate) fn values(values: impl IntoIterator<Item = Value>) -> Self {
        Self::Turns(values.into_iter().map(Self::Value).collect())
    }
}

/// Cheap to clone; tells what it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agent(Arc<State>);

#[derive(Debug, Default)]
struct State {
    quirks: Mutex<HashMap<&'static str, Quirk>>,
    frozen: AtomicBool,
    asked: Mutex<Vec<&'static str>>,
    received: Mutex<Vec<Value>>,
    released: Notify,
}

impl Agent {
    pub(crate) fn with(self, command: &'static str, quirk: Quirk) -> Self {
        self.0.quirks.lock().unwrap().insert(command, quirk);
        self
    }

    /// From now on as it should be.
    pub(crate) fn mend(&self, command: &'static str) {
        self.0.quirks.lock().unwrap().remove(command);
    }

    /// Lets what is held go on.
    pub(crate) fn release(&self) {
        self.0.released.notify_one();
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.0.frozen.store(frozen, Ordering::SeqCst);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.0.frozen.load(Ordering::SeqCst)
    }

    /// How often it was asked for a command.
    pub(crate) fn times(&self, command: &str) -> usize {
        self.0.asked.lock().unwrap().iter().filter(|asked| **asked == command).count()
    }

    /// The arguments of each time that it was asked for a command.
    pub(crate) fn arguments(&self, command: &str) -> Vec<Value> {
        let received = self.0.received.lock().unwrap();
        let of = received.iter().filter(|request| request["execute"] == command);
        of.map(|request| request.get("arguments").cloned().unwrap_or_else(|| json!({}))).collect()
    }

    /// Serves one client after the other, as a QEMU chardev does.
    pub(crate) fn listen(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let agent = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = agent.serve(stream).await;
            }
        });
    }

    async fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut server = Server::new();
        let mut buffer = vec![0; 1 << 16];
        let mut line = Vec::new();
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            server.feed(&buffer[..count]);
            line.extend_from_slice(&buffer[..count]);
            while let Some(end) = line.iter().position(|byte| [b'\n', 0xFF].contains(byte)) {
                let request: Vec<u8> = line.drain(..=end).collect();
                self.0.received.lock().unwrap().extend(serde_json::from_slice(&request));
            }
            while let Some(Job { ticket, info, request }) =
                server.poll(Instant::now(), &mut |_| true)
            {
                self.0.asked.lock().unwrap().push(info.name);
                let quirk = match self.0.quirks.lock().unwrap().get_mut(info.name) {
                    Some(Quirk::Turns(turns)) if turns.len() > 1 => Some(turns.remove(0)),
                    Some(Quirk::Turns(turns)) => turns.first().cloned(),
                    quirk => quirk.cloned(),
                };
                let twice = matches!(quirk, Some(Quirk::Twice));
                if matches!(quirk, Some(Quirk::Held)) {
                    self.0.released.notified().await;
                }
                let outcome = match quirk {
                    None | Some(Quirk::Twice | Quirk::Held) => {
                        self.behave(info.name, info.allowed_while_frozen, &request)
                    }
                    Some(Quirk::Turns(_)) => unreachable!("one of them was taken above"),
                    Some(Quirk::Value(value)) => Outcome::value(&value),
                    Some(Quirk::Error(error)) => Outcome::Error(error),
                    Some(Quirk::Never) => continue,
                    Some(Quirk::Bytes(bytes)) => {
                        stream.write_all(bytes).await?;
                        Outcome::Silent
                    }
                    Some(Quirk::HangUp) => return Ok(()),
                };
                let before = server.output().len();
                server.complete(ticket, outcome);
                if twice {
                    let reply = server.output()[before..].to_vec();
                    stream.write_all(server.output()).await?;
                    server.consume_output(server.output().len());
                    stream.write_all(&reply).await?;
                }
            }
            while !server.output().is_empty() {
                let written = stream.write(server.output()).await?;
                server.consume_output(written);
            }
        }
    }

    fn behave(&self, name: &str, allowed_while_frozen: bool, request: &Request) -> Outcome {
        if self.is_frozen() && !allowed_while_frozen {
            return Outcome::Error(QgaError::disabled(name));
        }
        match name {
            "guest-sync" | "guest-sync-delimited" => {
                request.arguments::<GuestSync>().map(|sync| sync.id).into()
            }
            "guest-info" => Outcome::value(&json!({
                "version": "11.1.3",
                "supported_commands": COMMANDS.iter().rev().filter(stock).map(|info| json!({
                    "name": info.name, "enabled": true, "success-response": info.success_response
                })).collect::<Vec<_>>()
            })),
            "guest-fsfreeze-status" => {
                Outcome::value(if self.is_frozen() { "frozen" } else { "thawed" })
            }
            "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" => {
                self.set_frozen(true);
                Outcome::value(&3)
            }
            "guest-fsfreeze-thaw" => {
                let thawed = if self.0.frozen.swap(false, Ordering::SeqCst) { 3 } else { 0 };
                Outcome::value(&thawed)
            }
            "guest-file-open" => Outcome::value(&1000),
            "guest-file-read" => request
                .arguments::<GuestFileRead>()
                .map(|read| {
                    let count = usize::try_from(read.count.unwrap_or(4096)).unwrap();
                    let bytes: Vec<u8> = (0..=255).cycle().take(count).collect();
                    FileRead {
                        count: read.count.unwrap_or(4096),
                        buf_b64: Base64(bytes),
                        eof: false,
                    }
                })
                .into(),
            "guest-file-write" => request
                .arguments::<GuestFileWrite>()
                .and_then(|write| {
                    let all = i64::try_from(Base64Text::decode(write.buf_b64)?.len()).unwrap();
                    Ok(FileWrite { count: write.count.unwrap_or(all), eof: false })
                })
                .into(),
            "guest-file-seek" => request
                .arguments::<GuestFileSeek>()
                .map(|seek| FileSeek { position: seek.offset, eof: false })
                .into(),
            "guest-exec" => Outcome::value(&json!({"pid": 4711})),
            "guest-exec-status" => Outcome::value(&json!({"exited": true, "exitcode": 0})),
            "guest-shutdown" => Outcome::Silent,
            _ => Outcome::empty(),
        }
    }
}

/// What qemu-ga has too, and one extension by which nothing is frozen.
fn stock(info: &&qga_proto::command::CommandInfo) -> bool {
    !info.name.starts_with("x-guest-") || info.name == "x-guest-fsfreeze-report"
}
