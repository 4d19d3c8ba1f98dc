//! What QMP adds to a link, and that nothing depends on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{
    CallError, CallOptions, FreezeError, Leases, LinkState, Registry, Verdict, VmHandle,
};
use qga_proto::command::GuestFileFlush;
use tempfile::{TempDir, tempdir};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::time::{Instant, timeout};

use super::fake::{Act, Guest};
use super::{
    BOUND, QUICK, eventually, parse, ping, quick, reaches, ready, recovers, request, until,
};
use crate::fake_qmp::{Qmp, Truth};

/// A VM with both sockets.
struct Vm {
    dir: TempDir,
    registry: Registry,
    guest: Guest,
    qmp: Qmp,
    vm: VmHandle,
}

fn registry(agent: &Path, qmp: &Path, mode: &str) -> Registry {
    let vm = format!("[[vm]]\nid = \"a\"\nsocket = {agent:?}\nqmp = {qmp:?}\nmode = \"{mode}\"\n");
    Registry::start(&parse(&format!("{QUICK}{vm}")))
}

impl Vm {
    async fn ready() -> Self {
        let vm = Self::start(|_| {}).await;
        ready(&vm.vm).await;
        vm
    }

    async fn start(change: impl FnOnce(&mut Truth)) -> Self {
        let dir = tempdir().expect("tempdir");
        let (agent, control) = (dir.path().join("a"), dir.path().join("a.qmp"));
        let guest = Guest::start(&agent);
        let qmp = Qmp::with(&control, &agent, change);
        let registry = registry(&agent, &control, "persistent");
        let vm = registry.list().remove(0);
        known(&qmp).await;
        Self { dir, registry, guest, qmp, vm }
    }
}

/// Until the gateway has asked all that it asks after a connect.
async fn known(qmp: &Qmp) {
    let all = || qmp.truth().asked.iter().any(|asked| asked == "query-chardev");
    eventually("QMP is followed", all).await;
}

#[tokio::test]
async fn a_vm_found_paused_is_paused_with_a_reason_and_no_freeze_is_sent() {
    let vm = Vm::start(|truth| truth.status = "io-error").await;
    let reason = until(&vm.vm, LinkState::Paused).await;
    assert_eq!(reason, "QEMU has paused it after an I/O error of one of its disks");
    let asked = Instant::now();
    let error = ping(&vm.vm).await.expect_err("paused");
    assert!(asked.elapsed() < Duration::from_millis(250), "at once, not after a timeout");
    assert!(
        matches!(&error, CallError::Unavailable { link } if link.state == LinkState::Paused),
        "{error}"
    );
    let leases = Leases::new(&vm.registry);
    let error = leases.freeze(&vm.vm, request(), Principal::unix(0)).await.expect_err("paused");
    assert!(
        matches!(&error, FreezeError::Call(CallError::Unavailable { link })
            if link.state == LinkState::Paused),
        "{error}"
    );
    assert_eq!(vm.guest.ran("guest-fsfreeze-freeze"), 0);
    vm.qmp.resume();
    until(&vm.vm, LinkState::Ready).await;
    recovers(&vm.vm).await;
}

#[tokio::test]
async fn a_pause_is_no_silence_and_spoils_nothing() {
    let vm = Vm::ready().await;
    let leases = Leases::new(&vm.registry);
    let lease = leases.freeze(&vm.vm, request(), Principal::unix(0)).await.expect("freezes");
    let (before, syncs) = (vm.vm.disruptions(), vm.vm.counters().syncs);
    // Somebody asks something that is not answered any more, and its end asks for a sync.
    vm.guest.rule(|_| Act::Hold);
    let asked = ping(&vm.vm);
    let stopped = async {
        eventually("held", || vm.vm.counters().calls > 3).await;
        vm.qmp.stop();
        until(&vm.vm, LinkState::Paused).await;
    };
    let (asked, ()) = tokio::join!(asked, stopped);
    assert!(matches!(asked, Err(CallError::TimedOut { sent: true, .. })), "{asked:?}");
    eventually("a sync went out", || vm.vm.counters().syncs > syncs).await;
    // Longer than a sync may take.
    let moment = Duration::from_millis(600);
    let ready = timeout(moment, reaches(&vm.vm, |link| link.state != LinkState::Paused)).await;
    assert!(ready.is_err(), "{}", vm.vm.link());
    vm.guest.rule(|_| Act::Normal);
    vm.guest.release();
    vm.qmp.resume();
    until(&vm.vm, LinkState::Frozen).await;
    recovers(&vm.vm).await;
    assert_eq!(vm.vm.disruptions(), before, "{:?}", vm.vm.last_disruption());
    assert_eq!(vm.guest.truth().connections, 1);
    let lease = leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(lease.verdict, Some(Verdict::CountsAgree), "{:?}", lease.members[0].evidence);
}

