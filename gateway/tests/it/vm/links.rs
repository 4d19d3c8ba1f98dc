//! Link states, and the rule that nothing but a sync goes out before a sync came back.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use qga_gateway::vm::{CallError, LinkState, Registry};
use qga_proto::command::GuestPing;
use tempfile::tempdir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

use super::fake::{Act, Guest, only_syncs};
use super::{BOUND, config, eventually, one, ping, quick, reaches, recovers, until};

#[tokio::test]
async fn an_agent_that_answers_is_ready_and_known() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let guest = Guest::start(&path);
    let (_registry, vm) = one(&path);
    until(&vm, LinkState::Ready).await;
    ping(&vm).await.expect("answers");
    eventually("capabilities", || vm.capabilities().is_some()).await;
    let agent = vm.capabilities().expect("known");
    assert_eq!(
        (agent.version.as_str(), agent.echoes_id, agent.delimited_sync),
        ("11.1.3", true, true)
    );
    assert_eq!(guest.ran("guest-ping"), 1);
    let counters = vm.counters();
    assert!(counters.bytes_sent > 0 && counters.bytes_received > 0 && counters.connections == 1);
}

#[tokio::test]
async fn a_socket_that_appears_is_used_within_a_second() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("later").join("a.sock");
    let (_registry, vm) = one(&path);
    let reason = until(&vm, LinkState::Absent).await;
    let error = ping(&vm).await.expect_err("nobody is there");
    assert!(
        matches!(&error, CallError::Unavailable { link } if link.state == LinkState::Absent),
        "{error}"
    );
    assert!(!reason.is_empty());

    std::fs::create_dir(path.parent().expect("parent")).expect("mkdir");
    let appeared = Instant::now();
    let mut guest = Guest::start(&path);
    until(&vm, LinkState::Ready).await;
    assert!(appeared.elapsed() < Duration::from_secs(1), "{:?}", appeared.elapsed());

    guest.kill().await;
    let refused = until(&vm, LinkState::Refused).await;
    assert_eq!(refused, "nobody listens on the socket");
    guest.unlink();
    until(&vm, LinkState::Absent).await;
    guest.boot();
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
}

#[tokio::test]
async fn what_is_no_socket_is_refused_with_a_reason() {
    let dir = tempdir().expect("tempdir");
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&file, "").expect("write");
    symlink(&file, &link).expect("symlink");
    let (_registry, vm) = one(&file);
    assert_eq!(until(&vm, LinkState::Refused).await, "the path is not a socket");
    let (_registry, vm) = one(&link);
    assert!(until(&vm, LinkState::Refused).await.contains("symbolic link"));
}

#[tokio::test]
async fn a_listener_that_never_accepts_is_busy() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let (_registry, vm) = one(&path);
    until(&vm, LinkState::Busy).await;
    let error = ping(&vm).await.expect_err("busy");
    assert!(
        matches!(error, CallError::Unavailable { ref link } if link.state == LinkState::Busy),
        "{error}"
    );
    let (mut stream, _) = listener.accept().await.expect("accept");
    let mut sent = vec![0; 4096];
    let n = stream.read(&mut sent).await.expect("read");
    assert!(only_syncs(&sent[..n]), "{}", String::from_utf8_lossy(&sent[..n]));
}

#[tokio::test]
async fn another_client_makes_it_busy_and_its_leaving_ready() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let guest = Guest::start(&path);
    let other = UnixStream::connect(&path).await.expect("connect");
    eventually("the other is served", || guest.truth().connected).await;
    let (_registry, vm) = one(&path);
    let reason = until(&vm, LinkState::Busy).await;
    assert_eq!(reason, "another client holds the socket");
    for _ in 0..3 {
        ping(&vm).await.expect_err("busy");
    }
    drop(other);
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    let truth = guest.truth();
    assert!(truth.before_sync.iter().all(|bytes| only_syncs(bytes)));
    assert_eq!(guest.ran("guest-ping"), 1, "what was refused was never sent");
}

#[tokio::test]
async fn both_clients_gone_the_guest_has_run_nothing() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let guest = Guest::start(&path);
    let other = UnixStream::connect(&path).await.expect("connect");
    eventually("the other is served", || guest.truth().connected).await;
    let (registry, vm) = one(&path);
    until(&vm, LinkState::Busy).await;
    ping(&vm).await.expect_err("busy");
    registry.close();
    eventually("no calls any more", || futures_now(&vm)).await;
    drop(other);
    eventually("the left-overs were read", || guest.truth().connections == 2).await;
    eventually("and it is over", || !guest.truth().connected).await;
    assert_eq!(guest.truth().ran, [""; 0]);
}

/// Whether the VM's actor has ended: nothing takes calls any more.
fn futures_now(vm: &qga_gateway::vm::VmHandle) -> bool {
    let mut call = Box::pin(vm.call(GuestPing {}, quick()));
    let waker = std::task::Waker::noop();
    call.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_ready()
}

