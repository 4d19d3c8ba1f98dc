//! State files of the formats that were written before, as they were written: a gateway that is
//! updated goes on with the leases that it finds.
//!
//! `fixtures/state-1.redb` was left by a gateway that was killed: a lease of `vm-00000`, made under an
//! `Idempotency-Key`, and one of two VMs that had been thawed.

use std::path::Path;

use qga_gateway::config::Config;
use qga_gateway::replies::Replies;
use qga_gateway::store::{StateDir, Store};
use qga_gateway::vm::{LeaseState, Leases, Order, Policy, Registry, ThawCause, Verdict};
use tempfile::tempdir;

#[tokio::test]
async fn the_first_format_opens() {
    let dir = tempdir().expect("tempdir");
    let state = StateDir::open(&dir.path().join("state")).expect("a directory");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-1.redb");
    std::fs::copy(fixture, dir.path().join("state/state.redb")).expect("copies");
    let config = format!("[listen]\nunix = {:?}\n", dir.path().join("api.sock"));
    let registry = Registry::start(&Config::parse(&config, "test.toml".as_ref()).expect("right"));
    let store = Store::open(state).expect("opens");
    let leases = Leases::load(&registry, store.clone()).expect("reads");
    let replies = Replies::load(&registry, store).expect("reads");
    assert_eq!(format!("{replies:?}"), "Replies { kept: 1 }");

    let held =
        leases.get(&"frz_8c3cfbaa4bae0953313e90e9981a137f".parse().expect("an id")).expect("there");
    assert_eq!(held.owner.as_str(), "unix:uid=0");
    assert_eq!((held.label.as_deref(), held.ttl.as_secs()), (Some("nightly"), 3600));
    assert_eq!((held.policy, held.order, held.ended()), (Policy::Required, Order::Parallel, false));
    let [vm] = held.members.as_slice() else { panic!("{held:?}") };
    assert_eq!((vm.vm.as_str(), vm.filesystems), ("vm-00000", Some(2)));
    assert!(vm.frozen_at.is_some() && held.expires_at.is_some());

    let ended =
        leases.get(&"frz_b214be2f4669c218023ec9931df00ea7".parse().expect("an id")).expect("there");
    assert_eq!((ended.state, ended.order), (LeaseState::Thawed, Order::Sequential));
    assert_eq!(ended.verdict, Some(Verdict::CountsAgree));
    assert_eq!(ended.thaw_cause, Some(ThawCause::Requested));
    assert_eq!((ended.members.len(), ended.filesystems()), (2, Some(4)));
    registry.close();
}
