//! A QEMU chardev's socket with an agent behind it, in this process: it serves one client at a
//! time, keeps the truth about its guest, and does to each command what the test says.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::leased::{self, Named};
use qga_proto::command::{
    AgentCommand, AgentInfo, COMMANDS, Command as _, FilesystemInfo, FsfreezeStatus,
    GuestFsfreezeFreezeList, GuestSync, GuestSyncDelimited, ThawCause,
};
use qga_proto::{Job, Outcome, QgaError, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// What a test has done to a command.
pub(super) enum Act {
    /// What an agent does.
    Normal,
    /// This outcome instead.
    Answer(Outcome),
    /// These bytes instead of a reply.
    Raw(Vec<u8>),
    /// What an agent does, and its reply is lost.
    Lose,
    /// What an agent does, and its reply comes twice, in one write.
    Twice,
    /// It is held, and everything behind it, until [`Guest::release`].
    Hold,
    /// These bytes, and the connection is closed.
    Close(Vec<u8>),
}

type Rule = Box<dyn FnMut(&str) -> Act + Send>;

/// A guest behind a socket.
pub(super) struct Guest {
    path: PathBuf,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

struct Shared {
    truth: Mutex<Truth>,
    rule: Mutex<Rule>,
    released: Notify,
}

/// What really happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Truth {
    pub(super) frozen: bool,
    pub(super) mounted: Vec<String>,
    pub(super) held: i64,
    /// What `qga-agent` knows; a stock agent if there is nothing.
    pub(super) named: Option<Named>,
    /// Commands in the order they were run; syncs are left out.
    pub(super) ran: Vec<String>,
    /// Those that came, run or not.
    pub(super) asked: Vec<String>,
    /// Bytes that came before the first sync was answered, by connection.
    pub(super) before_sync: Vec<Vec<u8>>,
    pub(super) connections: usize,
    pub(super) connected: bool,
}

impl Guest {
    /// A guest with three filesystems.
    pub(super) fn start(path: &Path) -> Self {
        Self::with_rule(path, |_| Act::Normal)
    }

    pub(super) fn with_rule(path: &Path, rule: impl FnMut(&str) -> Act + Send + 'static) -> Self {
        let mut guest = Self::unbooted(path, rule);
        guest.boot();
        guest
    }

    fn unbooted(path: &Path, rule: impl FnMut(&str) -> Act + Send + 'static) -> Self {
        let mounted = ["/", "/srv", "/home"].map(String::from).to_vec();
        let truth = Mutex::new(Truth { mounted, ..Truth::default() });
        let rule: Rule = Box::new(rule);
        let shared = Shared { truth, rule: Mutex::new(rule), released: Notify::new() };
        Self { path: path.into(), shared: Arc::new(shared), task: None }
    }

    pub(super) fn truth(&self) -> Truth {
        self.lock().clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Truth)) {
        change(&mut self.lock());
    }

    pub(super) fn ran(&self, name: &str) -> usize {
        self.lock().ran.iter().filter(|ran| *ran == name).count()
    }

    pub(super) fn rule(&self, rule: impl FnMut(&str) -> Act + Send + 'static) {
        *self.shared.rule.lock().expect("rule") = Box::new(rule);
    }

    /// Whether it was asked so, and has perhaps not answered yet.
    pub(super) fn asked(&self, name: &str) -> bool {
        self.lock().asked.iter().any(|asked| asked == name)
    }

    /// From now on it carries this command out and nobody hears of it; each time, something comes.
    pub(super) fn loses(&self, name: &'static str) -> mpsc::Receiver<()> {
        let (carried_out, seen) = mpsc::channel(8);
        self.rule(move |asked| {
            if asked != name {
                return Act::Normal;
            }
            let _ = carried_out.try_send(());
            Act::Lose
        });
        seen
    }

    /// Lets what is held go on.
    pub(super) fn release(&self) {
        self.shared.released.notify_one();
    }

    /// The process behind the socket goes, and leaves the socket.
    pub(super) async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        self.change(|truth| truth.connected = false);
    }

    pub(super) fn unlink(&self) {
        std::fs::remove_file(&self.path).expect("the socket is there");
    }

    /// A new process binds the socket; the guest is what the truth says.
    pub(super) fn boot(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).expect("bind");
        let shared = self.shared.clone();
        self.task = Some(tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                shared.serve(stream).await;
                shared.lock().connected = false;
            }
        }));
    }

    /// A process that connects to the socket, again and again, instead of making it.
    pub(super) fn connecting(path: &Path) -> Self {
        let mut guest = Self::unbooted(path, |_| Act::Normal);
        let (shared, path) = (guest.shared.clone(), guest.path.clone());
        guest.task = Some(tokio::spawn(async move {
            let mut often = tokio::time::interval(std::time::Duration::from_millis(20));
            loop {
                often.tick().await;
                if let Ok(stream) = UnixStream::connect(&path).await {
                    shared.serve(stream).await;
                    shared.lock().connected = false;
                }
            }
        }));
        guest
    }

    fn lock(&self) -> MutexGuard<'_, Truth> {
        self.shared.lock()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().expect("truth")
    }

    async fn serve(&self, mut stream: UnixStream) {
        let connection = {
            let mut truth = self.lock();
            truth.before_sync.push(Vec::new());
            truth.connected = true;
            truth.connections += 1;
            truth.connections - 1
        };
        let mut server = Server::new();
        let mut synced = false;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = tokio::select! {
                read = stream.read(&mut buffer) => read,
            };
            let Ok(n @ 1..) = read else { return };
            if !synced {
                self.lock().before_sync[connection].extend_from_slice(&buffer[..n]);
            }
            server.feed(&buffer[..n]);
            while let Some(job) = server.poll(Instant::now(), &mut |_| true) {
                let is_sync = job.info.is_sync();
                if !is_sync {
                    self.lock().asked.push(job.info.name.into());
                }
                let act = (self.rule.lock().expect("rule"))(job.info.name);
                let twice = matches!(act, Act::Twice);
                let (outcome, raw, close) = match act {
                    Act::Normal | Act::Twice => (self.run(&job), Vec::new(), false),
                    Act::Answer(outcome) => (outcome, Vec::new(), false),
                    Act::Raw(raw) => (Outcome::Silent, raw, false),
                    Act::Close(raw) => (Outcome::Silent, raw, true),
                    Act::Lose => {
                        self.run(&job);
                        (Outcome::Silent, Vec::new(), false)
                    }
                    Act::Hold => {
                        self.released.notified().await;
                        (self.run(&job), Vec::new(), false)
                    }
                };
                synced |= is_sync && matches!(outcome, Outcome::Return(_));
                server.complete(job.ticket, outcome);
                if twice {
                    // Calls come one at a time here, so the output is this reply.
                    let both = server.output().repeat(2);
                    server.consume_output(both.len() / 2);
                    if stream.write_all(&both).await.is_err() {
                        return;
                    }
                }
                while !server.output().is_empty() {
                    let n = server.output().len();
                    if stream.write_all(server.output()).await.is_err() {
                        return;
                    }
                    server.consume_output(n);
                }
                if stream.write_all(&raw).await.is_err() || close {
                    return;
                }
            }
        }
    }

    fn run(&self, job: &Job) -> Outcome {
        let mut truth = self.lock();
        if !job.info.is_sync() {
            truth.ran.push(job.info.name.into());
        }
        if truth.frozen && !job.info.allowed_while_frozen {
            return Outcome::Error(QgaError::disabled(job.info.name));
        }
        if let Some(outcome) = leased::run(&mut truth, job) {
            return outcome;
        }
        match job.info.name {
            "guest-sync-delimited" => {
                job.request.arguments().map(|GuestSyncDelimited { id }| id).into()
            }
            "guest-sync" => job.request.arguments().map(|GuestSync { id }| id).into(),
            "guest-info" => Outcome::value(&info(&truth)),
            "guest-get-fsinfo" => {
                let mounted = truth.mounted.iter();
                Outcome::value(&mounted.map(|path| filesystem(path)).collect::<Vec<_>>())
            }
            "guest-fsfreeze-status" => Outcome::value(&if truth.frozen {
                FsfreezeStatus::Frozen
            } else {
                FsfreezeStatus::Thawed
            }),
            "guest-fsfreeze-freeze" => {
                let all = truth.mounted.len();
                truth.freeze(all)
            }
            name if name == GuestFsfreezeFreezeList::INFO.name => {
                match job.request.arguments::<GuestFsfreezeFreezeList>() {
                    Err(error) => Outcome::Error(error),
                    Ok(GuestFsfreezeFreezeList { mountpoints }) => {
                        let named = mountpoints.unwrap_or_else(|| truth.mounted.clone());
                        let matched = truth.mounted.iter().filter(|m| named.contains(m)).count();
                        truth.freeze(matched)
                    }
                }
            }
            "guest-fsfreeze-thaw" => Outcome::value(&truth.thaw_because(ThawCause::Requested)),
            "guest-shutdown" => Outcome::Silent,
            _ => Outcome::empty(),
        }
    }
}

