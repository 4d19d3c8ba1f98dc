//! What happens in the guest, and to it.

use std::time::Duration;

use qga_e2e::until;

use super::{Bed, LONG, SOON, TTL};
use crate::scenario::progress;

/// A root in the guest thaws one filesystem past the agent, lets its writer write, and freezes it
/// again.
pub(super) fn torn(bed: &mut Bed) {
    let served = bed.serve("torn");
    let held = served.freeze(LONG);
    bed.is_blocked();
    let control = bed.guest.vm.control();
    let before = progress(control)[0].done;
    control.output("fsfreeze --unfreeze /data/ext4").unwrap();
    control.wait_writing(qga_e2e::Disk::Ext4, SOON).unwrap();
    control.output("fsfreeze --freeze /data/ext4").unwrap();
    bed.is_blocked();
    let after = progress(bed.guest.vm.control())[0].done;
    assert!(after > before, "nothing was torn");
    served.thaw(&held);
    bed.is_writing();
    // A stock agent counts what is frozen when it thaws, and cannot tell.
    served.ends_as(&held, bed.verdict("lost", "counts_agree"));
    served.wait_ready();
    served.nothing_is_left();
}

/// The agent is killed; the next one finds what it has kept, and the freeze holds.
pub(super) fn agent_killed(bed: &mut Bed) {
    let served = bed.serve("agent");
    for expires in [false, true] {
        let held = served.freeze(if expires { TTL } else { LONG });
        let control = bed.guest.vm.control();
        let killed = control.kill_agent(true).unwrap();
        until("another agent", SOON, || {
            Ok(Some(control.agent_pid()?).filter(|pid| ![0, killed].contains(pid)))
        })
        .unwrap();
        if expires {
            bed.thaws_within(&held, Duration::from_secs(TTL));
        } else {
            bed.is_blocked();
            served.thaw(&held);
            bed.is_writing();
        }
        let ended = served.ended(&held);
        let verdict = ended["verdict"].as_str().unwrap();
        // Nobody watched while there was no agent.
        let known = bed.verdict("unknown", "counts_agree");
        assert!([known, "unknown"].contains(&verdict), "{ended}; {}", served.log());
        served.wait_ready();
    }
    served.nothing_is_left();
}

/// The guest is reset from outside: its filesystems are thawed, and no freeze held. Without QMP
/// nobody tells the gateway, which asks when the lease's time is over.
pub(super) fn reset(bed: &mut Bed) {
    let served = bed.serve("reset");
    let held = served.freeze(TTL);
    bed.is_blocked();
    bed.guest.vm.qmp().execute("system_reset").unwrap();
    bed.guest.vm.wait_rebooted().unwrap();
    bed.is_writing();
    let ended = served.ended(&held);
    let verdict = ended["verdict"].as_str().unwrap();
    // A stock agent that was still booting when the time came only shows that it was gone.
    assert!(["lost", bed.verdict("lost", "unknown")].contains(&verdict), "{ended}");
    served.wait_ready();
    served.nothing_is_left();
}

/// QEMU is killed, and the VM booted again on the same disks and sockets.
pub(super) fn qemu_killed(bed: &mut Bed) {
    let served = bed.serve("qemu");
    let held = served.freeze(LONG);
    bed.is_blocked();
    bed.guest.vm.kill();
    until("a link that is down", SOON, || {
        let state = served.vm()?["link"]["state"].as_str().map(str::to_owned);
        Ok(matches!(state.as_deref(), Some("absent" | "refused")).then_some(()))
    })
    .unwrap();
    bed.guest.vm.start_again().unwrap();
    bed.is_writing();
    served.ends_as(&held, "lost");
    served.wait_ready();
    served.nothing_is_left();
}
