//! Freezing over HTTP.

use qga_e2e::Target;
use serde_json::json;

use crate::guests::{Kind, Served, both_agents};
use crate::scenario::{
    ALL_FILESYSTEMS, agent_dies_while_frozen, freeze_holds_every_disk, wait_all_writing,
    wait_blocked,
};

both_agents!(freeze);

fn freeze(kind: Kind) {
    let Some(Served { gateway, mut guest, mut target }) = Served::start(kind) else { return };
    freeze_holds_every_disk(&mut guest, &mut target);
    lease(&mut guest.vm, &mut target);
    named_filesystems(&mut guest.vm, &target);
    agent_dies_while_frozen(&mut guest, &mut target);
    drop(gateway);
}

/// The answer's shape, what is refused meanwhile, and the end of the lease by its time.
fn lease(vm: &mut qga_e2e::Vm, target: &mut qga_e2e::RestTarget) {
    let rest = target.rest.clone();
    let fsfreeze = target.path("/fsfreeze");
    let reply = rest.post(&fsfreeze, &json!({ "ttl_seconds": 60 })).unwrap();
    let location = reply.header("location").expect("a Location").to_owned();
    assert!(location.contains("/freezes/"), "{location}");
    let lease = reply.expect(201).unwrap();
    assert_eq!(lease["filesystems"], json!(ALL_FILESYSTEMS), "{lease}");
    for member in ["frozen_at", "expires_at", "guard"] {
        assert!(lease[member].is_string(), "no {member} in {lease}");
    }

    let again = rest.post(&fsfreeze, &json!({ "ttl_seconds": 60 })).unwrap();
    assert_eq!((again.status, again.code()), (409, "already_frozen"));
    let open = json!({ "path": "/run/while-frozen", "mode": "w" });
    let refused = rest.post(&target.path("/file-handles"), &open).unwrap();
    assert_eq!((refused.status, refused.code()), (409, "vm_frozen"));
    target.ping().unwrap();
    assert_eq!(target.link_state().unwrap(), "frozen");
    wait_blocked(vm.control());
    target.thaw().unwrap();
    assert_eq!(vm.control().run("test -e /run/while-frozen").unwrap().status, 1);

    // Nobody thaws this one.
    rest.post(&fsfreeze, &json!({ "ttl_seconds": 4 })).unwrap().expect(201).unwrap();
    wait_all_writing(vm.control());
    assert!(!target.is_frozen().unwrap());
}

/// Only what is named is frozen; naming nothing that exists leaves nothing frozen.
fn named_filesystems(vm: &mut qga_e2e::Vm, target: &qga_e2e::RestTarget) {
    let fsfreeze = target.path("/fsfreeze");
    let body = json!({ "ttl_seconds": 60, "mountpoints": ["/data/xfs"] });
    let lease = target.rest.post(&fsfreeze, &body).unwrap().expect(201).unwrap();
    assert_eq!(lease["filesystems"], json!(1), "{lease}");
    vm.control().wait_writing(qga_e2e::Disk::Ext4, crate::guests::SOON).unwrap();
    target.rest.delete(&fsfreeze).unwrap().expect(200).unwrap();

    let body = json!({ "ttl_seconds": 60, "mountpoints": ["/nowhere"] });
    let reply = target.rest.post(&fsfreeze, &body).unwrap();
    assert_eq!(reply.status, 422, "{}", reply.json);
    wait_all_writing(vm.control());
}
