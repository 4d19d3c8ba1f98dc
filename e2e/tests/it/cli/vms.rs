//! Lists, and ways that lead nowhere.

use qga_e2e::Gateway;
use qga_e2e::sim::{Blueprint, Mode};

use super::Cli;
use crate::fleet::{Host, gateway_program};

#[test]
fn vms_are_listed_as_a_table_and_as_json() {
    let Some(program) = gateway_program() else { return };
    let (host, _machines) = Host::start(&program, "", |fleet| {
        ["one", "two"].map(|name| fleet.machine(name, &Blueprint::new(Mode::Qga)).unwrap()).into()
    });
    host.wait_link("one", "ready");
    host.wait_link("two", "ready");
    let cli = Cli::new(&program, host.gateway.socket());
    let frozen = cli.run(["freeze", "one", "--json"]).json();
    let table = cli.run(["vms"]).ok();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("VM ") && lines.len() == 3, "{table}");
    let lease = frozen["id"].as_str().unwrap();
    assert!(lines[1].starts_with("one  frozen") && lines[1].contains(lease), "{table}");
    assert!(lines[2].starts_with("two  ready"), "{table}");

    let json = cli.run(["vms", "two", "--json"]).json();
    assert_eq!((&json["vms"][0]["id"], json["vms"].as_array().unwrap().len()), (&"two".into(), 1));
    let ready = cli.run(["vms", "--state", "ready", "--ask"]).ok();
    assert!(ready.lines().count() == 2 && ready.contains("two"), "{ready}");
    // What a guest said once is shown without asking it again, and who asked nothing shows nothing.
    let known = cli.run(["vms", "--json"]).json();
    assert!(known["vms"][1]["guest"]["host_name"].is_string(), "{known}");
    assert!(known["vms"][0]["guest"].is_null(), "{known}");
    let both = cli.run(["vms", "two", "three"]);
    both.fails(1, &["No such VM", "[vm_not_found]"]);
    assert!(both.out.contains("two"), "{both:?}");

    cli.run(["vms", "--state", "asleep"]).fails(2, &["asleep"]);
    cli.run(["vms", "two", "--label", "a=b"]).fails(2, &["--label"]);
    let url = format!("unix:{}", host.gateway.socket().display());
    for (way, code) in [
        (["vms", "--url", &url], 0),
        (["vms", "--socket", "/nonexistent/api.sock"], 4),
        (["vms", "--url", "http://127.0.0.1:1"], 4),
        (["vms", "--url", "gateway"], 2),
    ] {
        assert_eq!(cli.run(way).code, Some(code), "{way:?}");
    }
}

#[test]
fn a_list_is_whole_however_many_pages_it_has() {
    let Some(program) = gateway_program() else { return };
    let dir = tempfile::tempdir().unwrap();
    let vms: Vec<_> =
        (0..2001).map(|n| (format!("vm-{n}"), dir.path().join(format!("{n}.sock")))).collect();
    let gateway = Gateway::start_with(&program, dir.path(), "", &vms).unwrap();
    let cli = Cli::new(&program, gateway.socket());
    let json = cli.run(["vms", "--json"]).json();
    assert_eq!(json["vms"].as_array().unwrap().len(), 2001);
    let none = cli.run(["freezes", "--all", "--json"]).json();
    assert_eq!(none["freezes"].as_array().unwrap().len(), 0);
}
