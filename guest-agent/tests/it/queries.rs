//! What the agent says of the guest, side by side with the real qemu-ga where it is installed.
//!
//! qemu-ga is asked before and after ours: every number of ours must lie between its two, so
//! that what stands still is compared exactly and what moves is compared as well.

use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Bed, Client};
use crate::interop::qemu_ga;
use crate::namespace::namespace_or_skip;

/// Milliseconds by which the kernel's idle times may run backwards.
const IDLE_SLACK: f64 = 200.0;

fn get(client: &mut Client, command: &str) -> Value {
    serde_json::from_str(&client.get(command, "")).unwrap()
}

/// Lists in one order: qemu-ga's is that of a directory.
fn sorted(mut value: Value) -> Value {
    if let Value::Array(list) = &mut value {
        let number = |entry: &Value| {
            let id = entry.get("logical-id").or_else(|| entry.get("phys-index"));
            id.and_then(Value::as_u64).unwrap_or(0)
        };
        list.sort_by_key(number);
    }
    value
}

fn assert_between(path: &str, low: &Value, ours: &Value, high: &Value) {
    match (low, ours, high) {
        (Value::Object(low), Value::Object(ours), Value::Object(high)) => {
            let names = |object: &serde_json::Map<String, Value>| {
                let mut names: Vec<_> = object.keys().cloned().collect();
                names.sort();
                names
            };
            assert_eq!(names(ours), names(low), "{path}");
            for (name, ours) in ours {
                assert_between(&format!("{path}.{name}"), &low[name], ours, &high[name]);
            }
        }
        (Value::Array(low), Value::Array(ours), Value::Array(high)) => {
            assert_eq!((ours.len(), high.len()), (low.len(), low.len()), "{path}");
            for (index, ours) in ours.iter().enumerate() {
                assert_between(&format!("{path}[{index}]"), &low[index], ours, &high[index]);
            }
        }
        (Value::Number(low), Value::Number(ours), Value::Number(high)) => {
            let slack =
                if path.ends_with("idle") || path.ends_with("iowait") { IDLE_SLACK } else { 0.0 };
            let [low, ours, high] = [low, ours, high].map(|number| number.as_f64().unwrap());
            assert!(low - slack <= ours && ours <= high + slack, "{path}: {low} {ours} {high}");
        }
        _ => assert_eq!(ours, low, "{path}"),
    }
}

/// Asks two agents that see the same machine.
fn compare(commands: &[&str], start: impl Fn(&Bed, &str) -> Agent) {
    let Some(qemu_ga) = qemu_ga() else { return };
    let beds = [Bed::new(), Bed::new()];
    let agents = [start(&beds[0], AGENT), start(&beds[1], qemu_ga.to_str().unwrap())];
    let [mut ours, mut theirs] = [agents[0].connect(), agents[1].connect()];
    for command in commands {
        let low = sorted(get(&mut theirs, command));
        let answer = sorted(get(&mut ours, command));
        let high = sorted(get(&mut theirs, command));
        assert_between(command, &low, &answer, &high);
    }
}

const QUERIES: [&str; 10] = [
    "guest-get-time",
    "guest-get-vcpus",
    "guest-get-cpustats",
    "guest-get-memory-blocks",
    "guest-get-memory-block-info",
    "guest-network-get-interfaces",
    "guest-get-host-name",
    "guest-get-users",
    "guest-get-timezone",
    "guest-get-osinfo",
];

fn start_plain(bed: &Bed, program: &str) -> Agent {
    Agent::spawn(&mut bed.command(program), &bed.path("socket"))
}

#[test]
fn this_machine_is_as_qemu_ga_sees_it() {
    compare(&QUERIES, start_plain);
}

#[test]
fn time_zones_are_those_of_qemu_ga() {
    let zones = [
        "Europe/Berlin",
        ":America/New_York",
        "Asia/Kolkata",
        "/usr/share/zoneinfo/Australia/Lord_Howe",
        "EST5EDT",
        "<+03>-3",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "AEST-10AEDT,M10.1.0,M4.1.0/3",
        "PST8PDT,J60,300",
        "Nonsense/Zone",
        "",
    ];
    for zone in zones {
        compare(&["guest-get-timezone"], |bed, program| {
            Agent::spawn(bed.command(program).env("TZ", zone), &bed.path("socket"))
        });
    }
}

#[test]
fn os_release_is_read_as_qemu_ga_does() {
    let files = [
        "NAME=\"Debian \\$x \\\"q\\\" \\\\ \\` \\n \\' GNU\"\nVERSION=12;bar baz\nID=debian stuff\n",
        "  NAME  =   lead trail   \nID=\"a b\"   \nVERSION=x\\ny\\\"z\nVARIANT=a\"b c\"\nVARIANT_ID=\n",
        "# comment\n\nID=a\nID=b\nVARIANT=\"ab\"cd\nPRETTY_NAME=\u{e9}x\nVERSION_ID=\"\"",
        "",
    ];
    for file in files {
        compare(&["guest-get-osinfo"], |bed, program| {
            let path = bed.path("os-release");
            std::fs::write(&path, file).unwrap();
            let mut command = bed.command(program);
            Agent::spawn(command.env("QGA_OS_RELEASE", &path), &bed.path("socket"))
        });
    }
    compare(&["guest-get-osinfo"], |bed, program| {
        let mut command = bed.command(program);
        Agent::spawn(command.env("QGA_OS_RELEASE", "/nonexistent"), &bed.path("socket"))
    });
}

