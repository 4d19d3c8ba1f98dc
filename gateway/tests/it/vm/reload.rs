//! A configuration that changes under running links and leases.

use std::path::Path;
use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{
    CallError, Leases, LinkState, Registry, Reloaded, Verdict, VmHandle, VmId, watch_external,
};
use qga_proto::command::GuestFsfreezeStatus;
use tempfile::tempdir;

use super::fake::{Act, Guest};
use super::{QUICK, eventually, parse, ping, reaches, recovers, request, until};

fn vm(id: &str, socket: &Path, more: &str) -> String {
    format!("[[vm]]\nid = \"{id}\"\nsocket = {socket:?}\n{more}\n")
}

fn id(text: &str) -> VmId {
    text.parse().expect("an id")
}

fn ids(registry: &Registry) -> Vec<String> {
    registry.list().iter().map(|vm| vm.id().to_string()).collect()
}

async fn reload(registry: &Registry, text: &str) -> Reloaded {
    registry.reload(&parse(text)).await.expect("open")
}

async fn ready(registry: &Registry, name: &str) -> VmHandle {
    let vm = registry.get(&id(name)).expect("there");
    super::ready(&vm).await;
    vm
}

#[tokio::test]
async fn only_what_changed_is_connected_to_anew() {
    let dir = tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let guests: Vec<_> = ["a", "b", "c"].iter().map(|name| Guest::start(&path(name))).collect();
    let before = [vm("a", &path("a"), ""), vm("b", &path("b"), "")].concat();
    let registry = Registry::start(&parse(&format!("{QUICK}{before}")));
    let (a, b) = (ready(&registry, "a").await, ready(&registry, "b").await);

    let labelled = "labels = { tier = \"db\" }";
    let after = [vm("a", &path("a"), ""), vm("b", &path("b"), labelled), vm("c", &path("c"), "")];
    let done = reload(&registry, &format!("{QUICK}{}", after.concat())).await;
    assert_eq!((done.added, done.changed, done.removed), (1, 1, 0));
    let b2 = ready(&registry, "b").await;
    assert_eq!(b2.labels()["tier"], "db");
    ready(&registry, "c").await;
    ping(&a).await.expect("the same link");
    assert_eq!(guests[0].truth().connections, 1);
    assert_eq!(guests[1].truth().connections, 2);
    ping(&b).await.expect_err("that handle is of the past");

    let done = reload(&registry, &format!("{QUICK}{}", after[2])).await;
    assert_eq!((done.added, done.changed, done.removed), (0, 0, 2));
    assert_eq!(ids(&registry), ["c"]);
    eventually("left", || !guests[0].truth().connected && !guests[1].truth().connected).await;
    assert_eq!(guests[2].truth().connections, 1);
}

#[tokio::test]
async fn a_vm_with_a_lease_is_kept_until_that_has_ended() {
    let dir = tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let (gone, changed) = (Guest::start(&path("gone")), Guest::start(&path("changed")));
    let before = [vm("gone", &path("gone"), ""), vm("changed", &path("changed"), "")].concat();
    let registry = Registry::start(&parse(&format!("{QUICK}{before}")));
    let leases = Leases::new(&registry);
    let mut held = Vec::new();
    for name in ["gone", "changed"] {
        let vm = ready(&registry, name).await;
        held.push(leases.freeze(&vm, request(), Principal::unix(0)).await.expect("freezes").id);
    }
    let after = vm(
        "changed",
        &path("changed"),
        "labels = { a = \"b\" }\nexternal_freeze = \"thaw-after=60\"",
    );
    let after = format!("{QUICK}{after}");
    let done = reload(&registry, &after).await;
    assert_eq!(done.kept, [id("changed"), id("gone")]);
    assert_eq!((done.added, done.changed, done.removed), (0, 1, 0));
    let labelled = registry.get(&id("changed")).expect("there");
    assert_eq!(labelled.labels()["a"], "b", "rights hang on them, and wait for no lease");
    assert_eq!(changed.truth().connections, 1);
    for lease in &held {
        let lease = leases.thaw(lease).await.expect("thaws");
        assert_eq!(lease.verdict, Some(Verdict::CountsAgree), "{:?}", lease.members[0].evidence);
    }
    eventually("let go", || ids(&registry) == ["changed"]).await;
    eventually("taken over", || changed.truth().connections == 2).await;
    assert_eq!(gone.truth().connections, 1);
    recovers(&registry.get(&id("changed")).expect("there")).await;
    assert_eq!(changed.truth().connections, 2);
}

