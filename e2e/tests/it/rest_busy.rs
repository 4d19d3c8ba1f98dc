//! Two clients on one QEMU socket. QEMU accepts the second and keeps its bytes for later, so
//! whatever a gateway wrote there blindly would run when the first has gone.

use qga_e2e::{RawAgent, RestTarget, Target, Vm};
use serde_json::json;

use crate::guests::{Guest, Kind, Served, both_agents, gateway_program, start_gateway};

both_agents!(busy);

fn busy(kind: Kind) {
    let Some(program) = gateway_program() else { return };
    let Some(guest) = Guest::boot(kind) else { return };
    let mut holder = guest.vm.raw_agent().unwrap();
    holder.ping().unwrap();

    let gateway = start_gateway(&program, &guest);
    let target = RestTarget { rest: gateway.rest(), vm: "vm".to_owned() };
    let mut served = Served { gateway, guest, target };
    served.wait_link("busy");
    refused(&served.target);
    holder.ping().unwrap();

    // The holder leaves: the gateway's turn comes by itself, and it kept nothing for then.
    drop(holder);
    served.wait_link("ready");
    served.target.ping().unwrap();
    assert_eq!(served.target.link_state().unwrap(), "ready");
    untouched(&mut served.guest.vm);

    // Another holder, and this time the gateway leaves first.
    served.gateway.kill();
    let mut holder = served.guest.vm.raw_agent().unwrap();
    holder.ping().unwrap();
    served.gateway.start_again().unwrap();
    served.wait_link("busy");
    refused(&served.target);
    served.gateway.kill();
    drop(holder);
    // Answers come in the order of connections: after this one all earlier bytes are done with.
    let mut last: RawAgent = served.guest.vm.raw_agent().unwrap();
    last.ping().unwrap();
    assert!(!last.is_frozen().unwrap());
    untouched(&mut served.guest.vm);
}

/// Nothing that would reach the guest is accepted.
fn refused(target: &RestTarget) {
    let requests = [
        ("/file-handles", json!({ "path": "/run/blind", "mode": "w" })),
        ("/fsfreeze", json!({ "ttl_seconds": 60 })),
        ("/ping", json!({})),
        ("/shutdown", json!({ "mode": "powerdown" })),
    ];
    for (path, body) in requests {
        let reply = target.rest.post(&target.path(path), &body).unwrap();
        assert_eq!(
            (reply.status, reply.code()),
            (503, "agent_unavailable"),
            "{path} {}",
            reply.json
        );
        assert!(reply.header("retry-after").is_some(), "{path}");
        assert!(reply.json.to_string().contains("busy"), "{}", reply.json);
    }
}

/// No request of [`refused`] has reached the guest.
fn untouched(vm: &mut Vm) {
    assert_eq!(vm.control().run("test -e /run/blind").unwrap().status, 1);
    crate::scenario::wait_all_writing(vm.control());
}
