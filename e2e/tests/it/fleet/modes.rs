//! Each kind of agent, through the gateway.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use qga_e2e::sim::{
    Act, Blueprint, By, Clock, Commands, Ended, Fleet, Machine, Mode, Moment, Truth,
};
use serde_json::Value;

use super::{Host, SOON, gateway_program, listener, one};

#[test]
fn every_kind_of_agent_freezes_and_thaws() {
    let Some(program) = gateway_program() else { return };
    for mode in Mode::ALL {
        let (host, machines) = Host::start(&program, "", one(mode));
        let machine = &machines[0];
        host.wait_link("one", "ready");
        let lease = host.freeze("one", 60).expect(201).unwrap();
        assert_eq!(lease["filesystems"], 2, "{mode:?}: {lease}");
        let truth = machine.truth();
        let episode = truth.frozen.as_ref().unwrap_or_else(|| panic!("{mode:?} is not frozen"));
        assert!(matches!(episode.by, By::Command { .. }), "{mode:?}: {episode:?}");
        assert_eq!(truth.filesystems.iter().filter(|f| f.frozen).count(), 2);
        let ended = host.thaw("one").expect(200).unwrap();
        let truth = machine.truth();
        assert_eq!(truth.frozen, None, "{mode:?}");
        assert!(matches!(truth.past[0].ended, Some(Ended::Command { .. })), "{mode:?}");
        let held = ["held", "counts_agree"];
        assert!(held.contains(&ended["verdict"].as_str().unwrap()), "{mode:?}: {ended}");
        assert_eq!(truth.blind, [""; 0], "{mode:?}: sent before a sync was answered");
    }
}

#[test]
fn vss_thaws_by_itself_and_the_verdict_says_so() {
    let Some(program) = gateway_program() else { return };
    let clock = Clock::default();
    let windows = Blueprint { clock: clock.clone(), ..Blueprint::new(Mode::Windows) };
    let (host, machines) =
        Host::start(&program, "", |fleet| vec![fleet.machine("one", &windows).unwrap()]);
    host.wait_link("one", "ready");
    host.freeze("one", 60).expect(201).unwrap();
    clock.advance(Duration::from_secs(11));
    assert_eq!(machines[0].truth().frozen, None);
    let ended = host.thaw("one").expect(200).unwrap();
    let verdict = ended["verdict"].as_str().unwrap();
    assert!(!["held", "counts_agree"].contains(&verdict), "{ended}");
    assert!(ended["thaw_error"].as_str().unwrap().contains("limited up to 10 seconds"), "{ended}");
}

#[test]
fn a_command_stops_where_the_test_wants_it_to() {
    let Some(program) = gateway_program() else { return };
    let (host, machines) = Host::start(&program, "", one(Mode::Qga));
    host.wait_link("one", "ready");
    let stop = machines[0].stop_at(Commands::Freezes, Moment::Executed);
    let rest = host.rest();
    let freeze = std::thread::spawn(move || rest.post("/vms/one/fsfreeze", &serde_json::json!({})));
    stop.reached(SOON).unwrap();
    assert!(machines[0].truth().frozen.is_some());
    stop.release(Act::Pass);
    freeze.join().unwrap().unwrap().expect(201).unwrap();
}

/// Without a gateway: what every other client would see too.
#[test]
fn the_chardev_serves_one_client_and_then_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(dir.path()).unwrap();
    let machine = fleet.machine("one", &Blueprint::new(Mode::Stock)).unwrap();
    let connect = || {
        let stream = UnixStream::connect(machine.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let mut first = connect();
    assert_eq!(ask(&mut first, "guest-ping"), serde_json::json!({}));
    let mut second = connect();
    second.write_all(b"{\"execute\": \"guest-fsfreeze-freeze\"}\n").unwrap();
    assert_eq!(ask(&mut first, "guest-fsfreeze-status"), "thawed");
    assert!(machine.truth().frozen.is_none());
    drop(first);
    // What the second wrote runs once the first has gone.
    machine.until("frozen", SOON, |truth| truth.frozen.clone()).unwrap();
    assert_eq!(answer(&mut second), 2);
    assert!(machine.truth().blind.contains(&"guest-fsfreeze-freeze"));
    machine.kill_agent();
    machine.start_agent();
    assert_eq!(ask(&mut second, "guest-fsfreeze-status"), "frozen");
    machine.kill_qemu(true);
    assert!(!machine.socket().exists());
    machine.boot().unwrap();
    let mut third = connect();
    assert_eq!(ask(&mut third, "guest-fsfreeze-status"), "thawed");
}

/// What a client left behind a slow command still runs when the next one is served, and is not its own.
#[test]
fn what_an_earlier_client_left_is_not_laid_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(dir.path()).unwrap();
    let machine = fleet.machine("one", &Blueprint::new(Mode::Qga)).unwrap();
    let mut first = UnixStream::connect(machine.socket()).unwrap();
    first.set_read_timeout(Some(SOON)).unwrap();
    let sync = b"{\"execute\": \"guest-sync\", \"arguments\": {\"id\": 1}}\n";
    first.write_all(sync).unwrap();
    assert_eq!(answer(&mut first), 1);
    let slow = machine.stop_at(Commands::Named("guest-get-time"), Moment::Received);
    first.write_all(b"{\"execute\": \"guest-get-time\"}\n{\"execute\": \"guest-ping\"}\n").unwrap();
    slow.reached(SOON).unwrap();
    drop(first);
    let mut second = UnixStream::connect(machine.socket()).unwrap();
    machine.until("the second", SOON, |truth| (truth.connections == 2).then_some(())).unwrap();
    slow.release(Act::Pass);
    let pinged = |truth: &Truth| truth.ran.contains(&"guest-ping").then_some(());
    machine.until("what the first sent", SOON, pinged).unwrap();
    assert_eq!(machine.truth().blind, [""; 0]);
    second.write_all(b"{\"execute\": \"guest-get-host-name\"}\n").unwrap();
    let blind = |truth: &Truth| (truth.blind == ["guest-get-host-name"]).then_some(());
    machine.until("its own is", SOON, blind).unwrap();
}

#[test]
fn another_qemu_is_another_process() {
    let Some(program) = gateway_program() else { return };
    let blueprint = Blueprint { listener: Some(listener()), ..Blueprint::new(Mode::Stock) };
    let (host, machines) =
        Host::start(&program, "", |fleet| vec![fleet.machine("one", &blueprint).unwrap()]);
    host.wait_link("one", "ready");
    let listening = |machine: &Machine| {
        let stream = UnixStream::connect(machine.socket()).unwrap();
        rustix::net::sockopt::socket_peercred(&stream).unwrap().pid
    };
    let first = listening(&machines[0]);
    machines[0].kill_qemu(true);
    let other = host.fleet.machine_at(machines[0].socket(), &blueprint).unwrap();
    assert_ne!(listening(&other), first);
    other.until("a client", SOON, |truth| truth.connected.then_some(())).unwrap();
    assert!(!machines[0].truth().on);
}

fn ask(stream: &mut UnixStream, command: &str) -> Value {
    stream.write_all(format!("{{\"execute\": \"{command}\"}}\n").as_bytes()).unwrap();
    answer(stream)
}

fn answer(stream: &mut UnixStream) -> Value {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let reply: Value = serde_json::from_slice(&line).unwrap();
    reply["return"].clone()
}
