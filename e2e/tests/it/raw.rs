//! The bare socket, without a gateway: shows what the agents do, and with Debian's that the
//! harness itself tells the truth.

use qga_e2e::Target;
use serde_json::json;

use crate::guests::{Guest, Kind, SOON, both_agents};
use crate::scenario::{agent_dies_while_frozen, freeze_holds_every_disk};
use crate::transcript;

both_agents!(freeze);
both_agents!(survives);

fn freeze(kind: Kind) {
    let Some(mut guest) = Guest::boot(kind) else { return };
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.ping().unwrap();
    let info = agent.call("guest-info", &json!({})).unwrap();
    eprintln!("{kind:?}: version {}", info["version"]);
    transcript::play(kind, &mut agent);
    freeze_holds_every_disk(&mut guest, &mut agent);
    agent_dies_while_frozen(&mut guest, &mut agent);
}

/// Reboot, power cut and power-off, each on the same disks.
fn survives(kind: Kind) {
    let Some(mut guest) = Guest::boot(kind) else { return };
    let boot_id = guest.vm.boot_id().to_owned();
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.sync().unwrap();
    agent.send(b"{\"execute\":\"guest-shutdown\",\"arguments\":{\"mode\":\"reboot\"}}\n").unwrap();
    let reset = guest.vm.qmp().wait_event("RESET", SOON).unwrap();
    assert_eq!(reset["data"]["guest"], json!(true));
    guest.vm.wait_rebooted().unwrap();
    assert_ne!(guest.vm.boot_id(), boot_id);
    agent.ping().unwrap();

    guest.vm.kill();
    guest.vm.start_again().unwrap();
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.ping().unwrap();

    agent.send(b"{\"execute\":\"guest-shutdown\"}\n").unwrap();
    let shutdown = guest.vm.qmp().wait_event("SHUTDOWN", SOON);
    let shutdown = shutdown.unwrap_or_else(|e| panic!("{e}; {}", guest.vm.console().tail()));
    assert_eq!(shutdown["data"]["guest"], json!(true));
    assert!(guest.vm.wait_exit(SOON).unwrap().success());
}
