//! Each attack by itself: whatever is asked ends in time with a clear error, the gateway's memory
//! stays bounded, the VM beside it answers, and an honest guest in the attacker's place is as good
//! as any.

use std::time::{Duration, Instant};

use qga_e2e::sim::{Attack, Blueprint, Mode, name};
use qga_e2e::until;
use serde_json::json;

use super::{MEMORY, resident, start};
use crate::fleet::{SOON, gateway_program};

/// All that is asked here, with the configured timeouts, on a loaded machine.
const ALL_ANSWERED: Duration = Duration::from_secs(40);

/// One test per attack.
macro_rules! attacks {
    ($($test:ident: $attack:ident;)+) => {
        $(
            #[test]
            fn $test() {
                survived(Attack::$attack);
            }
        )+

        #[test]
        fn every_attack_has_its_test() {
            assert_eq!([$(Attack::$attack),+], Attack::ALL);
        }
    };
}

attacks! {
    an_endless_line: EndlessLine;
    a_reply_of_100_mib: HugeReply;
    a_reply_that_drips_in: SlowDrip;
    a_flood_of_replies_that_nobody_asked_for: Flood;
    replayed_sync_ids: ReplayedSyncs;
    invalid_utf_8: InvalidUtf8;
    deep_nesting: DeepNesting;
    wrong_types: WrongTypes;
    connections_closed_at_once: ConnectAndClose;
}

fn survived(attack: Attack) {
    let Some(program) = gateway_program() else { return };
    let mut hostile = Vec::new();
    let (host, good) = start(&program, 1, &[attack], &mut hostile);
    host.wait_link(&name(0), "ready");
    let neighbour = || {
        let path = format!("/vms/{}/ping", name(0));
        host.rest().post(&path, &json!({})).unwrap().expect(200).unwrap();
    };
    let before = resident(&host.gateway);
    let begun = Instant::now();
    for (path, body) in [("ping", json!({})), ("fsfreeze", json!({ "ttl_seconds": 1 }))] {
        let path = format!("/vms/hostile-0/{path}");
        let reply = host.rest().post(&path, &body).unwrap();
        assert!(reply.status > 500 || reply.status == 422, "{path}: {reply:?}");
        assert!(!reply.code().is_empty(), "{path}: {reply:?}");
        neighbour();
    }
    for path in ["fsfreeze", "agent"] {
        let reply = host.rest().get(&format!("/vms/hostile-0/{path}")).unwrap();
        assert!(reply.status < 500 || !reply.code().is_empty(), "{reply:?}");
        neighbour();
    }
    host.rest().get("/vms/hostile-0").unwrap().expect(200).unwrap();
    assert!(begun.elapsed() < ALL_ANSWERED, "{:?}", begun.elapsed());
    let grown = resident(&host.gateway).saturating_sub(before);
    println!("grown by {} KiB", grown >> 10);
    assert!(grown < MEMORY, "grown by {} KiB", grown >> 10);

    let socket = hostile[0].socket().to_owned();
    hostile.clear();
    let honest = host.fleet.machine_at(&socket, &Blueprint::new(Mode::Stock)).unwrap();
    let mut last = String::new();
    until("a freeze after the attack", SOON, || {
        let reply = host.freeze("hostile-0", 60);
        last = format!("{reply:?}");
        Ok((reply.status == 201).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e}; last: {last}"));
    assert!(honest.truth().frozen.is_some());
    assert_eq!(honest.truth().blind, [""; 0]);
    host.thaw("hostile-0").expect(200).unwrap();
    assert!(good[0].truth().connections <= 1, "the VM beside it was disconnected");
    assert!(!host.gateway.log().contains("panicked"), "{}", host.gateway.log());
}
