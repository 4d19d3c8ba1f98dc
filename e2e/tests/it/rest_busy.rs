//! Two clients on one QEMU socket. QEMU accepts the second and keeps its bytes for later, so
//! whatever a gateway wrote there blindly would run when the first has gone.

use qga_e2e::{RawAgent, RestTarget, Target, Vm, until};
use serde_json::json;

use crate::guests::{Guest, Kind, SOON, Served, both_agents, gateway_program, start_gateway};

both_agents!(busy);

fn busy(kind: Kind) {
    let Some(program) = gateway_program() else { return };
    let Some(mut guest) = Guest::boot(kind) else { return };
    let mut holder = guest.vm.raw_agent().unwrap();
    holder.ping().unwrap();
    let mark = Mark::set(&mut guest.vm, &mut holder);

    let gateway = start_gateway(&program, &guest);
    let target = RestTarget { rest: gateway.rest(), vm: "vm".to_owned() };
    let mut served = Served { gateway, guest, target };
    served.wait_link("busy");
    refused(&served.target);
    holder.sync().unwrap();

    // The holder leaves: the gateway's turn comes by itself, and it kept nothing for then.
    drop(holder);
    served.wait_link("ready");
    let open = json!({ "path": "/run/first", "mode": "w" });
    let files = served.target.path("/file-handles");
    served.target.rest.post(&files, &open).unwrap().expect(201).unwrap();
    mark.nothing_ran_until(&mut served.guest.vm, "/run/first");
    served.target.ping().unwrap();
    assert_eq!(served.target.link_state().unwrap(), "ready");
    untouched(&mut served.guest.vm);

    // Another holder, and this time the gateway leaves first.
    served.gateway.kill();
    let mut holder = served.guest.vm.raw_agent().unwrap();
    holder.ping().unwrap();
    let mark = Mark::set(&mut served.guest.vm, &mut holder);
    served.gateway.start_again().unwrap();
    served.wait_link("busy");
    refused(&served.target);
    served.gateway.kill();
    drop(holder);
    // Answers come in the order of connections: after this one all earlier bytes are done with.
    let mut last: RawAgent = served.guest.vm.raw_agent().unwrap();
    last.sync().unwrap();
    last.call("guest-file-open", &json!({ "path": "/run/last", "mode": "w" })).unwrap();
    mark.nothing_ran_until(&mut served.guest.vm, "/run/last");
    last.ping().unwrap();
    assert!(!last.is_frozen().unwrap());
    untouched(&mut served.guest.vm);
}

/// A moment in the life of an agent, from which on it is watched.
struct Mark {
    log_bytes: usize,
    empty_answers: usize,
}

impl Mark {
    /// Behind all commands of `holder`.
    fn set(vm: &mut Vm, holder: &mut RawAgent) -> Self {
        // QEMU logs an answer a moment after it has passed it on.
        holder.sync().unwrap();
        let log_bytes = vm.control().output("wc -c </run/agent.log").unwrap().parse().unwrap();
        Self { log_bytes, empty_answers: vm.empty_answers().unwrap() }
    }

    /// Since then no command has run but syncs, what a gateway asks by itself, and last an open
    /// of `path`.
    ///
    /// Agents with `-v` log commands that change something, and Debian's all bytes that it reads.
    /// Ours does not log a ping, but QEMU its answer.
    fn nothing_ran_until(&self, vm: &mut Vm, path: &str) {
        let tail = format!("tail -c +{} /run/agent.log", self.log_bytes + 1);
        let log = until(format_args!("{path} in the agent's log"), SOON, || {
            Ok(Some(vm.control().output(&tail)?).filter(|log| log.contains(path)))
        })
        .unwrap();
        let harmless =
            ["guest-sync", "guest-sync-delimited", "guest-info", "guest-fsfreeze-status"];
        let ran: Vec<&str> = log
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .filter(|word| word.starts_with("guest-") && !harmless.contains(word))
            .collect();
        assert_eq!(ran, ["guest-file-open"], "{log}");
        assert_eq!(vm.empty_answers().unwrap(), self.empty_answers, "pings have run");
        let console = vm.console().text();
        assert!(!console.contains("e2e: poweroff"), "{console}");
    }
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
