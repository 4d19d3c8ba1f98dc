//! A VM that comes, goes, or migrates away is seen within a second, by the link's own account of
//! when: a machine that is busy may be late to tell a test, and now and then late altogether, so
//! the best of some tries counts. No look around is due for an hour, and all else is as usual.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use qga_gateway::vm::{LinkState, Registry, VmHandle};
use tempfile::tempdir;

use super::fake::Guest;
use super::{eventually, parse, reaches};

const WITHIN: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

/// How long after `begun` the link says that it came to `state`.
async fn took(vm: &VmHandle, state: LinkState, begun: SystemTime) -> Duration {
    let link = reaches(vm, |link| link.state == state).await;
    link.since.duration_since(begun).unwrap_or_default()
}

/// The least of each, over some tries or until all are good.
fn better(best: &mut [Duration; 2], took: [Duration; 2]) -> bool {
    for (best, took) in best.iter_mut().zip(took) {
        *best = took.min(*best);
    }
    best.iter().all(|took| *took <= WITHIN)
}

fn registry(vms: &str) -> Registry {
    Registry::start(&parse(&format!("[limits]\nrescan_seconds = 3600\n{vms}")))
}

#[tokio::test]
async fn a_vm_that_comes_or_goes_is_seen_within_a_second() {
    for mode in ["persistent", "on-demand"] {
        let dir = tempdir().expect("tempdir");
        let path = dir.path().join("a");
        let registry =
            registry(&format!("[[vm]]\nid = \"a\"\nsocket = {path:?}\nmode = \"{mode}\"\n"));
        let vm = registry.list().remove(0);
        reaches(&vm, |link| link.state == LinkState::Absent).await;
        let mut best = [Duration::MAX; 2];
        for _ in 0..TRIES {
            let begun = SystemTime::now();
            let mut guest = Guest::start(&path);
            let came = took(&vm, LinkState::Ready, begun).await;
            let begun = SystemTime::now();
            // As QEMU does when it ends, also after its guest has migrated.
            guest.unlink();
            guest.kill().await;
            let went = took(&vm, LinkState::Absent, begun).await;
            if better(&mut best, [came, went]) {
                break;
            }
        }
        assert!(best.iter().all(|took| *took <= WITHIN), "{mode}: came and went: {best:?}");
    }
}

#[tokio::test]
async fn a_vm_that_nobody_has_named_is_seen_within_a_second() {
    let dir = tempdir().expect("tempdir");
    let at = dir.path().display();
    let registry =
        registry(&format!("[[discover]]\nglob = \"{at}/*/qga.sock\"\nid = \"{{dir}}\"\n"));
    let mut best = [Duration::MAX; 2];
    for number in 0..TRIES {
        let home = dir.path().join(format!("vm-{number}"));
        let begun = SystemTime::now();
        std::fs::create_dir(&home).expect("mkdir");
        let mut guest = Guest::start(&home.join("qga.sock"));
        let vm = newcomer(&registry, &home).await;
        let came = took(&vm, LinkState::Ready, begun).await;
        let begun = Instant::now();
        guest.unlink();
        guest.kill().await;
        // One that was found is forgotten: nobody is left to give an account.
        eventually("it to be forgotten", || named(&registry, &home).is_none()).await;
        let went = begun.elapsed();
        if better(&mut best, [came, went]) {
            break;
        }
    }
    assert!(best.iter().all(|took| *took <= WITHIN), "came and went: {best:?}");
}

async fn newcomer(registry: &Registry, home: &Path) -> VmHandle {
    eventually("it to be found", || named(registry, home).is_some()).await;
    named(registry, home).expect("it was there")
}

fn named(registry: &Registry, home: &Path) -> Option<VmHandle> {
    let name = home.file_name().and_then(|name| name.to_str()).expect("a name");
    registry.list().into_iter().find(|vm| vm.id().to_string() == name)
}
