//! One gateway and its machines, for one case.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use qga_e2e::sim::{Blueprint, Fleet, Kind, Machine, Mode};
use qga_e2e::{Gateway, Rest, until};
use serde_json::Value;
use tempfile::TempDir;

use super::disk::SmallDisk;
use crate::fleet::{SOON, id, listener};

/// How long a freeze may take, hold, and hold beyond that by the guest's own deadline.
pub(super) const FREEZE_TIMEOUT: u64 = 2;
pub(super) const TTL: u64 = 2;
pub(super) const GUEST_MARGIN: u64 = 2;

/// Short, so that each case sees what they are for.
const CONFIG: &str = "[limits]\nsync_seconds = 1\nbackoff_max_seconds = 1\norphan_seconds = 4\n\
    connect_wait_seconds = 1\n[timeouts]\nsession_seconds = 1\nfreeze_seconds = 2\n\
    thaw_seconds = 3\nother_seconds = 2\n";

/// A case's gateway and machines. Whoever would take longer than the case lives in here.
pub(super) struct Bed {
    gateway: Mutex<Gateway>,
    pub(super) machines: Vec<Machine>,
    /// Those that came in another's place.
    pub(super) strangers: Mutex<Vec<Machine>>,
    fleet: Fleet,
    blueprint: Blueprint,
    disk: SmallDisk,
    dir: TempDir,
    /// Changes of the past that the checker should know.
    pub(super) down: Mutex<Duration>,
}

impl Bed {
    /// `broken` machines, the last ones, cannot freeze.
    pub(super) fn start(
        program: &Path,
        agent: Mode,
        machines: usize,
        broken: usize,
        small_disk: bool,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::new(dir.path()).unwrap();
        let blueprint = Blueprint { listener: Some(listener()), ..Blueprint::new(agent) };
        let machines: Vec<Machine> = (0..machines)
            .map(|number| {
                let mut blueprint = Blueprint { seed: number as u64, ..blueprint.clone() };
                if number + broken >= machines {
                    blueprint.filesystems[0].1 = Kind::Fails;
                }
                fleet.machine(&format!("vm-{number}"), &blueprint).unwrap()
            })
            .collect();
        let vms: Vec<_> =
            machines.iter().map(|machine| (id(machine), machine.socket().to_owned())).collect();
        let disk = SmallDisk::at(dir.path().join("state"));
        let wrapper = if small_disk { disk.wrapper() } else { Vec::new() };
        let gateway =
            Gateway::start_wrapped(program, dir.path(), CONFIG, &vms, wrapper).expect("a gateway");
        let bed = Self {
            gateway: Mutex::new(gateway),
            machines,
            strangers: Mutex::default(),
            fleet,
            blueprint,
            disk,
            dir,
            down: Mutex::default(),
        };
        bed.wait_ready();
        bed
    }

    pub(super) fn rest(&self) -> Rest {
        self.gateway().rest()
    }

    pub(super) fn log(&self) -> String {
        self.gateway().log()
    }

    /// Until all links are up and all capabilities are known.
    pub(super) fn wait_ready(&self) {
        for machine in &self.machines {
            let path = format!("/vms/{}", id(machine));
            let mut last = Value::Null;
            until(format_args!("{path} to be ready"), SOON, || {
                last = self.rest().get(&path)?.expect(200)?;
                let ready = last["link"]["state"] == "ready" && !last["agent"].is_null();
                Ok(ready.then_some(()))
            })
            .unwrap_or_else(|e| panic!("{e}: {last}"));
        }
    }

    /// Kills the gateway as `kill -9` does, and waits for it.
    pub(super) fn kill_gateway(&self) {
        self.gateway().kill();
    }

    pub(super) fn start_gateway(&self) {
        let begun = Instant::now();
        self.gateway().start_again().expect("the gateway starts again");
        *self.down.lock().unwrap() += begun.elapsed();
    }

    /// As after a host was suspended: its clock since boot is an hour ahead. The kernel shifts the
    /// start times of processes by as much for whoever lives in such a time namespace, which no
    /// suspended host would see, so those of the QEMUs stay what they were.
    pub(super) fn start_gateway_an_hour_later(&self) {
        let mut script = String::new();
        for machine in &self.machines {
            let Some(pid) = machine.qemu_pid() else { continue };
            let kept = self.dir.path().join(format!("stat-{pid}"));
            fs::write(&kept, fs::read(format!("/proc/{pid}/stat")).unwrap()).unwrap();
            script += &format!("mount --bind {} /proc/{pid}/stat && ", kept.display());
        }
        script += "exec \"$@\"";
        let words = ["unshare", "--mount", "--time", "--boottime", "3600", "sh", "-c"];
        let mut wrapper: Vec<OsString> = words.map(OsString::from).to_vec();
        wrapper.extend([script.into(), "sh".into()]);
        self.gateway().start_again_in(wrapper).expect("the gateway starts again");
    }

    /// Takes what is left of the disk for the gateway's state.
    pub(super) fn fill_disk(&self) {
        self.disk.fill(self.gateway().pid());
    }

    pub(super) fn free_disk(&self) {
        self.disk.free(self.gateway().pid());
    }

    /// Another VM, frozen by its own people, takes the place of that one.
    pub(super) fn replace(&self, number: usize) {
        let machine = &self.machines[number];
        machine.kill_qemu(true);
        let stranger = Blueprint { frozen: true, seed: 99, ..self.blueprint.clone() };
        let stranger = self.fleet.machine_at(machine.socket(), &stranger).unwrap();
        self.strangers.lock().unwrap().push(stranger);
    }

    fn gateway(&self) -> MutexGuard<'_, Gateway> {
        self.gateway.lock().unwrap()
    }
}