impl Truth {
    fn freeze(&mut self, count: usize) -> Outcome {
        self.held = i64::try_from(count).expect("few");
        self.frozen = count > 0;
        Outcome::value(&self.held)
    }
}

/// What qemu-ga has too.
fn stock(info: &qga_proto::command::CommandInfo) -> bool {
    !info.name.starts_with("x-guest-")
}

fn filesystem(path: &str) -> FilesystemInfo {
    let value = serde_json::json!({"name": "sda1", "mountpoint": path, "type": "ext4", "disk": []});
    serde_json::from_value(value).expect("a filesystem")
}

fn info(truth: &Truth) -> AgentInfo {
    let frozen = truth.frozen;
    let all = truth.named.is_some();
    let command = |info: &qga_proto::command::CommandInfo| AgentCommand {
        name: info.name.into(),
        enabled: !frozen || info.allowed_while_frozen,
        success_response: Some(info.success_response),
    };
    AgentInfo {
        version: "11.1.3".into(),
        supported_commands: COMMANDS
            .iter()
            .rev()
            .filter(|info| all || stock(info))
            .map(command)
            .collect(),
    }
}

/// Whether these bytes hold nothing but syncs.
pub(super) fn only_syncs(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n' || *byte == 0xFF);
    lines.filter(|line| !line.is_empty()).all(|line| {
        let request: serde_json::Value = serde_json::from_slice(line).expect("whole lines");
        let name = request["execute"].as_str().expect("a command");
        name == "guest-sync" || name == "guest-sync-delimited"
    })
}
