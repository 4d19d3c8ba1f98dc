//! Somebody inside thaws, writes, and freezes again, while a lease holds.

use qga_e2e::sim::{Blueprint, Machine, Mode};

use crate::fleet::{Host, gateway_program};

/// The verdict of a freeze that is torn so.
fn torn(mode: Mode, tear: impl FnOnce(&Machine)) -> Option<String> {
    let program = gateway_program()?;
    let (host, machines) = Host::start(&program, "", |fleet| {
        vec![fleet.machine("one", &Blueprint::new(mode)).unwrap()]
    });
    host.wait_link("one", "ready");
    host.freeze("one", 60).expect(201).unwrap();
    let before = machines[0].truth();
    tear(&machines[0]);
    let after = machines[0].truth();
    assert!(before.frozen.is_some() && after.frozen.is_some());
    assert_ne!(before.writes(&[]), after.writes(&[]), "nothing was torn");
    let ended = host.thaw("one").expect(200).unwrap();
    // Our agent knows whose a freeze through it is, and that this one is not the lease's to end.
    let frozen = machines[0].truth().frozen.is_some();
    assert_eq!(frozen, mode == Mode::Qga && after.generation != before.generation);
    Some(ended["verdict"].as_str().unwrap().to_owned())
}

#[test]
fn a_freeze_torn_behind_a_stock_agent_is_never_held() {
    let Some(verdict) = torn(Mode::Stock, Machine::tear) else { return };
    assert_ne!(verdict, "held");
    let Some(verdict) = torn(Mode::Stock, Machine::tear_through_agent) else { return };
    assert_ne!(verdict, "held");
}

#[test]
fn a_freeze_torn_through_our_agent_is_never_held() {
    let Some(verdict) = torn(Mode::Qga, Machine::tear_through_agent) else { return };
    assert_ne!(verdict, "held");
    assert_ne!(verdict, "counts_agree");
}

#[test]
fn a_freeze_torn_behind_our_agent_is_never_held() {
    let Some(verdict) = torn(Mode::Qga, Machine::tear) else { return };
    assert_ne!(verdict, "held");
    assert_ne!(verdict, "counts_agree");
}
