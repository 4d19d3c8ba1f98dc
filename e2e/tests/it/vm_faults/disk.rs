//! No room for the file that the leases are kept in.

use std::time::Duration;

use qga_e2e::Gateway;

use super::{BRIEF, Bed, CONFIG, LONG, Served};
use crate::faults::SmallDisk;

pub(super) fn full(bed: &mut Bed) {
    if !crate::faults::may_unshare() {
        return qga_testing::unavailable("no mount namespace for a full disk: not root");
    }
    let dir = bed.dir("full");
    let disk = SmallDisk::at(dir.join("state"));
    let vms = [("vm".to_owned(), bed.guest.vm.qga_socket())];
    let gateway = Gateway::start_wrapped(&bed.program, &dir, CONFIG, &vms, disk.wrapper()).unwrap();
    let served = Served::ready(gateway);

    // Full before the freeze: it does not leave.
    disk.fill(served.gateway.pid());
    let refused = served.ask_freeze(BRIEF);
    assert_eq!((refused.status, refused.code()), (503, "state_unwritable"), "{}", refused.json);
    bed.is_writing();
    disk.free(served.gateway.pid());

    // Full while it holds: a thaw waits for no disk.
    for expires in [false, true] {
        let held = served.freeze(if expires { BRIEF } else { LONG });
        disk.fill(served.gateway.pid());
        if expires {
            bed.thaws_within(&held, Duration::from_secs(BRIEF));
        } else {
            bed.is_blocked();
            served.thaw(&held);
            bed.is_writing();
        }
        served.ends_as(&held, bed.verdict("held", "counts_agree"));
        disk.free(served.gateway.pid());
        served.wait_ready();
    }
    served.nothing_is_left();
}
