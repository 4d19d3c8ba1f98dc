//! Sockets that come and go.

use std::path::Path;
use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{Leases, LinkState, Registry, VmId};
use tempfile::tempdir;
use tokio::time::Instant;

use super::fake::Guest;
use super::{QUICK, eventually, parse, recovers, request, until};

fn start(dir: &Path, more: &str) -> Registry {
    let dir = dir.display();
    Registry::start(&parse(&format!(
        "{QUICK}\n{more}\n[[discover]]\nglob = \"{dir}/*/qga.sock\"\nid = \"vm-{{dir}}\"\nlabels = {{ from = \"glob\" }}\n"
    )))
}

fn ids(registry: &Registry) -> Vec<String> {
    registry.list().iter().map(|vm| vm.id().to_string()).collect()
}

fn id(text: &str) -> VmId {
    text.parse().expect("an id")
}

#[tokio::test]
async fn vms_come_and_go_with_their_sockets() {
    let dir = tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("a")).expect("mkdir");
    let mut a = Guest::start(&dir.path().join("a/qga.sock"));
    let registry = start(dir.path(), "");
    assert_eq!(ids(&registry), ["vm-a"], "known before anybody asks");
    let vm = registry.get(&id("vm-a")).expect("there");
    assert_eq!(vm.labels()["from"], "glob");
    until(&vm, LinkState::Ready).await;

    let appeared = Instant::now();
    std::fs::create_dir(dir.path().join("b")).expect("mkdir");
    let _b = Guest::start(&dir.path().join("b/qga.sock"));
    eventually("found", || ids(&registry) == ["vm-a", "vm-b"]).await;
    assert!(appeared.elapsed() < Duration::from_secs(1), "{:?}", appeared.elapsed());
    until(&registry.get(&id("vm-b")).expect("there"), LinkState::Ready).await;

    a.kill().await;
    a.unlink();
    eventually("forgotten", || ids(&registry) == ["vm-b"]).await;
    a.boot();
    eventually("found again", || ids(&registry) == ["vm-a", "vm-b"]).await;
    recovers(&registry.get(&id("vm-a")).expect("there")).await;
}

#[tokio::test]
async fn the_first_keeps_a_duplicate_id() {
    let dir = tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("a")).expect("mkdir");
    let (fixed, found) = (dir.path().join("fixed.sock"), dir.path().join("a/qga.sock"));
    let (_one, _two) = (Guest::start(&fixed), Guest::start(&found));
    let vm = format!("[[vm]]\nid = \"vm-a\"\nsocket = \"{}\"\n", fixed.display());
    let registry = start(dir.path(), &vm);
    assert_eq!(ids(&registry), ["vm-a"]);
    let vm = registry.get(&id("vm-a")).expect("there");
    assert_eq!(*vm.socket(), *fixed);
    until(&vm, LinkState::Ready).await;
}

#[tokio::test]
async fn a_lease_keeps_its_vm() {
    let dir = tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("a")).expect("mkdir");
    let mut guest = Guest::start(&dir.path().join("a/qga.sock"));
    let registry = start(dir.path(), "");
    let vm = registry.get(&id("vm-a")).expect("there");
    until(&vm, LinkState::Ready).await;
    let leases = Leases::new(&registry);
    let lease = leases.freeze(&vm, request(), Principal::unix(0)).await.expect("freezes");
    guest.kill().await;
    guest.unlink();
    until(&vm, LinkState::Absent).await;
    // A socket that is found later shows that everything was looked at since.
    std::fs::create_dir(dir.path().join("b")).expect("mkdir");
    let _b = Guest::start(&dir.path().join("b/qga.sock"));
    eventually("looked", || registry.get(&id("vm-b")).is_some()).await;
    assert_eq!(ids(&registry), ["vm-a", "vm-b"]);
    guest.boot();
    until(&vm, LinkState::Frozen).await;
    leases.thaw(&lease.id).await.expect("thaws");
    guest.kill().await;
    guest.unlink();
    eventually("forgotten", || ids(&registry) == ["vm-b"]).await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_kept() {
    let dir = tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("a")).expect("mkdir");
    let _a = Guest::start(&path("a/qga.sock"));
    let registry = start(dir.path(), "");
    let vm = registry.get(&id("vm-a")).expect("there");
    until(&vm, LinkState::Ready).await;
    // Nothing can be said of what is below a link to itself.
    std::fs::rename(path("a"), path(".a")).expect("rename");
    std::os::unix::fs::symlink("a", path("a")).expect("symlink");
    std::fs::create_dir(path("b")).expect("mkdir");
    let _b = Guest::start(&path("b/qga.sock"));
    eventually("looked", || registry.get(&id("vm-b")).is_some()).await;
    assert_eq!(ids(&registry), ["vm-a", "vm-b"]);
    assert_eq!(vm.link().state, LinkState::Ready, "and its link is left alone");
    std::fs::remove_file(path("a")).expect("remove");
    eventually("known to be gone", || ids(&registry) == ["vm-b"]).await;
}
