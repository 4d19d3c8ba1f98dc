//! What is on the wire, and in which order: an agent that answers syncs by itself, and commands only
//! when the test says so.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use qga_gateway::vm::{CallError, CallOptions, LinkState};
use qga_proto::command::{
    GuestFileFlush, GuestGetHostName, GuestGetOsinfo, GuestPing, GuestSetTime, HostName,
};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::OwnedWriteHalf;

use super::fake::{Act, Guest};
use super::{BOUND, eventually, one, ping, quick, ready};

/// The other end of a wire.
#[derive(Clone, Default)]
struct Wire(Arc<State>);

#[derive(Default)]
struct State {
    /// `+name` for what came, `-name` for what was answered.
    log: Mutex<Vec<String>>,
    waiting: Mutex<VecDeque<Value>>,
    to: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
}

impl Wire {
    fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("bind");
        let wire = Self::default();
        let serving = wire.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (from, to) = stream.into_split();
                *serving.0.to.lock().await = Some(to);
                let mut lines = BufReader::new(from);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
                    serving.take(&line).await;
                    line.clear();
                }
            }
        });
        wire
    }

    async fn take(&self, line: &[u8]) {
        let start = line.iter().rposition(|byte| *byte == 0xFF).map_or(0, |at| at + 1);
        let Ok(request) = serde_json::from_slice::<Value>(&line[start..]) else { return };
        let name = request["execute"].as_str().unwrap_or_default();
        self.note('+', name);
        let answer = match name {
            "guest-sync" | "guest-sync-delimited" => request["arguments"]["id"].clone(),
            "guest-fsfreeze-status" => json!("thawed"),
            "guest-info" => json!({ "version": "9.9.9", "supported_commands": [] }),
            _ => return self.0.waiting.lock().expect("waiting").push_back(request),
        };
        self.write(&request, answer).await;
    }

    /// Answers the command that has waited longest.
    async fn answer(&self) {
        let request = self.0.waiting.lock().expect("waiting").pop_front().expect("a command");
        let answer = match request["execute"].as_str() {
            Some("guest-get-host-name") => json!({ "host-name": "wire" }),
            _ => json!({}),
        };
        self.write(&request, answer).await;
    }

    async fn write(&self, request: &Value, answer: Value) {
        let name = request["execute"].as_str().unwrap_or_default();
        self.note('-', name);
        let mut line = if name == "guest-sync-delimited" { vec![0xFF] } else { Vec::new() };
        let mut reply = json!({ "return": answer });
        if let Some(id) = request.get("id") {
            reply["id"] = id.clone();
        }
        line.extend(reply.to_string().bytes().chain(*b"\n"));
        let mut to = self.0.to.lock().await;
        to.as_mut().expect("a client").write_all(&line).await.expect("writes");
    }

    fn note(&self, sign: char, name: &str) {
        let name = name.trim_start_matches("guest-");
        self.0.log.lock().expect("log").push(format!("{sign}{name}"));
    }

    fn log(&self) -> Vec<String> {
        self.0.log.lock().expect("log").clone()
    }

    fn waits(&self) -> usize {
        self.0.waiting.lock().expect("waiting").len()
    }

    /// Until so many commands are on the wire.
    async fn holds(&self, count: usize) {
        eventually("on the wire", || self.waits() == count).await;
    }
}

/// Puts a call into the queue, behind those before it.
fn submit<F: Future>(call: F) -> Pin<Box<F>> {
    let mut call = Box::pin(call);
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    call
}

fn patient() -> CallOptions {
    CallOptions { timeout: BOUND, ..quick() }
}

#[tokio::test]
async fn reads_share_the_wire_but_never_across_a_change() {
    let dir = tempdir().expect("tempdir");
    let (path, beside) = (dir.path().join("a"), dir.path().join("b"));
    let wire = Wire::listen(&path);
    let (_registry, vm) = one(&path);
    let _other = Guest::start(&beside);
    let (_others, other) = one(&beside);
    ready(&vm).await;
    ready(&other).await;
    let before = wire.log().len();

    let first = submit(vm.call(GuestGetHostName {}, patient()));
    let second = submit(vm.call(GuestGetHostName {}, patient()));
    let change = submit(vm.call(GuestSetTime::default(), patient()));
    let third = submit(vm.call(GuestGetOsinfo {}, patient()));
    wire.holds(2).await;
    // What could go wrong has had its time when another VM was asked and has answered.
    ping(&other).await.expect("answers");
    wire.holds(2).await;
    wire.answer().await;
    assert_eq!(first.await.expect("answered"), HostName { host_name: "wire".into() });
    ping(&other).await.expect("answers");
    wire.answer().await;
    second.await.expect("answered");
    wire.holds(1).await;
    ping(&other).await.expect("answers");
    wire.holds(1).await;
    wire.answer().await;
    change.await.expect("answered");
    wire.holds(1).await;
    wire.answer().await;
    third.await.expect("answered");
    let order = [
        "+get-host-name",
        "+get-host-name",
        "-get-host-name",
        "-get-host-name",
        "+set-time",
        "-set-time",
        "+get-osinfo",
        "-get-osinfo",
    ];
    assert_eq!(wire.log()[before..], order);
}

