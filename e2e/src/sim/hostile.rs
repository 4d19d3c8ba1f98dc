//! Guests that are out to do harm. Each does one thing, as fast as it can, for ever.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::qemu::listen;

/// How large the large reply is.
const HUGE: usize = 100 << 20;
const PIECE: usize = 64 << 10;
/// How deep the deep reply is.
const DEEP: usize = 1 << 20;
const DRIP: Duration = Duration::from_millis(5);

/// What a hostile guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Writes without a newline.
    EndlessLine,
    /// Answers what is not a sync with 100 MiB.
    HugeReply,
    /// Answers what is not a sync byte by byte.
    SlowDrip,
    /// Writes replies that nobody asked for.
    Flood,
    /// Answers each sync with the numbers of all syncs before it.
    ReplayedSyncs,
    /// Answers with bytes that are no UTF-8.
    InvalidUtf8,
    /// Answers with a million brackets.
    DeepNesting,
    /// Answers with what the command never answers.
    WrongTypes,
    /// Closes each connection at once.
    ConnectAndClose,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::EndlessLine,
        Self::HugeReply,
        Self::SlowDrip,
        Self::Flood,
        Self::ReplayedSyncs,
        Self::InvalidUtf8,
        Self::DeepNesting,
        Self::WrongTypes,
        Self::ConnectAndClose,
    ];
}

/// A hostile guest behind its socket, gone when dropped.
#[derive(Debug)]
pub struct Hostile {
    path: PathBuf,
    written: Arc<AtomicU64>,
    relents: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl Hostile {
    pub(super) fn start(runtime: &Handle, path: &Path, attack: Attack) -> Result<Self> {
        let (_, listener) = listen(path, None)?;
        let _context = runtime.enter();
        let listener = UnixListener::from_std(listener)?;
        let written = Arc::new(AtomicU64::new(0));
        let counter = written.clone();
        let relents = Arc::new(AtomicBool::new(false));
        let honest = relents.clone();
        let serving = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counter, relents) = (&*counter, &*honest);
                let mut guest = Guest { stream, attack, seen: Vec::new(), counter, relents };
                // The next connection is another chance.
                drop(guest.attack().await);
            }
        });
        Ok(Self { path: path.to_owned(), written, relents, serving })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// Bytes, and connections, with which it has bothered its client.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// From now on one that drips answers `{}` to whatever it is asked, on the same connection.
    pub fn relent(&self) {
        self.relents.store(true, Ordering::Relaxed);
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Guest<'a> {
    stream: UnixStream,
    attack: Attack,
    /// The numbers of the syncs so far.
    seen: Vec<i64>,
    counter: &'a AtomicU64,
    relents: &'a AtomicBool,
}

impl Guest<'_> {
    async fn attack(&mut self) -> std::io::Result<()> {
        match self.attack {
            Attack::ConnectAndClose => {
                self.counter.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Attack::EndlessLine => loop {
                self.write(&[b'x'; PIECE]).await?;
            },
            Attack::Flood => {
                let replies = b"{\"return\": {}}\n".repeat(PIECE / 16);
                // A little honesty first, so that it is believed.
                let line = self.line().await?;
                self.answer(&line).await?;
                loop {
                    self.write(&replies).await?;
                }
            }
            _ => loop {
                let line = self.line().await?;
                self.answer(&line).await?;
            },
        }
    }

    /// The next line, without what came before a 0xFF in it.
    async fn line(&mut self) -> std::io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            match self.stream.read_u8().await? {
                b'\n' => return Ok(line),
                0xFF => line.clear(),
                byte => line.push(byte),
            }
        }
    }

    async fn answer(&mut self, line: &[u8]) -> std::io::Result<()> {
        let Ok(request) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
        let name = request["execute"].as_str().unwrap_or_default();
        let id = request.get("id").map(|id| format!(", \"id\": {id}")).unwrap_or_default();
        if name.starts_with("guest-sync") {
            return self.answer_sync(name, &request, &id).await;
        }
        match self.attack {
            Attack::HugeReply => {
                self.write(b"{\"return\": \"").await?;
                for _ in 0..HUGE / PIECE {
                    self.write(&[b'A'; PIECE]).await?;
                }
                self.write(format!("\"{id}}}\n").as_bytes()).await
            }
            Attack::SlowDrip if !self.relents.load(Ordering::Relaxed) => {
                self.write(b"{\"return\": \"").await?;
                while !self.relents.load(Ordering::Relaxed) {
                    self.write(b"A").await?;
                    tokio::time::sleep(DRIP).await;
                }
                self.write(b"\"}\n").await
            }
            Attack::InvalidUtf8 => {
                self.write(b"{\"return\": \"\xC3\x28\xFE\xFE \xED\xA0\x80\"").await?;
                self.write(format!("{id}}}\n").as_bytes()).await
            }
            Attack::DeepNesting => {
                self.write(b"{\"return\": ").await?;
                self.write(&vec![b'['; DEEP]).await?;
                self.write(&vec![b']'; DEEP]).await?;
                self.write(format!("{id}}}\n").as_bytes()).await
            }
            Attack::WrongTypes => {
                let wrong = match name {
                    "guest-ping" => "[1, {\"a\": null}]",
                    "guest-info" => "{\"version\": 7, \"supported_commands\": {\"name\": []}}",
                    "guest-fsfreeze-status" => "\"melted\"",
                    _ if name.contains("fsfreeze") => "\"99999999999999999999999\"",
                    _ => "[{\"name\": 1e400}, true, -0.5, \"\\uD800\", {}]",
                };
                self.write(format!("{{\"return\": {wrong}{id}}}\n").as_bytes()).await
            }
            _ => self.write(format!("{{\"return\": {{}}{id}}}\n").as_bytes()).await,
        }
    }

    async fn answer_sync(&mut self, name: &str, request: &Value, id: &str) -> std::io::Result<()> {
        let number = request["arguments"]["id"].as_i64().unwrap_or_default();
        let delimiter: &[u8] = if name == "guest-sync-delimited" { b"\xFF" } else { b"" };
        let mut numbers = vec![number];
        if self.attack == Attack::ReplayedSyncs {
            numbers = std::mem::take(&mut self.seen);
            self.seen.clone_from(&numbers);
            self.seen.push(number);
        }
        for number in numbers {
            self.write(delimiter).await?;
            self.write(format!("{{\"return\": {number}{id}}}\n").as_bytes()).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
