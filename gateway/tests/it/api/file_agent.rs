//! A guest agent with files in memory, stock or with extensions, that breaks as a test wants.

mod disk;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use qga_proto::Server;
use qga_proto::command::FileKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use disk::Disk;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct FileAgent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Mutex<Disk>,
    /// Nothing is done while this is true.
    held: watch::Sender<bool>,
    /// Changes when the connection is to end.
    cut: watch::Sender<u32>,
}

impl FileAgent {
    pub(crate) fn new(extended: bool) -> Self {
        let shared = Shared {
            disk: Mutex::new(Disk::new(extended)),
            held: watch::Sender::new(false),
            cut: watch::Sender::new(0),
        };
        let agent = Self(Arc::new(shared));
        agent.put_kind("/dir", FileKind::Directory, b"");
        agent
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().unwrap()
    }

    pub(crate) fn ran(&self, name: &str) -> usize {
        self.disk().ran.iter().filter(|ran| **ran == name).count()
    }

    pub(crate) fn hold(&self, held: bool) {
        self.0.held.send_replace(held);
    }

    /// The agent starts afresh: it knows no handle, and its connection is cut.
    pub(crate) fn restart(&self) {
        self.disk().forget_handles();
        self.0.cut.send_modify(|times| *times += 1);
    }

    /// Serves one client after the other, as a QEMU chardev does.
    pub(crate) fn listen(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let agent = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut cut = agent.0.cut.subscribe();
                tokio::select! {
                    _ = agent.serve(stream) => {}
                    _ = cut.changed() => {}
                }
            }
        });
    }

    async fn serve(&self, stream: UnixStream) -> std::io::Result<()> {
        let (from, to) = stream.into_split();
        let (give, arrived) = mpsc::channel(64);
        tokio::select! {
            read = self.read_on(from, give) => read,
            answered = self.answer_on(arrived, to) => answered,
        }
    }

    /// Takes what comes, also while nothing is done, so that it is known when it came.
    async fn read_on(
        &self,
        mut from: OwnedReadHalf,
        give: mpsc::Sender<Vec<u8>>,
    ) -> std::io::Result<()> {
        const PING: &[u8] = b"\"guest-ping\"";
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            let bytes = buffer[..count].to_vec();
            if bytes.windows(PING.len()).any(|window| window == PING) {
                let mut disk = self.disk();
                let moved = disk.moved;
                disk.pings.push([moved, usize::MAX]);
            }
            if give.send(bytes).await.is_err() {
                break;
            }
        }
        // What has come is done all the same.
        drop(give);
        std::future::pending().await
    }

    async fn answer_on(
        &self,
        mut arrived: mpsc::Receiver<Vec<u8>>,
        mut stream: OwnedWriteHalf,
    ) -> std::io::Result<()> {
        let mut server = Server::new();
        let mut held = self.0.held.subscribe();
        loop {
            let Some(bytes) = arrived.recv().await else { return Ok(()) };
            server.feed(&bytes);
            while let Some(job) = server.poll(Instant::now(), &mut |_| true) {
                let _ = held.wait_for(|held| !held).await;
                let outcome = self.disk().run(job.info, &job.request);
                server.complete(job.ticket, outcome);
                while !server.output().is_empty() {
                    let left = self.disk().cut_after;
                    let length = server.output().len().min(left.unwrap_or(usize::MAX));
                    stream.write_all(&server.output()[..length]).await?;
                    if let Some(left) = left {
                        self.disk().cut_after = Some(left - length);
                        if left == length {
                            self.disk().cut_after = None;
                            return Ok(());
                        }
                    }
                    server.consume_output(length);
                }
            }
        }
    }
}
