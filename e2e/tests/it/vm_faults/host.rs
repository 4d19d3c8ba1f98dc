//! What happens on the host: the gateway is killed; another VM takes the VM's place.

use std::fs;
use std::time::Duration;

use qga_e2e::{Target as _, until};

use super::{BRIEF, Bed, Guest, SOON, TTL};
use crate::guests::Kind;
use crate::scenario::wait_blocked;

pub(super) fn gateway_killed(bed: &mut Bed) {
    let mut served = bed.serve("killed");
    // Started again at once: the lease goes on, and ends when it should.
    let held = served.freeze(TTL);
    served.gateway.kill();
    bed.is_blocked();
    served.gateway.start_again().unwrap();
    let lease = served.rest.get(&format!("/freezes/{}", held.id)).unwrap().expect(200).unwrap();
    assert!(["frozen", "thawing", "thawed"].iter().any(|s| lease["state"] == *s), "{lease}");
    bed.thaws_within(&held, Duration::from_secs(TTL));
    let ended = served.ends_as(&held, bed.verdict("held", "unknown"));
    assert_eq!(ended["thaw_cause"], "expired", "{ended}");
    served.wait_ready();

    // Not before the guest's own deadline, which a stock agent has not.
    let held = served.freeze(TTL);
    served.gateway.kill();
    bed.is_blocked();
    if matches!(bed.kind, Kind::Ours) {
        bed.thaws_within(&held, Duration::from_secs(TTL + 3));
    }
    served.gateway.start_again().unwrap();
    bed.is_writing();
    let ended = served.ended(&held);
    assert!(["lost", "unknown"].iter().any(|v| ended["verdict"] == *v), "{ended}");
    served.wait_ready();
    served.nothing_is_left();
}

/// The VM dies, and another one that its own people have frozen is at its socket.
pub(super) fn replaced(mut bed: Bed) {
    let Some(mut stranger) = Guest::boot(bed.kind) else { return };
    let mut agent = stranger.vm.raw_agent().unwrap();
    agent.ping().unwrap();
    agent.freeze().unwrap();
    drop(agent);
    let frozen = wait_blocked(stranger.vm.control());

    let served = bed.serve("replaced");
    let held = served.freeze(BRIEF);
    let socket = bed.guest.vm.qga_socket();
    bed.guest.vm.kill();
    fs::rename(stranger.vm.qga_socket(), &socket).unwrap();
    served.ends_as(&held, "lost");
    // A link to it is up, and the deadline of what it was not frozen for has passed.
    served.wait_state("frozen");
    let past = || Ok((held.since.elapsed() > Duration::from_secs(BRIEF)).then_some(()));
    until("the deadline", SOON, past).unwrap();
    assert_eq!(wait_blocked(stranger.vm.control()), frozen, "somebody else's freeze was thawed");
}
