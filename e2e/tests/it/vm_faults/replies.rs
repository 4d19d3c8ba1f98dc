//! Replies that get lost on the way or come late, and an agent that stands still for a while.

use std::thread;
use std::time::Duration;

use qga_e2e::{Gateway, until};

use super::{Bed, CONFIG, LONG, SOON, Served, TTL};
use crate::guests::Kind;
use crate::tap::{Fate, Tap};

/// Later than a freeze or a thaw may take here.
const LATE: Duration = Duration::from_secs(6);

pub(super) fn lost_and_late(bed: &mut Bed) {
    let dir = bed.dir("tapped");
    let tap = Tap::listen(dir.join("tap.sock"), bed.guest.vm.qga_socket());
    let vms = [("vm".to_owned(), tap.socket.clone())];
    let gateway = Gateway::start_with(&bed.program, &dir, CONFIG, &vms).unwrap();
    let served = Served::ready(gateway);
    let freeze = match bed.kind {
        Kind::Ours => "x-guest-fsfreeze-freeze",
        Kind::Stock => "guest-fsfreeze-freeze",
    };
    for fate in [Fate::Lost, Fate::Late(LATE)] {
        tap.next_reply(freeze, fate);
        unanswered(bed, &served);
    }
    stopped_agent(bed, &served, &tap, freeze);

    let thaw = match bed.kind {
        Kind::Ours => "x-guest-fsfreeze-thaw",
        Kind::Stock => "guest-fsfreeze-thaw",
    };
    for fate in [Fate::Lost, Fate::Late(LATE)] {
        let held = served.freeze(LONG);
        bed.is_blocked();
        tap.next_reply(thaw, fate);
        // However it is answered, the guest must thaw.
        let _reply = served.rest.delete(&format!("/freezes/{}", held.id)).unwrap();
        bed.is_writing();
        served.ends_as(&held, bed.verdict("held", "unknown"));
        served.wait_ready();
    }
    served.nothing_is_left();
}

/// A freeze without an answer is undone, and promises nothing.
fn unanswered(bed: &mut Bed, served: &Served) {
    let reply = served.ask_freeze(TTL);
    assert_eq!((reply.status, reply.code()), (504, "agent_timeout"), "{}", reply.json);
    bed.is_writing();
    served.nothing_is_left();
    let leases = served.rest.get("/freezes").unwrap().expect(200).unwrap();
    for lease in leases["freezes"].as_array().unwrap() {
        assert_ne!(lease["verdict"], "held", "{lease}");
        assert_ne!(lease["verdict"], "counts_agree", "{lease}");
    }
    served.wait_ready();
}

/// Nobody in the guest reads the freeze until long after it was given up; then it runs, and must
/// not last.
fn stopped_agent(bed: &mut Bed, served: &Served, tap: &Tap, freeze: &str) {
    let control = bed.guest.vm.control();
    let agent = control.agent_pid().unwrap();
    control.output(&format!("kill -STOP {agent}")).unwrap();
    let before = tap.times(freeze);
    let asking = {
        let rest = served.rest.clone();
        let body = serde_json::json!({ "ttl_seconds": TTL, "freeze_timeout_seconds": 4 });
        thread::spawn(move || rest.post("/vms/vm/fsfreeze", &body).unwrap())
    };
    let reply = asking.join().unwrap();
    assert!([503, 504].contains(&reply.status), "{}", reply.json);
    let sent = tap.times(freeze) > before;
    bed.guest.vm.control().output(&format!("kill -CONT {agent}")).unwrap();
    served.wait_ready();
    if sent {
        until("the thaw behind it", SOON, || Ok((tap.times("fsfreeze-thaw") > 0).then_some(())))
            .unwrap();
    }
    bed.is_writing();
    served.nothing_is_left();
}