#[tokio::test]
async fn no_more_than_so_many_are_on_the_wire() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let wire = Wire::listen(&path);
    let (_registry, vm) = one(&path);
    ready(&vm).await;
    let mut calls = Vec::new();
    let mut most = 0;
    // What is on the wire has left the queue, which takes 64.
    for _ in 0..100 {
        calls.push(submit(vm.call(GuestPing {}, patient())));
        tokio::task::yield_now().await;
        most = most.max(wire.waits());
    }
    wire.holds(64).await;
    let mut left = calls.len();
    while left > 0 {
        eventually("another", || wire.waits() > 0).await;
        most = most.max(wire.waits());
        wire.answer().await;
        left -= 1;
    }
    for call in calls {
        call.await.expect("each its own");
    }
    assert_eq!(most, 64);
}

#[tokio::test]
async fn after_a_timeout_a_sync_comes_first_and_the_command_never_again() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let wire = Wire::listen(&path);
    let (_registry, vm) = one(&path);
    ready(&vm).await;
    let before = wire.log().len();
    let error = vm.call(GuestFileFlush { handle: 1 }, quick()).await.expect_err("no answer");
    assert!(matches!(error, CallError::TimedOut { sent: true, .. }), "{error}");
    let next = submit(vm.call(GuestGetHostName {}, patient()));
    wire.holds(2).await;
    // The late answer is nobody's.
    wire.answer().await;
    wire.answer().await;
    assert_eq!(next.await.expect("its own"), HostName { host_name: "wire".into() });
    let log = wire.log();
    let commands: Vec<&str> = log[before..].iter().map(String::as_str).collect();
    assert_eq!(commands.iter().filter(|command| **command == "+file-flush").count(), 1);
    let sync = commands.iter().position(|c| *c == "-sync-delimited").expect("a sync");
    let next = commands.iter().position(|c| *c == "+get-host-name").expect("the next command");
    assert!(sync < next, "{commands:?}");
}

#[tokio::test]
async fn a_sync_completes_between_a_thaw_and_the_next_freeze() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = seen.clone();
    let _guest = Guest::with_rule(&path, move |name| {
        record.lock().expect("record").push(name.to_owned());
        Act::Normal
    });
    let (registry, vm) = one(&path);
    ready(&vm).await;
    let leases = qga_gateway::vm::Leases::new(&registry);
    for _ in 0..3 {
        let principal = qga_gateway::principal::Principal::unix(0);
        let lease = leases.freeze(&vm, super::request(), principal).await.expect("freezes");
        leases.thaw(&lease.id).await.expect("thaws");
    }
    let seen = seen.lock().expect("seen").clone();
    let mut synced = true;
    for name in &seen {
        match name.as_str() {
            "guest-fsfreeze-thaw" => synced = false,
            "guest-fsfreeze-freeze" => assert!(synced, "{seen:?}"),
            _ => synced |= name.starts_with("guest-sync"),
        }
    }
}

/// No look at the directory is due for an hour: it is the socket's end that tells.
#[tokio::test]
async fn a_vm_that_goes_away_is_seen_to_be_gone_at_once() {
    for mode in ["persistent", "on-demand"] {
        let dir = tempdir().expect("tempdir");
        let path = dir.path().join("a");
        let mut guest = Guest::start(&path);
        let slow = super::QUICK.replace("rescan_seconds = 0.5", "rescan_seconds = 3600");
        let vm = format!("[[vm]]\nid = \"a\"\nsocket = {path:?}\nmode = \"{mode}\"\n");
        let registry = qga_gateway::vm::Registry::start(&super::parse(&(slow + &vm)));
        let vm = registry.list().remove(0);
        ready(&vm).await;
        guest.kill().await;
        guest.unlink();
        let gone = std::time::Instant::now();
        super::until(&vm, LinkState::Absent).await;
        // A second, and what a loaded machine adds; `seen` holds it to the second.
        assert!(gone.elapsed() < Duration::from_secs(3), "{mode}: {:?}", gone.elapsed());
    }
}
