//! Freezes that are made, shown, renewed and ended.

use qga_e2e::sim::{Blueprint, Mode};
use serde_json::Value;

use super::Cli;
use crate::fleet::{Host, gateway_program};

#[test]
fn a_freeze_is_made_renewed_shown_and_ended() {
    let Some(program) = gateway_program() else { return };
    let (host, machines) = Host::start(&program, "", |fleet| {
        ["a", "b"].map(|name| fleet.machine(name, &Blueprint::new(Mode::Qga)).unwrap()).into()
    });
    host.wait_link("a", "ready");
    host.wait_link("b", "ready");
    let cli = Cli::new(&program, host.gateway.socket());

    let dry = cli.run(["freeze", "a", "--dry-run"]).ok();
    assert!(dry.contains("/srv") && dry.contains("would freeze (required)"), "{dry}");
    assert!(machines[0].truth().frozen.is_none(), "a dry run freezes nothing");
    let made = cli.run(["freeze", "a", "--ttl", "5m", "--label", "nightly"]).ok();
    let lease = made.split_whitespace().find(|word| word.starts_with("frz_")).unwrap();
    for part in ["a\n", "2 filesystems", "thaws", "itself should the gateway be gone"] {
        assert!(made.contains(part), "{part:?}: {made}");
    }
    assert!(machines[0].truth().frozen.is_some());
    let again = cli.run(["freeze", "a"]);
    again.fails(1, &["[already_frozen]", "qga-gateway thaw"]);

    let list = cli.run(["freezes"]).ok();
    assert!(list.contains(lease) && list.contains("nightly"), "{list}");
    let renewed = cli.run(["renew", lease, "--ttl", "10m", "--json"]).json();
    assert_eq!(renewed["ttl_seconds"], 600);
    let thawed = cli.run(["thaw", "a"]).ok();
    for part in ["verdict     held", "requested", "evidence", lease] {
        assert!(thawed.contains(part), "{part:?}: {thawed}");
    }
    assert!(machines[0].truth().frozen.is_none());
    assert!(!cli.run(["leases"]).ok().contains(lease), "it has ended");
    assert!(cli.run(["freezes", "--all"]).ok().contains(lease));

    // Two together, and what goes wrong with one of several.
    let group = cli.run(["freeze", "b", "a", "--sequential", "--json"]).json();
    let order: Vec<_> = group["members"].as_array().unwrap().iter().map(|m| &m["vm_id"]).collect();
    assert_eq!(order, ["b", "a"]);
    let both = cli.run(["thaw", "nobody", group["id"].as_str().unwrap(), "--json"]);
    both.fails(1, &["nobody: ", "[vm_not_found]"]);
    let thawed: Value = serde_json::from_str(&both.out).unwrap();
    assert_eq!(thawed["verdict"], "held", "{thawed}");
    assert!(machines.iter().all(|machine| machine.truth().frozen.is_none()));

    cli.run(["freeze"]).fails(2, &["<VM>"]);
    cli.run(["freeze", "a", "--ttl", "soon"]).fails(2, &["90s"]);
    cli.run(["freeze", "--selector", "tier"]).fails(2, &["KEY=VALUE"]);
    cli.run(["freeze", "a", "--mountpoint", "/none"]).fails(1, &["[no_such_mountpoint]"]);
}

#[test]
fn a_thaw_of_what_did_not_hold_says_so_and_exits_with_3() {
    let Some(program) = gateway_program() else { return };
    let (host, machines) = Host::start(&program, "", crate::fleet::one(Mode::Qga));
    host.wait_link("one", "ready");
    let cli = Cli::new(&program, host.gateway.socket());
    cli.run(["freeze", "one"]).ok();
    machines[0].tear();
    let thawed = cli.run(["thaw", "one"]);
    assert_eq!(thawed.code, Some(3), "{thawed:?}");
    assert!(thawed.out.contains("lost") || thawed.out.contains("unknown"), "{thawed:?}");
}
