//! A gateway that runs, and what it says of its VMs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::account::permissions;
use super::report::{Agent, Finding, Level, VmFinding};
use super::vms::judged;
use crate::config::Config;
use crate::vm::SocketTable;

/// How long the gateway may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// More than a page of VMs.
const LARGEST: usize = 64 << 20;

/// Whether one runs.
pub(super) enum Gateway {
    /// It does, and lets us ask.
    Answers(Client),
    /// Something listens there, and does not answer.
    Mute(String),
    /// None does.
    None,
}

/// Asks a gateway, one connection per question.
pub(super) struct Client(PathBuf);

#[derive(Deserialize)]
struct Page {
    vms: Vec<Vm>,
    next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Vm {
    id: String,
    link: Link,
    agent: Option<Version>,
    freeze: Option<serde::de::IgnoredAny>,
    capabilities: Option<Capabilities>,
}

#[derive(Deserialize)]
struct Link {
    state: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Capabilities {
    extensions: Vec<String>,
}

impl Gateway {
    /// Looks for one. systemd listening in its place is none, and is not called: that would start it.
    pub(super) async fn find(path: &Path, sockets: &SocketTable) -> Self {
        let listeners = sockets.listeners(path);
        if !listeners.is_empty() && listeners.iter().all(|holder| holder.pid == 1) {
            return Self::None;
        }
        // Connected to first: one that begins to listen between two looks would else be taken for mute.
        match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => return Self::None,
            _ => {}
        }
        let client = Client(path.into());
        match client.get::<Version>("/version").await {
            Ok(_) => Self::Answers(client),
            Err(error) => Self::Mute(format!("{error:#}")),
        }
    }

    pub(super) fn finding(&self, path: &Path) -> Finding {
        let path = path.display();
        match self {
            Self::Answers(_) => Finding::ok("gateway", format!("runs, and answers on {path}")),
            Self::Mute(why) => Finding::problem(
                "gateway",
                format!("runs, and does not answer on {path}: {why}"),
                "run doctor as root; if it is root, look at the gateway's log",
            ),
            Self::None => Finding::note("gateway", "does not run; each VM was looked at from here"),
        }
    }
}

impl Client {
    /// All VMs, with what their agents can do.
    pub(super) async fn vms(&self) -> anyhow::Result<Vec<Vm>> {
        let mut found = Vec::new();
        let mut path = "/vms".to_owned();
        loop {
            let page: Page = self.get(&path).await?;
            for vm in page.vms {
                // One that has gone meanwhile is told of as it was.
                let detail = self.get(&format!("/vms/{}", vm.id)).await;
                found.push(detail.unwrap_or(vm));
            }
            let Some(next) = page.next else { return Ok(found) };
            path = format!("/vms?after={next}");
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        tokio::time::timeout(PATIENCE, self.ask(path)).await.context("no answer in time")?
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let stream = UnixStream::connect(&self.0).await.context("connecting")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        if status != StatusCode::OK {
            bail!("it answers {status} to GET {path}");
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// What the gateway has told, with what the host shows of the sockets.
pub(super) fn judge(vms: Vec<Vm>, config: &Config, sockets: &SocketTable) -> Vec<VmFinding> {
    let listed = config.all_vms();
    let of = |vm: Vm| {
        let socket = listed.iter().find(|listed| listed.id.to_string() == vm.id);
        let socket = socket.map(|listed| listed.socket.clone());
        let extensions = vm.capabilities.map_or(0, |known| known.extensions.len());
        let leased = vm.freeze.is_some();
        let found = judged(VmFinding {
            level: Level::Ok,
            id: vm.id,
            permissions: socket.as_deref().and_then(permissions),
            listener: socket.as_deref().and_then(|s| sockets.listeners(s).into_iter().next()),
            held_by: socket.as_deref().and_then(|s| sockets.client(s)).flatten(),
            socket: socket.map(|socket| socket.display().to_string()),
            state: vm.link.state,
            reason: vm.link.reason,
            agent: vm.agent.map(|agent| Agent { version: agent.version, extensions }),
            todo: None,
        });
        match leased {
            true if found.state == "frozen" => VmFinding { level: Level::Ok, todo: None, ..found },
            _ => found,
        }
    };
    vms.into_iter().map(of).collect()
}
