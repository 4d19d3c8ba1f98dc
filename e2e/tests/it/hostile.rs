//! Guests that are out to do harm, behind the real gateway: its memory stays bounded, what is asked
//! of them ends in a clear error, and nobody else notices.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use qga_e2e::sim::{Attack, Blueprint, Hostile, Machine, Mode, name};
use qga_e2e::{Gateway, KeepAlive, until};
use serde_json::json;

use crate::fleet::{Host, SOON, gateway_program, id};

/// Short, so that a test sees what they are for.
const CONFIG: &str = "[limits]\nsync_seconds = 1\nbackoff_max_seconds = 1\n\
    [timeouts]\nsession_seconds = 2\nother_seconds = 2\nfreeze_seconds = 2\n";
/// What a hostile guest may cost the gateway.
const MEMORY: u64 = 24 << 20;

#[test]
fn each_attack_ends_in_a_clear_error_and_is_survived() {
    let Some(program) = gateway_program() else { return };
    let mut hostile = Vec::new();
    for attack in Attack::ALL {
        hostile.clear();
        let (host, _good) = start(&program, 1, &[attack], &mut hostile);
        host.wait_link(&name(0), "ready");
        let before = resident(&host.gateway);
        let begun = Instant::now();
        for (path, body) in [("ping", json!({})), ("fsfreeze", json!({ "ttl_seconds": 1 }))] {
            let path = format!("/vms/hostile-0/{path}");
            let reply = host.rest().post(&path, &body).unwrap();
            assert!(reply.status >= 500 || reply.status == 422, "{attack:?}: {path}: {reply:?}");
            assert!(!reply.code().is_empty(), "{attack:?}: {path}: {reply:?}");
        }
        for path in ["fsfreeze", "agent"] {
            let reply = host.rest().get(&format!("/vms/hostile-0/{path}")).unwrap();
            assert!(reply.status < 500 || !reply.code().is_empty(), "{attack:?}: {reply:?}");
        }
        host.rest().get("/vms/hostile-0").unwrap().expect(200).unwrap();
        host.rest()
            .post(&format!("/vms/{}/ping", name(0)), &json!({}))
            .unwrap()
            .expect(200)
            .unwrap();
        assert!(begun.elapsed() < Duration::from_secs(40), "{attack:?}: {:?}", begun.elapsed());
        let grown = resident(&host.gateway).saturating_sub(before);
        assert!(grown < MEMORY, "{attack:?}: grown by {} KiB", grown >> 10);

        // An honest guest in its place is as good as any.
        let socket = hostile[0].socket().to_owned();
        hostile.clear();
        let honest = host.fleet.machine_at(&socket, &Blueprint::new(Mode::Stock)).unwrap();
        let mut last = String::new();
        until(format_args!("a freeze after {attack:?}"), SOON, || {
            let reply = host.freeze("hostile-0", 60);
            last = format!("{reply:?}");
            Ok((reply.status == 201).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e}; last: {last}"));
        assert!(honest.truth().frozen.is_some(), "{attack:?}");
        assert_eq!(honest.truth().blind, [""; 0]);
        host.thaw("hostile-0").expect(200).unwrap();
    }
}

#[test]
fn nine_attacks_among_a_thousand_cost_the_others_nothing() {
    let Some(program) = gateway_program() else { return };
    let mut hostile = Vec::new();
    let (host, good) = start(&program, 1000, &Attack::ALL, &mut hostile);
    let sockets: Vec<_> = hostile.drain(..).map(|guest| guest.socket().to_owned()).collect();
    for machine in [&good[0], &good[999]] {
        host.wait_link(&id(machine), "ready");
    }
    latencies(&host, 1000);
    let without = latencies(&host, 1000);
    let calm = resident(&host.gateway);
    for (socket, attack) in sockets.iter().zip(Attack::ALL) {
        hostile.push(host.fleet.hostile_at(socket, attack).unwrap());
    }
    let ids: Vec<_> = (0..hostile.len()).map(|number| format!("hostile-{number}")).collect();
    // Most attack only whoever asks them something.
    let asking = ids.iter().map(|id| {
        let (rest, path) = (host.rest(), format!("/vms/{id}/ping"));
        std::thread::spawn(move || rest.post(&path, &json!({})).unwrap().status)
    });
    let asking: Vec<_> = asking.collect();
    until("all attacks", SOON, || {
        Ok(hostile.iter().all(|guest| guest.written() > 0).then_some(()))
    })
    .unwrap();
    let with = latencies(&host, 1000);
    let attacked = resident(&host.gateway);
    for asked in asking {
        assert_ne!(asked.join().unwrap(), 200);
    }
    println!(
        "p99 of a ping with attacks {with:?}, without {without:?}; resident {} and {} KiB",
        attacked >> 10,
        calm >> 10
    );
    // A loaded machine gives no sharper figures; those are the bench's.
    let bound = without * 10 + Duration::from_millis(100);
    assert!(with < bound, "p99 with attacks {with:?}, without {without:?}");
    assert!(attacked < calm + MEMORY, "{} KiB, before {} KiB", attacked >> 10, calm >> 10);
    for machine in &good {
        assert!(machine.truth().connections <= 1, "{} was disconnected", id(machine));
    }
}

fn start(
    program: &Path,
    good: usize,
    attacks: &[Attack],
    hostile: &mut Vec<Hostile>,
) -> (Host, Vec<Machine>) {
    use std::fmt::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let fleet = qga_e2e::sim::Fleet::new(dir.path()).unwrap();
    let machines = fleet.machines(0, good, &Blueprint::new(Mode::Stock)).unwrap();
    let mut vms: Vec<_> =
        machines.iter().map(|machine| (id(machine), machine.socket().to_owned())).collect();
    let mut ids = String::new();
    for (number, attack) in attacks.iter().enumerate() {
        let id = format!("hostile-{number}");
        write!(ids, "{id} ").unwrap();
        let guest = fleet.hostile(&id, *attack).unwrap();
        vms.push((id, guest.socket().to_owned()));
        hostile.push(guest);
    }
    let gateway = Gateway::start_with(program, dir.path(), CONFIG, &vms).unwrap();
    (Host { gateway, fleet, _dir: dir }, machines)
}

/// The 99th percentile of a ping's round trip, over all good machines in turn.
fn latencies(host: &Host, machines: usize) -> Duration {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 2;
    let socket = host.gateway.socket();
    let mut all: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let socket = &socket;
                scope.spawn(move || {
                    let mut link = KeepAlive::connect(socket, SOON).unwrap();
                    let mine = (0..ROUNDS * machines).filter(|at| at % CLIENTS == client);
                    let ping = |at: usize| {
                        let path = format!("/vms/{}/ping", name(at % machines));
                        let begun = Instant::now();
                        let (status, body) = link.request("POST", &path, "").unwrap();
                        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(body));
                        begun.elapsed()
                    };
                    mine.map(ping).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    all.sort_unstable();
    all[all.len() * 99 / 100]
}

/// Resident memory in bytes.
pub(crate) fn resident(gateway: &Gateway) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
