//! On demand, the socket is others' while nobody calls; a lease keeps it.

use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{CallError, FreezeRequest, Leases, LinkState, Registry, Verdict, VmHandle};
use tempfile::tempdir;
use tokio::net::UnixStream;

use super::fake::{Guest, only_syncs};
use super::{config, eventually, ping, reaches, request, until};

fn on_demand(path: &std::path::Path) -> (Registry, VmHandle) {
    let registry = Registry::start(&config("on-demand", &[path]));
    let vm = registry.list().remove(0);
    (registry, vm)
}

#[tokio::test]
async fn connects_for_a_call_and_leaves_after_it() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    let (_registry, vm) = on_demand(&path);
    until(&vm, LinkState::Ready).await;
    eventually("known from the first look", || vm.capabilities().is_some()).await;
    eventually("left", || !guest.truth().connected).await;
    ping(&vm).await.expect("connects and answers");
    eventually("left again", || !guest.truth().connected).await;
    assert_eq!(vm.link().state, LinkState::Ready, "leaving is no news");
    let truth = guest.truth();
    assert_eq!(truth.connections, 2);
    assert!(truth.before_sync.iter().all(|bytes| only_syncs(bytes)));
    assert_eq!(guest.ran("guest-info"), 1, "asked once, not at each call");
}

#[tokio::test]
async fn calls_close_together_share_a_connection() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    let (_registry, vm) = on_demand(&path);
    eventually("looked and left", || {
        let truth = guest.truth();
        truth.connections == 1 && !truth.connected && vm.capabilities().is_some()
    })
    .await;
    for _ in 0..5 {
        ping(&vm).await.expect("answers");
    }
    assert_eq!(guest.truth().connections, 2);
}

#[tokio::test]
async fn a_socket_in_others_hands_is_not_queued_for() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    let other = UnixStream::connect(&path).await.expect("connect");
    eventually("the other is served", || guest.truth().connected).await;
    let (_registry, vm) = on_demand(&path);
    until(&vm, LinkState::Busy).await;
    let error = ping(&vm).await.expect_err("busy");
    assert!(matches!(error, CallError::Unavailable { .. }), "{error}");
    drop(other);
    eventually("answered again", || !guest.truth().connected).await;
    ping(&vm).await.expect("free again");
    assert_eq!(guest.ran("guest-ping"), 1);
}

#[tokio::test]
async fn comes_and_goes_with_its_socket() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let mut guest = Guest::start(&path);
    let (_registry, vm) = on_demand(&path);
    until(&vm, LinkState::Ready).await;
    eventually("left", || !guest.truth().connected).await;
    guest.kill().await;
    guest.unlink();
    until(&vm, LinkState::Absent).await;
    let error = ping(&vm).await.expect_err("gone");
    assert!(matches!(error, CallError::Unavailable { .. }), "{error}");
    guest.boot();
    reaches(&vm, |link| link.state == LinkState::Ready).await;
    ping(&vm).await.expect("back");
}

#[tokio::test]
async fn a_lease_keeps_the_connection() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    let (registry, vm) = on_demand(&path);
    until(&vm, LinkState::Ready).await;
    eventually("left", || !guest.truth().connected).await;
    let leases = Leases::new(&registry);
    let request = FreezeRequest { ttl: Duration::from_millis(600), ..request() };
    let lease = leases.freeze(&vm, request, Principal::unix(0)).await.expect("freezes");
    let connections = guest.truth().connections;
    eventually("its end", || leases.get(&lease.id).is_some_and(|lease| lease.ended())).await;
    assert_eq!(guest.truth().connections, connections, "held all the time, past the idle bound");
    let lease = leases.get(&lease.id).expect("readable");
    assert_eq!(lease.verdict, Some(Verdict::CountsAgree), "{:?}", lease.members[0].evidence);
    eventually("left", || !guest.truth().connected).await;
}
