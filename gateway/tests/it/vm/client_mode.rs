//! Chardevs in client mode: the gateway listens, QEMU connects.

use std::path::Path;
use std::process::{Child, Stdio};

use qga_gateway::vm::{CallError, LinkState, Registry, VmHandle};
use tempfile::tempdir;
use tokio::net::UnixStream;

use super::fake::{Guest, only_syncs};
use super::{QUICK, eventually, parse, ping, recovers, until};

fn listening(socket: &Path) -> (Registry, VmHandle) {
    let text = format!("{QUICK}[[listen_vm]]\nid = \"a\"\nsocket = {socket:?}\n");
    let registry = Registry::start(&parse(&text));
    let vm = registry.list().remove(0);
    (registry, vm)
}

#[tokio::test]
async fn a_qemu_that_connects_is_served_as_any_other() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let (registry, vm) = listening(&path);
    let reason = until(&vm, LinkState::Absent).await;
    eventually("it listens", || path.exists()).await;
    assert!(reason.contains("no QEMU is connected") || reason == "not looked for yet", "{reason}");
    let error = ping(&vm).await.expect_err("nobody is there");
    assert!(matches!(error, CallError::Unavailable { .. }), "{error}");

    let mut guest = Guest::connecting(&path);
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    assert_eq!(vm.incarnation().map(|known| known.pid), Some(std::process::id()));
    let before = vm.disruptions();
    guest.kill().await;
    until(&vm, LinkState::Absent).await;
    assert!(vm.disruptions() > before);
    let guest = Guest::connecting(&path);
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    assert!(guest.truth().before_sync.iter().all(|bytes| only_syncs(bytes)));
    registry.close();
    eventually("its socket goes with it", || !path.exists()).await;
}

#[tokio::test]
async fn another_qemu_waits_until_the_first_has_gone() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let (_registry, vm) = listening(&path);
    eventually("it listens", || path.exists()).await;
    let mut first = Guest::connecting(&path);
    until(&vm, LinkState::Ready).await;
    let second = Guest::connecting(&path);
    eventually("it has connected", || second.truth().connected).await;
    for _ in 0..5 {
        ping(&vm).await.expect("the first is served");
    }
    assert_eq!(second.truth().before_sync, [[0u8; 0]], "nothing was said to the second");
    first.kill().await;
    eventually("the second's turn", || second.ran("guest-info") > 0).await;
    recovers(&vm).await;
    assert_eq!((first.ran("guest-ping"), second.ran("guest-ping") > 0), (5, true));
}

#[tokio::test]
async fn a_socket_that_somebody_removes_is_made_again_and_one_in_the_way_is_told_of() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    std::fs::write(&path, "").expect("write");
    let (_registry, vm) = listening(&path);
    let reason = until(&vm, LinkState::Refused).await;
    assert!(reason.contains("something lies at the path that is no socket"), "{reason}");
    std::fs::remove_file(&path).expect("remove");
    eventually("it listens", || std::os::unix::net::UnixStream::connect(&path).is_ok()).await;
    until(&vm, LinkState::Absent).await;
    std::fs::remove_file(&path).expect("remove");
    eventually("and again", || path.exists()).await;
    let _guest = Guest::connecting(&path);
    until(&vm, LinkState::Ready).await;
}

#[tokio::test]
async fn connections_that_come_and_go_cost_little() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let (_registry, vm) = listening(&path);
    eventually("it listens", || path.exists()).await;
    for _ in 0..20 {
        // The queue may be full of the dead.
        drop(UnixStream::connect(&path).await);
    }
    let _guest = Guest::connecting(&path);
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
}

#[tokio::test]
async fn a_real_qemu_connects() {
    struct Qemu(Child);
    impl Drop for Qemu {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let Some(program) = qga_testing::program("qemu-system-x86_64") else {
        qga_testing::unavailable("no qemu-system-x86_64");
        return;
    };
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a.sock");
    let (_registry, vm) = listening(&path);
    eventually("it listens", || path.exists()).await;
    let mut command = qga_testing::tied(program);
    command.args(["-M", "none", "-nodefaults", "-display", "none", "-chardev"]);
    command.arg(format!("socket,id=qga,path={},server=off,reconnect=1", path.display()));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("QEMU starts");
    let qemu = Qemu(child);
    // Nobody is behind its chardev.
    until(&vm, LinkState::Silent).await;
    assert_eq!(vm.incarnation().map(|known| known.pid), Some(qemu.0.id()));
    drop(qemu);
    until(&vm, LinkState::Absent).await;
}
