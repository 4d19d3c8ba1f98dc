//! Simulated machines behind the real gateway: that the simulator is what it says, and what
//! becomes of many.

mod bench;
mod modes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use qga_e2e::sim::{Blueprint, Fleet, Machine, Mode};
use qga_e2e::{Gateway, Reply, Rest, until};
use qga_testing::missing;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Until something that takes no time on an idle machine must have happened.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The program that listens in a QEMU's place.
pub(crate) fn listener() -> PathBuf {
    env!("CARGO_BIN_EXE_qga-fleet").into()
}

/// The gateway that `QGA_E2E_GATEWAY` names, or was built beside this test's programs.
pub(crate) fn gateway_program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("QGA_E2E_GATEWAY") {
        return Some(named.into());
    }
    let built = Path::new(env!("CARGO_BIN_EXE_qga-fleet")).with_file_name("qga-gateway");
    if !built.is_file() {
        missing(&format!("no {}; run cargo build -p qga-gateway", built.display()));
        return None;
    }
    Some(built)
}

/// A gateway, and machines that it knows by the names of their sockets.
pub(crate) struct Host {
    // Dropped in this order.
    pub(crate) gateway: Gateway,
    pub(crate) fleet: Fleet,
    pub(crate) _dir: TempDir,
}

impl Host {
    /// `config` goes on in the table `[listen]`.
    pub(crate) fn start(
        program: &Path,
        config: &str,
        machines: impl FnOnce(&Fleet) -> Vec<Machine>,
    ) -> (Self, Vec<Machine>) {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::new(dir.path()).unwrap();
        let machines = machines(&fleet);
        let vms: Vec<_> =
            machines.iter().map(|machine| (id(machine), machine.socket().to_owned())).collect();
        let gateway = Gateway::start_with(program, dir.path(), config, &vms).unwrap();
        (Self { gateway, fleet, _dir: dir }, machines)
    }

    pub(crate) fn rest(&self) -> Rest {
        self.gateway.rest()
    }

    /// Waits until the gateway says that a machine's link is in `state`.
    pub(crate) fn wait_link(&self, vm: &str, state: &str) {
        let mut last = Value::Null;
        until(format_args!("link state {state} of {vm}"), SOON, || {
            last = self.rest().get(&format!("/vms/{vm}"))?.expect(200)?;
            Ok((last["link"]["state"] == state).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e}; last was {last}; the log:\n{}", self.gateway.log()));
    }

    pub(crate) fn freeze(&self, vm: &str, ttl: u64) -> Reply {
        let body = json!({ "ttl_seconds": ttl });
        self.rest().post(&format!("/vms/{vm}/fsfreeze"), &body).unwrap()
    }

    pub(crate) fn thaw(&self, vm: &str) -> Reply {
        self.rest().delete(&format!("/vms/{vm}/fsfreeze")).unwrap()
    }
}

/// The gateway's name for a machine.
pub(crate) fn id(machine: &Machine) -> String {
    machine.socket().file_stem().unwrap().to_string_lossy().into_owned()
}

/// One machine of this kind.
pub(crate) fn one(mode: Mode) -> impl FnOnce(&Fleet) -> Vec<Machine> {
    move |fleet| vec![fleet.machine("one", &Blueprint::new(mode)).unwrap()]
}