#[tokio::test]
async fn a_thaw_of_a_paused_vm_is_carried_out_when_it_runs_again() {
    let vm = Vm::ready().await;
    let leases = Leases::new(&vm.registry);
    let lease = leases.freeze(&vm.vm, request(), Principal::unix(0)).await.expect("freezes");
    vm.qmp.stop();
    until(&vm.vm, LinkState::Paused).await;
    let error = leases.thaw(&lease.id).await.expect_err("paused");
    assert!(matches!(error, FreezeError::Call(CallError::Unavailable { .. })), "{error}");
    assert!(vm.guest.truth().frozen);
    vm.qmp.resume();
    eventually("thawed by itself", || !vm.guest.truth().frozen).await;
}

#[tokio::test]
async fn a_port_that_the_guest_closes_is_silent_at_once_and_ready_when_it_opens() {
    let vm = Vm::ready().await;
    let before = vm.vm.disruptions();
    vm.guest.rule(|_| Act::Hold);
    vm.qmp.port(false);
    let reason = until(&vm.vm, LinkState::Silent).await;
    assert!(reason.contains("the agent is not running"), "{reason}");
    assert!(vm.vm.disruptions() > before);
    let asked = Instant::now();
    ping(&vm.vm).await.expect_err("nobody is there");
    assert!(asked.elapsed() < Duration::from_millis(250), "at once");
    vm.guest.rule(|_| Act::Normal);
    vm.guest.release();
    vm.qmp.port(true);
    until(&vm.vm, LinkState::Ready).await;
    recovers(&vm.vm).await;
    assert_eq!(vm.guest.truth().connections, 1);
    assert!(vm.guest.ran("guest-info") > 1, "the next agent may be another one");
}

#[tokio::test]
async fn what_the_next_agent_must_not_find_goes_with_its_connection() {
    let vm = Vm::ready().await;
    vm.guest.rule(|name| if name == "guest-file-flush" { Act::Hold } else { Act::Normal });
    let patient = CallOptions { timeout: BOUND, ..quick() };
    let mut flush = Box::pin(vm.vm.call(GuestFileFlush { handle: 1 }, patient));
    assert!(timeout(Duration::from_millis(50), &mut flush).await.is_err(), "on the wire");
    vm.qmp.happens("RESET", |_| {});
    let error = timeout(Duration::from_secs(1), flush).await.expect("at once").expect_err("lost");
    assert!(
        matches!(&error, CallError::Interrupted { reason } if reason == "the guest was reset"),
        "{error}"
    );
    vm.guest.release();
    recovers(&vm.vm).await;
    assert_eq!(vm.vm.counters().connections, 2);
}

#[tokio::test]
async fn a_reset_spoils_the_verdict_though_nothing_else_shows_it() {
    for event in ["RESET", "SHUTDOWN", "GUEST_PANICKED"] {
        let vm = Vm::ready().await;
        let leases = Leases::new(&vm.registry);
        let lease = leases.freeze(&vm.vm, request(), Principal::unix(0)).await.expect("freezes");
        let before = vm.vm.disruptions();
        vm.qmp.happens(event, |_| {});
        eventually("seen", || vm.vm.disruptions() > before).await;
        assert!(vm.vm.last_disruption().is_some_and(|what| what.starts_with("the guest")));
        until(&vm.vm, LinkState::Frozen).await;
        let lease = leases.thaw(&lease.id).await.expect("thaws");
        assert_eq!(
            lease.verdict,
            Some(Verdict::Unknown),
            "{event}: {:?}",
            lease.members[0].evidence
        );
    }
}

