//! Reboot, power cut, halt and power-off behind a gateway that is left alone meanwhile.

use qga_e2e::{Target, until};
use serde_json::json;

use crate::guests::{Kind, SOON, Served, both_agents};

both_agents!(power);

fn power(kind: Kind) {
    let Some(mut served) = Served::start(kind) else { return };
    let shutdown = served.target.path("/shutdown");
    let rest = served.target.rest.clone();

    let boot_id = served.guest.vm.boot_id().to_owned();
    rest.post(&shutdown, &json!({ "mode": "reboot" })).unwrap().expect(202).unwrap();
    let reset = served.guest.vm.qmp().wait_event("RESET", SOON).unwrap();
    assert_eq!(reset["data"]["guest"], json!(true));
    served.guest.vm.wait_rebooted().unwrap();
    assert_ne!(served.guest.vm.boot_id(), boot_id);
    answers_again(&mut served);

    // Nobody tells the gateway; the socket's path stays the same.
    served.guest.vm.kill();
    until("a link that is down", SOON, || {
        let state = served.target.link_state()?;
        Ok(["absent", "refused"].contains(&state.as_str()).then_some(()))
    })
    .unwrap();
    let down = rest.post(&served.target.path("/ping"), &json!({})).unwrap();
    assert_eq!((down.status, down.code()), (503, "agent_unavailable"));
    served.guest.vm.start_again().unwrap();
    answers_again(&mut served);

    halt(&mut served);

    let nonsense = rest.post(&shutdown, &json!({ "mode": "explode" })).unwrap();
    assert!((400..500).contains(&nonsense.status), "{} {}", nonsense.status, nonsense.json);
    rest.post(&shutdown, &json!({ "mode": "powerdown" })).unwrap().expect(202).unwrap();
    let event = served.guest.vm.qmp().wait_event("SHUTDOWN", SOON).unwrap();
    assert_eq!(event["data"]["guest"], json!(true));
    assert!(served.guest.vm.wait_exit(SOON).unwrap().success());
}

/// A halted guest stands still without its QEMU ending, until somebody resets it.
fn halt(served: &mut Served) {
    let (shutdown, ping) = (served.target.path("/shutdown"), served.target.path("/ping"));
    let rest = served.target.rest.clone();
    rest.post(&shutdown, &json!({ "mode": "halt" })).unwrap().expect(202).unwrap();
    let vm = &mut served.guest.vm;
    vm.console().wait_for("e2e: halt", SOON).unwrap();
    vm.console().wait_for("System halted", SOON).unwrap();
    assert_eq!(vm.ended().unwrap(), None, "QEMU must outlive a halt");
    assert_eq!(vm.qmp().status().unwrap(), "running");
    let halted = rest.post(&ping, &json!({})).unwrap();
    assert!([503, 504].contains(&halted.status), "{} {}", halted.status, halted.json);

    vm.qmp().execute("system_reset").unwrap();
    vm.wait_rebooted().unwrap();
    answers_again(served);
}

fn answers_again(served: &mut Served) {
    until("an answer to a ping", SOON, || Ok(served.target.ping().ok())).unwrap();
    served.wait_link("ready");
}