#[tokio::test]
async fn accepted_and_silent_is_silent_and_a_late_answer_makes_it_ready() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let guest = Guest::with_rule(&path, |_| Act::Hold);
    let (_registry, vm) = one(&path);
    let link = reaches(&vm, |link| {
        link.state == LinkState::Silent
            && link.reason.as_deref() == Some("connected, but the agent answers no sync")
    })
    .await;
    assert!(link.since <= std::time::SystemTime::now());
    let refused = Instant::now();
    ping(&vm).await.expect_err("silent");
    assert!(refused.elapsed() < Duration::from_millis(250), "at once, not after a timeout");
    guest.rule(|_| Act::Normal);
    guest.release();
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    assert_eq!(guest.truth().connections, 1);
    assert!(guest.truth().before_sync.iter().all(|bytes| only_syncs(bytes)));
}

#[tokio::test]
async fn a_port_that_nobody_reads_is_not_written_to_again_and_again() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let (_registry, vm) = one(&path);
    let (mut stream, _) = listener.accept().await.expect("accept");
    let link = reaches(&vm, |link| {
        link.reason.as_deref().is_some_and(|reason| reason.contains("nothing in the guest reads"))
    })
    .await;
    assert_eq!(link.state, LinkState::Silent);
    // Several pauses later there is one sync in the pipe, and no more.
    let several = Duration::from_millis(1500);
    let _ =
        timeout(several, vm.link_changes().wait_for(|link| link.state == LinkState::Ready)).await;
    assert_eq!(vm.counters().syncs, 1);
    let mut sent = vec![0; 64 << 10];
    let n = stream.read(&mut sent).await.expect("read");
    assert!(only_syncs(&sent[..n]));
    // Once it is read and not answered, another is due.
    let again = timeout(BOUND, stream.read(&mut sent)).await.expect("in time").expect("read");
    assert!(again > 0 && only_syncs(&sent[..again]));
}

#[tokio::test]
async fn connect_and_close_loops_are_slowed_and_survived() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let guest = Guest::with_rule(&path, |_| Act::Close(Vec::new()));
    let (_registry, vm) = one(&path);
    eventually("some rounds", || guest.truth().connections >= 4).await;
    let before = (guest.truth().connections, Instant::now());
    eventually("more rounds", || guest.truth().connections >= before.0 + 3).await;
    assert!(before.1.elapsed() >= Duration::from_millis(100), "with pauses");
    guest.rule(|_| Act::Normal);
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
}

#[tokio::test]
async fn found_frozen_is_frozen_and_the_thaw_makes_it_ready_and_known() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let guest = Guest::start(&path);
    guest.change(|truth| (truth.frozen, truth.held) = (true, 3));
    let (_registry, vm) = one(&path);
    until(&vm, LinkState::Frozen).await;
    assert!(vm.capabilities().is_none(), "a frozen agent's list says little");
    ping(&vm).await.expect("allowed while frozen");
    let thaw = qga_proto::command::GuestFsfreezeThaw {};
    assert_eq!(vm.call(thaw, quick()).await.expect("thaws"), 3);
    until(&vm, LinkState::Ready).await;
    eventually("capabilities", || vm.capabilities().is_some()).await;
    let agent = vm.capabilities().expect("known");
    assert!(agent.commands.as_ref().expect("a list").iter().all(|command| command.enabled));
}

#[tokio::test]
async fn the_process_behind_the_socket_is_known_and_another_one_is_noticed() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let listener = Listener::start(&path);
    let registry = Registry::start(&config("on-demand", &[&path]));
    let vm = registry.list().remove(0);
    eventually("known", || vm.incarnation().is_some()).await;
    let first = vm.incarnation().expect("known");
    assert_eq!(first.pid, listener.0.id());
    let before = vm.disruptions();

    drop(listener);
    let _ = std::fs::remove_file(&path);
    let listener = Listener::start(&path);
    eventually("noticed", || vm.incarnation().is_some_and(|now| now != first)).await;
    assert_eq!(vm.incarnation().map(|now| now.pid), Some(listener.0.id()));
    assert!(vm.disruptions() > before);
}

#[tokio::test]
async fn a_reconnect_to_the_same_process_is_the_same_incarnation() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let mut guest = Guest::start(&path);
    let (_registry, vm) = one(&path);
    until(&vm, LinkState::Ready).await;
    let first = vm.incarnation().expect("known");
    assert_eq!(first.pid, std::process::id());
    guest.kill().await;
    until(&vm, LinkState::Refused).await;
    guest.boot();
    until(&vm, LinkState::Ready).await;
    assert_eq!(vm.incarnation(), Some(first));
}

/// A process of its own that listens on a socket; what it says there is no agent's.
struct Listener(Child);

impl Listener {
    fn start(path: &Path) -> Self {
        let config = path.with_extension("toml");
        let state = path.with_extension("state");
        let text = format!("state_dir = {state:?}\n[listen]\nunix = {path:?}\n");
        std::fs::write(&config, text).expect("write");
        let mut command = qga_testing::tied(env!("CARGO_BIN_EXE_qga-gateway"));
        command.arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("starts"))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