const NETWORK: &str = "
ip link set lo up
ip tuntap add tap0 mode tap
ip link set tap0 address 02:00:00:00:00:01 up
ip addr add 192.0.2.5/24 dev tap0
ip addr add 192.0.2.6/32 dev tap0 label tap0:1
ip addr add 10.0.0.1 peer 10.0.0.2/30 dev tap0
ip tuntap add tap1 mode tap
ip tuntap add tun0 mode tun
ip addr add 203.0.113.9/31 dev tun0
ip route add 198.51.100.0/24 via 192.0.2.1 metric 4294967295
test \"$IPV6\" = off && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
test \"$IPV6\" = off || ip addr add 2001:db8::5/64 dev tap0 nodad
test \"$IPV6\" = off || ip addr add ::198.51.100.7/96 dev tap0 nodad
test \"$IPV6\" = off || ip -6 route add 2001:db8:1::/48 via 2001:db8::1 metric 4294967295
";

#[test]
fn interfaces_are_those_of_qemu_ga() {
    let interfaces = ["guest-network-get-interfaces"];
    let namespace = namespace_or_skip!(&["-n"], NETWORK);
    compare(&interfaces, |bed, program| namespace.start(bed, program));
    let no_ipv6 = format!("IPV6=off{NETWORK}");
    let namespace = namespace_or_skip!(&["-n"], &no_ipv6);
    compare(&interfaces, |bed, program| namespace.start(bed, program));
}

#[test]
fn labels_point_to_point_links_and_interfaces_without_addresses() {
    let namespace = namespace_or_skip!(&["-n"], NETWORK);
    let bed = Bed::new();
    let agent = namespace.start(&bed, AGENT);
    let mut found = get(&mut agent.connect(), "guest-network-get-interfaces");
    let found = found.as_array_mut().unwrap();
    let counted: Vec<_> = found
        .iter_mut()
        .map(|interface| interface.as_object_mut().unwrap().remove("statistics").is_some())
        .collect();
    assert_eq!(counted, [true, true, false, true, false]);
    let v4 = |text: &str, prefix: u8| json!({"ip-address": text, "ip-address-type": "ipv4", "prefix": prefix});
    let v6 = |text: &str, prefix: u8| json!({"ip-address": text, "ip-address-type": "ipv6", "prefix": prefix});
    let mac = "02:00:00:00:00:01";
    assert_eq!(
        found[1],
        json!({"name": "tap0", "hardware-address": mac, "ip-addresses": [
            v4("192.0.2.5", 24), v4("10.0.0.1", 30),
            v6("::198.51.100.7", 96), v6("2001:db8::5", 64),
        ]})
    );
    let names: Vec<_> = found.iter().map(|interface| &interface["name"]).collect();
    assert_eq!(names, ["lo", "tap0", "tap1", "tun0", "tap0:1"]);
    let label = json!({"name": "tap0:1", "hardware-address": mac,
                       "ip-addresses": [v4("192.0.2.6", 32)]});
    assert_eq!(found[4], label);
}

/// The packaged qemu-ga has no such command to compare with.
#[test]
fn routes_are_the_kernels() {
    let namespace = namespace_or_skip!(&["-n"], NETWORK);
    let bed = Bed::new();
    let agent = namespace.start(&bed, AGENT);
    let found = get(&mut agent.connect(), "guest-network-get-route");
    let v4 = json!({
        "iface": "tap0", "destination": "198.51.100.0", "metric": 4_294_967_295_u32, "version": 4,
        "gateway": "192.0.2.1", "mask": "255.255.255.0", "irtt": 0, "flags": 3, "refcnt": 0,
        "use": 0, "window": 0, "mtu": 0,
    });
    let v6 = json!({
        "iface": "tap0", "destination": "2001:db8:1::", "metric": 4_294_967_295_u32, "version": 6,
        "desprefixlen": "48", "source": "::", "srcprefixlen": "0", "nexthop": "2001:db8::1",
        "flags": 3, "refcnt": 1, "use": 0,
    });
    let found = found.as_array().unwrap();
    for expected in [v4, v6] {
        assert!(found.contains(&expected), "{expected} is not in {found:#?}");
    }
    assert!(found.iter().all(|route| route["flags"].as_u64().unwrap() <= u32::MAX.into()));
}

