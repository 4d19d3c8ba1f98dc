//! Links that idle, and agents that die without a word.

use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{Leases, LinkState, Registry, Verdict, VmHandle};
use tempfile::tempdir;
use tokio::time::timeout;

use super::fake::{Act, Guest};
use super::{QUICK, eventually, parse, reaches, ready, recovers, request, until};

fn registry(socket: &std::path::Path, seconds: f64) -> (Registry, VmHandle) {
    let quick = QUICK.replace("[timeouts]", &format!("keepalive_seconds = {seconds}\n[timeouts]"));
    let registry =
        Registry::start(&parse(&format!("{quick}[[vm]]\nid = \"a\"\nsocket = {socket:?}\n")));
    let vm = registry.list().remove(0);
    (registry, vm)
}

#[tokio::test]
async fn an_agent_that_dies_without_a_word_does_not_stay_ready() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    let (_registry, vm) = registry(&path, 0.1);
    ready(&vm).await;
    guest.rule(|_| Act::Hold);
    let reason = until(&vm, LinkState::Silent).await;
    assert_eq!(reason, "connected, but the agent answers no sync");
    guest.rule(|_| Act::Normal);
    guest.release();
    until(&vm, LinkState::Ready).await;
    recovers(&vm).await;
    assert_eq!(guest.truth().connections, 1);
}

#[tokio::test]
async fn without_a_keepalive_an_idle_link_costs_nothing() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let _guest = Guest::start(&path);
    let (_registry, vm) = registry(&path, 0.0);
    ready(&vm).await;
    let before = vm.counters();
    let moment = Duration::from_millis(500);
    let changed = timeout(moment, reaches(&vm, |link| link.state != LinkState::Ready)).await;
    assert!(changed.is_err());
    assert_eq!(vm.counters(), before);
}

#[tokio::test]
async fn under_a_lease_nobody_is_asked_so_that_a_stopped_guest_may_keep_its_verdict() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    let (registry, vm) = registry(&path, 0.05);
    ready(&vm).await;
    let leases = Leases::new(&registry);
    let lease = leases.freeze(&vm, request(), Principal::unix(0)).await.expect("freezes");
    // Somebody stops it for a snapshot, and no QMP says so.
    let syncs = vm.counters().syncs;
    guest.rule(|_| Act::Hold);
    let moment = Duration::from_millis(700);
    let changed = timeout(moment, reaches(&vm, |link| link.state != LinkState::Frozen)).await;
    assert!(changed.is_err(), "{}", vm.link());
    assert_eq!(vm.counters().syncs, syncs);
    guest.rule(|_| Act::Normal);
    guest.release();
    let lease = leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(lease.verdict, Some(Verdict::CountsAgree), "{:?}", lease.members[0].evidence);
    eventually("asked again", || vm.counters().syncs > syncs + 3).await;
}
