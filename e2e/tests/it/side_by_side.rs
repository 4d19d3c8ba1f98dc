//! The example configuration as it stands: libvirt on one port and the gateway on another, with one
//! agent and one freeze.

use qga_e2e::{Gateway, RawAgent, RestTarget, Target, until};
use serde_json::json;

use crate::families::text;
use crate::guests::{Guest, Kind, SOON, gateway_program};
use crate::scenario::{ALL_FILESYSTEMS, wait_all_writing, wait_blocked};

const CONFIG: &str = include_str!("../../../deploy/qga-agent.conf");

/// As libvirt syncs: with a newline, without 0xFF, and without the delimited form.
fn libvirt_syncs(agent: &mut RawAgent) {
    agent.send(b"{\"execute\":\"guest-sync\", \"arguments\":{\"id\":1795353211780}}\n").unwrap();
    assert_eq!(agent.answer().unwrap(), b"{\"return\": 1795353211780}\n");
}

#[test]
fn libvirt_and_the_gateway() {
    let Some(program) = gateway_program() else { return };
    let Some(mut guest) = Guest::boot(Kind::Ours) else { return };
    let control = guest.vm.control();
    control.kill_agent(false).unwrap();
    until("the agent's end", SOON, || Ok((control.agent_pid()? == 0).then_some(()))).unwrap();
    // The port of the gateway comes later, as one that is plugged in.
    let start = "mkdir -p /etc/qemu /run/qga-agent
mv /dev/virtio-ports/org.qga.gateway.0 /dev/virtio-ports/later
setsid /usr/sbin/qga-agent -c /etc/qemu/qemu-ga.conf >/dev/null 2>&1 </dev/null &";
    control
        .output(&format!("mkdir -p /etc/qemu; cat >/etc/qemu/qemu-ga.conf <<'END'\n{CONFIG}END"))
        .unwrap();
    control.output(start).unwrap();

    let mut libvirt = guest.vm.raw_agent().unwrap();
    libvirt_syncs(&mut libvirt);
    let plug = "mv /dev/virtio-ports/later /dev/virtio-ports/org.qga.gateway.0";
    guest.vm.control().output(plug).unwrap();
    let socket = guest.vm.gateway_port_socket();
    let gateway = Gateway::start(&program, guest.dir(), &[("vm", socket)]).unwrap();
    let mut target = RestTarget { rest: gateway.rest(), vm: "vm".to_owned() };
    until("the gateway's own port", SOON, || Ok((target.link_state()? == "ready").then_some(())))
        .unwrap();

    // Each has its own lists.
    let exec = json!({ "path": "/run/bin/true" });
    let refused = libvirt.call("guest-exec", &exec).unwrap_err();
    assert!(text(&refused).starts_with("Command guest-exec has been disabled"), "{refused}");
    let open = target.path("/file-handles");
    let open = target.rest.post(&open, &json!({ "path": "/run/f", "mode": "w" })).unwrap();
    assert_eq!(open.status, 201, "{}", open.json);

    // One freeze: libvirt sees the gateway's, the gateway libvirt's.
    assert_eq!(target.freeze().unwrap(), ALL_FILESYSTEMS);
    wait_blocked(guest.vm.control());
    assert!(libvirt.is_frozen().unwrap());
    target.thaw().unwrap();
    assert!(!libvirt.is_frozen().unwrap());
    wait_all_writing(guest.vm.control());
    assert_eq!(libvirt.freeze().unwrap(), ALL_FILESYSTEMS);
    assert!(target.is_frozen().unwrap());
    let theirs = target.rest.post(&target.path("/fsfreeze"), &json!({})).unwrap();
    assert_eq!(theirs.status, 409, "{}", theirs.json);
    libvirt.thaw().unwrap();
    assert!(!target.is_frozen().unwrap());
    wait_all_writing(guest.vm.control());
    // And neither has cost the other its place on the wire.
    libvirt_syncs(&mut libvirt);
}