#[test]
fn users_are_those_of_utmp_as_qemu_ga_sees_them() {
    if !cfg!(target_arch = "x86_64") {
        qga_testing::unavailable("the recorded utmp is one of x86_64");
        return;
    }
    let utmp = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/utmp/x86_64");
    // All but the last record, whose user fills the field: qemu-ga reads on into the next one.
    let setup = format!("mount -t tmpfs run /run; head -c 2304 {utmp} > /run/utmp");
    let namespace = namespace_or_skip!(&["-m"], &setup);
    compare(&["guest-get-users"], |bed, program| namespace.start(bed, program));
    let bed = Bed::new();
    let agent = namespace.start(&bed, AGENT);
    let users = json!([
        {"user": "root", "login-time": 1_600_000_000.999_999},
        {"user": "alice", "login-time": 1_700_000_100.000_001},
    ]);
    assert_eq!(get(&mut agent.connect(), "guest-get-users"), users);
}

#[test]
fn users_are_those_of_logind_where_there_is_no_utmp() {
    let sessions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/logind-session");
    let setup = format!(
        "mount -t tmpfs run /run; mkdir -p /run/systemd; cp -r {sessions} /run/systemd/sessions
         mkfifo /run/systemd/sessions/ssh.ref"
    );
    let namespace = namespace_or_skip!(&["-m"], &setup);
    let bed = Bed::new();
    let agent = namespace.start(&bed, AGENT);
    let line = agent.connect().get("guest-get-users", "");
    let users = json!([
        {"user": "root", "login-time": 1_762_240_000},
        {"user": "alice", "login-time": 1_762_246_923.123_456},
    ]);
    // A whole number has no point on the wire.
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), users);
}

#[test]
fn load_is_that_of_proc() {
    let bed = Bed::new();
    let agent = bed.start();
    let load = get(&mut agent.connect(), "guest-get-load");
    for member in ["load1m", "load5m", "load15m"] {
        assert!(load[member].as_f64().unwrap() >= 0.0, "{load}");
    }
    assert_eq!(load.as_object().unwrap().len(), 3);
}

/// In a user namespace of its own no process may set the clock.
#[test]
fn times_that_cannot_be_set_are_refused_as_by_qemu_ga() {
    let Some(qemu_ga) = qemu_ga() else { return };
    let namespace = namespace_or_skip!(&["-U", "-r", "-m"], "true");
    let [ours, theirs] = [AGENT, qemu_ga.to_str().unwrap()].map(|program| {
        let bed = Bed::new();
        let agent = namespace.start(&bed, program);
        let user = std::fs::read_link(format!("/proc/{}/ns/user", agent.child.id())).unwrap();
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        assert_ne!(user, own, "DANGER: the agent may set the machine's clock");
        let mut client = agent.connect();
        let times = [
            "1795344437299883000",
            "-1",
            "-2000000000",
            "3155760000000000000",
            "9223372036854775807",
            "9223372036854775808",
            "1.5",
            "null",
            "'x'",
        ];
        times.map(|time| (time, client.call("guest-set-time", &format!("{{'time':{time}}}"))))
    });
    for ((time, ours), (_, theirs)) in ours.into_iter().zip(theirs) {
        let [ours, theirs] =
            [ours, theirs].map(|line| serde_json::from_str::<Value>(&line).unwrap());
        assert_eq!(ours, theirs, "{time}");
    }
}

#[test]
fn arguments_are_checked_as_by_qemu_ga() {
    let Some(qemu_ga) = qemu_ga() else { return };
    let beds = [Bed::new(), Bed::new()];
    let agents = [start_plain(&beds[0], AGENT), start_plain(&beds[1], qemu_ga.to_str().unwrap())];
    let [mut ours, mut theirs] = [agents[0].connect(), agents[1].connect()];
    // Nothing here gets as far as to change anything.
    let refused = [
        ("guest-suspend-ram", "{'x':1}"),
        ("guest-suspend-disk", "{'x':1}"),
        ("guest-suspend-hybrid", "{'x':1}"),
        ("guest-set-time", "{'x':1}"),
        ("guest-set-vcpus", "{}"),
        ("guest-set-vcpus", "{'vcpus':7}"),
        ("guest-set-vcpus", "{'vcpus':[7]}"),
        ("guest-set-vcpus", "{'vcpus':[{'logical-id':1}]}"),
        ("guest-set-vcpus", "{'vcpus':[{'logical-id':'x','online':true}]}"),
        ("guest-set-vcpus", "{'vcpus':[{'logical-id':1,'online':true,'x':1}]}"),
        ("guest-set-memory-blocks", "{}"),
        ("guest-set-memory-blocks", "{'mem-blks':[{'phys-index':1,'online':1}]}"),
        ("guest-set-memory-blocks", "{'mem-blks':[{'online':true}]}"),
    ];
    let unexpected = QUERIES.map(|command| (command, "{'foo':1}"));
    for (command, arguments) in unexpected.into_iter().chain(refused) {
        let [ours, theirs] =
            [&mut ours, &mut theirs].map(|client| client.error(command, arguments));
        assert_eq!(ours, theirs, "{command} {arguments}");
    }
}
