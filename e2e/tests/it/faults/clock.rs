//! The host's clocks: the wall clock jumps while leases hold, and the host is suspended. Nobody else
//! may see that, so it happens in a VM: the gateway and its simulated guests run in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use qga_e2e::{GuestAgent, Vm, until};
use tempfile::TempDir;

use crate::fleet::{gateway_program, listener};
use crate::guests::{SOON, assets};

/// Two dozen jumps with a freeze each, where everything is emulated.
const BOUND: Duration = Duration::from_secs(400);
/// Longer than the brief leases of `qga-fleet sleep` from their freeze to their deadline.
const SLEEP: Duration = Duration::from_secs(30);

#[test]
fn a_wall_clock_that_jumps_moves_no_deadline() {
    let Some(mut host) = Host::start("jump-clock") else { return };
    host.says("no jump moved a deadline");
}

#[test]
fn a_host_that_was_suspended_thaws_what_is_overdue_and_nothing_else() {
    let Some(mut host) = Host::start("sleep") else { return };
    host.vm.qmp().wait_event("SUSPEND", SOON * 4).unwrap();
    let asleep = Instant::now();
    until("a long sleep", SLEEP * 2, || Ok((asleep.elapsed() > SLEEP).then_some(()))).unwrap();
    host.vm.qmp().execute("system_wakeup").unwrap();
    host.vm.qmp().wait_event("WAKEUP", SOON).unwrap();
    host.says("the sleep counted");
}

/// A VM in which `qga-fleet` runs a gateway and its guests.
struct Host {
    vm: Vm,
    _dir: TempDir,
}

impl Host {
    /// Begins what `qga-fleet` calls so.
    fn start(role: &str) -> Option<Self> {
        let gateway = gateway_program()?;
        let assets = assets()?;
        let dir = tempfile::tempdir().unwrap();
        let fleet = stripped(&listener(), &dir.path().join("qga-fleet"));
        let gateway = stripped(&gateway, &dir.path().join("qga-gateway"));
        let mut vm = Vm::builder(dir.path())
            .agent(GuestAgent::Stock)
            .program(&fleet)
            .program(&gateway)
            .boot(assets)
            .unwrap();
        let start = format!("/bin/qga-fleet {role} /bin/qga-gateway /run/host");
        vm.control().output(&format!("{{ {start}; echo over; }} >/run/log 2>&1 &")).unwrap();
        Some(Self { vm, _dir: dir })
    }

    /// It ends, and this is the last that it says.
    fn says(&mut self, last: &str) {
        let control = self.vm.control();
        let log = until("the end", BOUND, || {
            let log = control.output("cat /run/log")?;
            Ok(log.ends_with("over").then_some(log))
        })
        .unwrap_or_else(|e| panic!("{e}: {}", control.output("cat /run/log").unwrap()));
        println!("{log}");
        assert!(log.ends_with(&format!("{last}\nover")), "{log}");
    }
}

/// Without its symbols, which are most of it.
fn stripped(program: &Path, to: &Path) -> PathBuf {
    let done = Command::new("strip").arg("-o").arg(to).arg(program).status();
    if !done.is_ok_and(|status| status.success()) {
        std::fs::copy(program, to).unwrap();
    }
    to.to_owned()
}
