//! A gateway that follows a real QEMU's monitor: pauses, a guest's port, a reset under a freeze.

use qga_e2e::{Gateway, RestTarget, Target, until};
use serde_json::{Value, json};

use crate::guests::{Guest, Kind, SOON, Served, both_agents, gateway_program};

both_agents!(monitor);

fn monitor(kind: Kind) {
    let Some(program) = gateway_program() else { return };
    let Some(guest) = Guest::boot(kind) else { return };
    let (socket, qmp) = (guest.vm.qga_socket(), guest.vm.second_qmp_socket());
    let vm = format!("\n[[vm]]\nid = \"vm\"\nsocket = {socket:?}\nqmp = {qmp:?}\n");
    let gateway = Gateway::start_with(&program, guest.dir(), &vm, &[]).unwrap();
    let target = RestTarget { rest: gateway.rest(), vm: "vm".to_owned() };
    let mut served = Served { gateway, guest, target };
    served.wait_link("ready");
    paused(&mut served);
    agent_stopped(&mut served);
    reset_under_a_freeze(&mut served);
}

fn paused(served: &mut Served) {
    served.guest.vm.qmp().stop().unwrap();
    served.wait_link("paused");
    // That it stopped comes first, and why a moment later.
    until("the reason", SOON, || {
        let vm = served.target.vm()?;
        let reason = vm["link"]["reason"].as_str().unwrap_or_default();
        Ok(reason.contains("somebody has paused it").then_some(()))
    })
    .unwrap();
    let rest = served.target.rest.clone();
    for (path, body) in [("/fsfreeze", json!({ "ttl_seconds": 60 })), ("/ping", json!({}))] {
        let reply = rest.post(&served.target.path(path), &body).unwrap();
        assert_eq!((reply.status, reply.code()), (409, "vm_paused"), "{}", reply.json);
        let detail = reply.json["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("somebody has paused it"), "{detail}");
    }
    served.guest.vm.qmp().cont().unwrap();
    served.wait_link("ready");
    served.target.ping().unwrap();

    // Under a freeze a pause is what a backup does, and spoils nothing.
    let lease = freeze(served);
    served.guest.vm.qmp().stop().unwrap();
    served.wait_link("paused");
    served.guest.vm.qmp().cont().unwrap();
    served.wait_link("frozen");
    let ended = thaw(served, &lease);
    let verdict = ended["verdict"].as_str().unwrap_or_default();
    assert!(["counts_agree", "held"].contains(&verdict), "{ended}");
}

/// The port's closing is seen although nobody calls; and its opening.
fn agent_stopped(served: &mut Served) {
    served.guest.vm.control().kill_agent(false).unwrap();
    served.wait_link("silent");
    let vm = served.target.rest.get(&served.target.path("")).unwrap().expect(200).unwrap();
    let reason = vm["link"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("the agent is not running"), "{reason}");
    let reply = served.target.rest.post(&served.target.path("/ping"), &json!({})).unwrap();
    assert_eq!((reply.status, reply.code()), (503, "agent_unavailable"), "{}", reply.json);
    served.guest.vm.control().start_agent().unwrap();
    served.wait_link("ready");
    served.target.ping().unwrap();
}

fn reset_under_a_freeze(served: &mut Served) {
    let lease = freeze(served);
    served.guest.vm.qmp().execute("system_reset").unwrap();
    until("the reset in the gateway's log", SOON, || {
        Ok(served.gateway.log().contains("the guest was reset").then_some(()))
    })
    .unwrap();
    served.guest.vm.wait_rebooted().unwrap();
    served.wait_link("ready");
    let ended = until("the lease's end", SOON, || {
        let path = format!("/freezes/{lease}");
        let lease = served.target.rest.get(&path)?.expect(200)?;
        Ok((!lease["verdict"].is_null()).then_some(lease))
    })
    .unwrap();
    assert_eq!(ended["verdict"], "lost", "{ended}");
}

fn freeze(served: &Served) -> String {
    let body = json!({ "ttl_seconds": 60 });
    let path = served.target.path("/fsfreeze");
    let lease = served.target.rest.post(&path, &body).unwrap().expect(201).unwrap();
    lease["id"].as_str().expect("an id").to_owned()
}

fn thaw(served: &Served, lease: &str) -> Value {
    let path = format!("/freezes/{lease}");
    served.target.rest.delete(&path).unwrap().expect(200).unwrap()
}