#[tokio::test]
async fn a_chardev_that_cannot_be_told_says_nothing() {
    let vm = Vm::start(|truth| {
        truth.chardev = "unix:/somewhere/else,server=on".into();
        truth.port_open = false;
    })
    .await;
    until(&vm.vm, LinkState::Ready).await;
    recovers(&vm.vm).await;
}

#[tokio::test]
async fn a_qmp_that_goes_takes_its_word_along_and_comes_back() {
    let vm = Vm::start(|truth| truth.status = "paused").await;
    until(&vm.vm, LinkState::Paused).await;
    let Vm { dir, registry: _registry, qmp, vm, guest } = vm;
    drop(qmp);
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    let (agent, control) = (dir.path().join("a"), dir.path().join("a.qmp"));
    std::fs::remove_file(&control).expect("remove");
    let qmp = Qmp::with(&control, &agent, |truth| truth.status = "paused");
    until(&vm, LinkState::Paused).await;
    assert_eq!(qmp.truth().connections, 1);
    assert_eq!(guest.truth().connections, 1, "the agent's own link was never touched");
}

#[tokio::test]
async fn a_vm_that_is_found_has_the_qmp_socket_of_its_pattern() {
    let dir = tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("a")).expect("mkdir");
    let agent = dir.path().join("a/qga.sock");
    let _guest = Guest::start(&agent);
    let _qmp = Qmp::with(&dir.path().join("a/qmp"), &agent, |truth| truth.status = "prelaunch");
    let at = dir.path().display();
    let registry = Registry::start(&parse(&format!(
        "{QUICK}[[discover]]\nglob = \"{at}/*/qga.sock\"\nid = \"{{dir}}\"\nqmp = \"{at}/{{dir}}/qmp\"\n"
    )));
    let vm = registry.list().remove(0);
    assert_eq!(until(&vm, LinkState::Paused).await, "QEMU has not started it yet");
}

/// Does this to each client of a QMP socket, and keeps the connection.
fn bad_qmp(path: PathBuf, says: &'static [u8], times: usize) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("bind");
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            for _ in 0..times {
                if stream.write_all(says).await.is_err() {
                    break;
                }
            }
            if says.is_empty() {
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all).await;
                });
            }
        }
    })
}

#[tokio::test]
async fn whatever_a_qmp_socket_says_the_link_does_not_care() {
    let event =
        b"{\"QMP\": {}}\r\n{\"event\": \"RESUME\"}\r\n{\"event\": \"X\", \"data\": \"\"}\r\n";
    let cases: [(&'static [u8], usize); 5] = [
        (b"SSH-2.0-OpenSSH_9.2\r\n", 1),
        (&[b'x'; 1 << 16], 64),
        (event, 400_000),
        (b"{\"return\": {}}\n", 10),
        (b"", 0),
    ];
    for (says, times) in cases {
        let dir = tempdir().expect("tempdir");
        let (agent, control) = (dir.path().join("a"), dir.path().join("a.qmp"));
        let guest = Guest::start(&agent);
        let bad = bad_qmp(control.clone(), says, times);
        let registry = registry(&agent, &control, "persistent");
        let vm = registry.list().remove(0);
        until(&vm, LinkState::Ready).await;
        for _ in 0..20 {
            recovers(&vm).await;
        }
        assert_eq!(guest.truth().connections, 1);
        registry.close();
        bad.abort();
    }
}

#[tokio::test]
async fn on_demand_a_paused_vms_socket_is_left_to_others() {
    let dir = tempdir().expect("tempdir");
    let (agent, control) = (dir.path().join("a"), dir.path().join("a.qmp"));
    let guest = Guest::start(&agent);
    let qmp = Qmp::start(&control, &agent);
    let registry = registry(&agent, &control, "on-demand");
    let vm = registry.list().remove(0);
    until(&vm, LinkState::Ready).await;
    known(&qmp).await;
    qmp.stop();
    until(&vm, LinkState::Paused).await;
    eventually("left", || !guest.truth().connected).await;
    ping(&vm).await.expect_err("paused");
    assert!(!guest.truth().connected);
    qmp.resume();
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
}
