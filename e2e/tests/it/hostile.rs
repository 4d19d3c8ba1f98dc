//! Guests that are out to do harm, behind the real gateway: its memory stays bounded, what is asked
//! of them ends in a clear error, and nobody else notices.

mod attacks;
mod drip;
mod schema;
mod thousand;
mod wrong_types;

use std::fs;
use std::path::Path;

use qga_e2e::Gateway;
use qga_e2e::sim::{Attack, Blueprint, Hostile, Machine, Mode};

use crate::fleet::{Host, id};

/// Short, so that a test sees what they are for.
const CONFIG: &str = "[limits]\nsync_seconds = 1\nbackoff_max_seconds = 1\n\
    [timeouts]\nsession_seconds = 2\nother_seconds = 2\nfreeze_seconds = 2\n";
/// What a hostile guest may cost the gateway.
const MEMORY: u64 = 24 << 20;

fn start(
    program: &Path,
    good: usize,
    attacks: &[Attack],
    hostile: &mut Vec<Hostile>,
) -> (Host, Vec<Machine>) {
    use std::fmt::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let fleet = qga_e2e::sim::Fleet::new(dir.path()).unwrap();
    let machines = fleet.machines(0, good, &Blueprint::new(Mode::Stock)).unwrap();
    let mut vms: Vec<_> =
        machines.iter().map(|machine| (id(machine), machine.socket().to_owned())).collect();
    let mut ids = String::new();
    for (number, attack) in attacks.iter().enumerate() {
        let id = format!("hostile-{number}");
        write!(ids, "{id} ").unwrap();
        let guest = fleet.hostile(&id, *attack).unwrap();
        vms.push((id, guest.socket().to_owned()));
        hostile.push(guest);
    }
    let gateway = Gateway::start_with(program, dir.path(), CONFIG, &vms).unwrap();
    (Host { gateway, fleet, _dir: dir }, machines)
}

/// Resident memory in bytes.
pub(crate) fn resident(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
