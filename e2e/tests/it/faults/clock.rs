//! The host's wall clock jumps while a lease holds. Nobody else may see that, so it happens in a
//! VM: the gateway and its simulated guests run in it, and its clock is set for good.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qga_e2e::{GuestAgent, Vm, until};

use crate::fleet::{gateway_program, listener};
use crate::guests::assets;

/// Eight jumps with a freeze that expires each, where everything is emulated.
const BOUND: Duration = Duration::from_secs(300);

#[test]
fn a_wall_clock_that_jumps_moves_no_deadline() {
    let Some(gateway) = gateway_program() else { return };
    let Some(assets) = assets() else { return };
    let dir = tempfile::tempdir().unwrap();
    let fleet = stripped(&listener(), &dir.path().join("qga-fleet"));
    let gateway = stripped(&gateway, &dir.path().join("qga-gateway"));
    let mut vm = Vm::builder(dir.path())
        .agent(GuestAgent::Stock)
        .program(&fleet)
        .program(&gateway)
        .boot(assets)
        .unwrap();
    let start = "qga-fleet jump-clock /bin/qga-gateway /run/clock";
    vm.control().output(&format!("{{ /bin/{start}; echo over; }} >/run/log 2>&1 &")).unwrap();
    let log = until("the jumps", BOUND, || {
        let log = vm.control().output("cat /run/log")?;
        Ok(log.ends_with("over").then_some(log))
    })
    .unwrap_or_else(|e| panic!("{e}: {}", vm.control().output("cat /run/log").unwrap()));
    println!("{log}");
    assert!(log.ends_with("no jump moved a deadline\nover"), "{log}");
}

/// Without its symbols, which are most of it.
fn stripped(program: &Path, to: &Path) -> std::path::PathBuf {
    let done = Command::new("strip").arg("-o").arg(to).arg(program).status();
    if !done.is_ok_and(|status| status.success()) {
        std::fs::copy(program, to).unwrap();
    }
    to.to_owned()
}
