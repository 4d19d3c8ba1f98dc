//! Debian's qemu-ga over the bare socket: shows that the harness itself tells the truth.

use qga_e2e::{Disk, GuestAgent, Target};
use serde_json::json;
use std::time::Duration;

use crate::guests::{Guest, assets};

#[test]
fn stock_agent_answers() {
    let Some(assets) = assets() else { return };
    let mut guest = Guest::boot(assets, GuestAgent::Stock);
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.ping().unwrap();
    let info = agent.call("guest-info", &json!({})).unwrap();
    eprintln!("qemu-ga {}", info["version"]);
    assert!(!agent.is_frozen().unwrap());
    for disk in Disk::DATA {
        guest.vm.control().wait_writing(disk, Duration::from_secs(20)).unwrap();
    }
    assert_eq!(agent.freeze().unwrap(), 4);
    assert!(agent.is_frozen().unwrap());
    agent.thaw().unwrap();
    drop(guest.dir);
}
