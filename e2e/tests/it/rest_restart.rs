//! The gateway is killed: in the middle of a call, and while it holds a freeze.

use std::sync::mpsc;
use std::thread;

use qga_e2e::Target;
use serde_json::json;

use crate::guests::{Kind, Served, both_agents};
use crate::scenario::{wait_all_writing, wait_blocked};

both_agents!(restart);

fn restart(kind: Kind) {
    let Some(mut served) = Served::start(kind) else { return };
    killed_in_a_call(&mut served);
    killed_while_frozen(&mut served);
}

/// The guest's CPUs are stopped, so that the call cannot have been answered.
fn killed_in_a_call(served: &mut Served) {
    served.guest.vm.qmp().stop().unwrap();
    let (rest, path) = (served.target.rest.clone(), served.target.path("/file-handles"));
    let (begun, has_begun) = mpsc::channel();
    let caller = thread::spawn(move || {
        begun.send(()).unwrap();
        rest.post(&path, &json!({ "path": "/run/in-a-call", "mode": "w" }))
    });
    has_begun.recv().unwrap();
    // Requests that need no guest are still answered, each after the caller's has come in.
    for _ in 0..10 {
        served.target.vm().unwrap();
    }
    served.gateway.kill();
    caller.join().unwrap().expect_err("a call whose gateway was killed");
    served.guest.vm.qmp().cont().unwrap();
    assert_eq!(served.guest.vm.qmp().status().unwrap(), "running");

    // The answer to the lost call now waits on the wire; it must not pass for another's.
    served.gateway.start_again().unwrap();
    served.wait_link("ready");
    served.target.ping().unwrap();
    let info = served.target.rest.get(&served.target.path("/agent")).unwrap().expect(200).unwrap();
    assert!(info["version"].is_string(), "{info}");
    assert!(info["supported_commands"].is_array(), "{info}");
}

/// Leases live in memory for now: the guest stays frozen, and the gateway sees and says it.
fn killed_while_frozen(served: &mut Served) {
    served.target.freeze().unwrap();
    wait_blocked(served.guest.vm.control());
    served.gateway.kill();
    served.gateway.start_again().unwrap();
    served.wait_link("frozen");
    assert!(served.target.is_frozen().unwrap());
    wait_blocked(served.guest.vm.control());
    let forced = served.target.path("/fsfreeze?force=true");
    served.target.rest.delete(&forced).unwrap().expect(200).unwrap();
    wait_all_writing(served.guest.vm.control());
    served.wait_link("ready");
}