#[tokio::test]
async fn what_becomes_of_a_foreign_freeze_is_taken_over() {
    let dir = tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    guest.change(|truth| truth.frozen = true);
    let with = |setting: &str| {
        format!("{QUICK}{}", vm("a", &path, &format!("external_freeze = \"{setting}\"")))
    };
    let registry = Registry::start(&parse(&with("report")));
    let leases = Leases::new(&registry);
    tokio::spawn(watch_external(registry.clone(), leases.clone()));
    until(&registry.get(&id("a")).expect("there"), LinkState::Frozen).await;
    assert_eq!(leases.list().len(), 0);
    assert_eq!(reload(&registry, &with("thaw-after=0.1")).await.changed, 1);
    eventually("thawed", || !guest.truth().frozen).await;
    eventually("on record", || leases.list().iter().any(|lease| lease.ended())).await;
    // And back: the next one is only told of.
    reload(&registry, &with("report")).await;
    let a = registry.get(&id("a")).expect("there");
    until(&a, LinkState::Ready).await;
    guest.change(|truth| truth.frozen = true);
    a.call(GuestFsfreezeStatus {}, super::quick()).await.expect("says frozen");
    until(&a, LinkState::Frozen).await;
    let thawed = reaches(&a, |link| link.state != LinkState::Frozen);
    assert!(tokio::time::timeout(Duration::from_millis(400), thawed).await.is_err());
    assert_eq!(guest.ran("guest-fsfreeze-thaw"), 1);
}

#[tokio::test]
async fn bounds_timeouts_and_patterns_are_taken_over() {
    let dir = tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let (a, _b) = (Guest::start(&path("a.one")), Guest::start(&path("b.two")));
    let at = dir.path().display();
    let pattern = |end: &str| format!("[[discover]]\nglob = \"{at}/*.{end}\"\n");
    let registry = Registry::start(&parse(&format!("{QUICK}{}", pattern("one"))));
    let vm = ready(&registry, "a").await;

    let short =
        format!("[timeouts]\nsession_seconds = 0.1\n[limits]\nqueue_depth = 1\n{}", pattern("one"));
    reload(&registry, &short).await;
    assert_eq!(registry.limits().queue_depth, 1);
    a.rule(|_| Act::Hold);
    let options = vm.options(&<qga_proto::command::GuestPing as qga_proto::command::Command>::INFO);
    assert_eq!(options.timeout, Duration::from_millis(100));
    let error = vm.call(qga_proto::command::GuestPing {}, options).await.expect_err("held");
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    a.rule(|_| Act::Normal);
    a.release();
    recovers(&vm).await;
    assert_eq!(a.truth().connections, 1);

    let done = reload(&registry, &format!("{QUICK}{}", pattern("two"))).await;
    assert_eq!((done.added, done.removed), (1, 1));
    assert_eq!(ids(&registry), ["b"]);
    ready(&registry, "b").await;
}

#[tokio::test]
async fn a_vm_follows_its_socket_to_another_place() {
    let dir = tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let (old, new) = (Guest::start(&path("old")), Guest::start(&path("new")));
    let registry = Registry::start(&parse(&format!("{QUICK}{}", vm("a", &path("old"), ""))));
    let a = ready(&registry, "a").await;
    reload(&registry, &format!("{QUICK}{}", vm("a", &path("new"), ""))).await;
    eventually("left", || !old.truth().connected).await;
    eventually("moved", || new.truth().connected).await;
    until(&a, LinkState::Ready).await;
    recovers(&a).await;
    assert_eq!(new.ran("guest-ping"), 1, "the handle goes on");
}
