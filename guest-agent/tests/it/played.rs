//! The clients that are out there, played byte for byte, each with its own way of finding a reply.

use std::time::{SystemTime, UNIX_EPOCH};

use qga_proto::command::FileRead;
use serde_json::{Value, json};

use crate::bed::{Agent, Bed, Client};

/// libvirt: a line is a reply; what is asked is believed to be answered by the next one.
struct Libvirt {
    client: Client,
}

impl Libvirt {
    /// It syncs once, by the plain form, without 0xFF.
    fn connect(agent: &Agent) -> Self {
        let mut client = agent.connect();
        let id = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        client.send(format!("{{\"execute\":\"guest-sync\", \"arguments\":{{\"id\":{id}}}}}\n"));
        let reply: Value = serde_json::from_str(&client.line()).unwrap();
        assert_eq!(reply, json!({ "return": u64::try_from(id).unwrap() }));
        Self { client }
    }

    fn reply(&mut self, request: &str) -> Value {
        self.client.send(format!("{request}\n"));
        let line = self.client.line();
        // It uses C strings.
        assert!(!line.contains('\0') && line.is_ascii(), "{line}");
        let reply: Value = serde_json::from_str(&line).unwrap();
        let known = ["return", "error"].iter().filter(|member| reply.get(member).is_some());
        assert_eq!((known.count(), reply.as_object().unwrap().len()), (1, 1), "{line}");
        reply
    }

    fn ask(&mut self, request: &str) -> Value {
        self.reply(request).get("return").unwrap_or_else(|| panic!("{request}")).clone()
    }

    /// What it reports to its user.
    fn refused(&mut self, request: &str) -> String {
        let reply = self.reply(request);
        let error = reply.get("error").unwrap_or_else(|| panic!("{request}: {reply}"));
        assert!(error["class"].is_string());
        error["desc"].as_str().unwrap().to_owned()
    }
}

#[test]
fn libvirt_finds_every_member_that_it_must_have() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut libvirt = Libvirt::connect(&agent);

    let filesystems = libvirt.ask("{\"execute\":\"guest-get-fsinfo\"}");
    for filesystem in filesystems.as_array().unwrap() {
        for member in ["mountpoint", "name", "type"] {
            assert!(filesystem[member].is_string(), "{filesystem}");
        }
        for disk in filesystem["disk"].as_array().unwrap() {
            assert!(disk["bus-type"].is_string());
            for member in ["bus", "target", "unit"] {
                assert!(disk[member].is_i64(), "{disk}");
            }
            for member in ["domain", "bus", "slot", "function"] {
                assert!(disk["pci-controller"][member].is_i64(), "{disk}");
            }
        }
    }
    assert_eq!(reversed(&filesystems), in_order_of_mounting(&filesystems));

    for cpu in libvirt.ask("{\"execute\":\"guest-get-vcpus\"}").as_array().unwrap() {
        assert!(cpu["logical-id"].is_u64() && cpu["online"].is_boolean(), "{cpu}");
        assert!(cpu["can-offline"].is_boolean(), "{cpu}");
        assert!(cpu["online"] == json!(true) || cpu["can-offline"] == json!(true), "{cpu}");
    }
    assert!(libvirt.ask("{\"execute\":\"guest-get-time\"}").is_u64());
    for interface in
        libvirt.ask("{\"execute\":\"guest-network-get-interfaces\"}").as_array().unwrap()
    {
        assert!(interface["name"].is_string(), "{interface}");
        for address in interface["ip-addresses"].as_array().into_iter().flatten() {
            let family = address["ip-address-type"].as_str().unwrap();
            assert!(["ipv4", "ipv6"].contains(&family), "{address}");
            assert!(address["ip-address"].is_string() && address["prefix"].is_i64(), "{address}");
        }
    }
    for user in libvirt.ask("{\"execute\":\"guest-get-users\"}").as_array().unwrap() {
        assert!(user["user"].is_string() && user["login-time"].is_number(), "{user}");
    }
    assert!(libvirt.ask("{\"execute\":\"guest-get-timezone\"}")["offset"].is_i64());
    assert!(libvirt.ask("{\"execute\":\"guest-get-host-name\"}")["host-name"].is_string());
    assert!(libvirt.ask("{\"execute\":\"guest-get-osinfo\"}").is_object());
    for disk in libvirt.ask("{\"execute\":\"guest-get-disks\"}").as_array().unwrap() {
        assert!(disk["name"].is_string() && disk["partition"].is_boolean(), "{disk}");
    }
    let load = libvirt.ask("{\"execute\":\"guest-get-load\"}");
    for member in ["load1m", "load5m", "load15m"] {
        assert!(load[member].is_number(), "{load}");
    }
}

fn reversed(filesystems: &Value) -> Vec<&str> {
    let points = filesystems.as_array().unwrap().iter().rev();
    points.map(|filesystem| filesystem["mountpoint"].as_str().unwrap()).collect()
}

/// The same mount points as the kernel lists them.
fn in_order_of_mounting(filesystems: &Value) -> Vec<&str> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let order = |point: &str| {
        let escaped = point.replace('\\', "\\134").replace(' ', "\\040");
        table.lines().position(|line| line.split(' ').nth(4) == Some(&escaped))
    };
    let mut points = reversed(filesystems);
    points.sort_by_key(|point| order(point));
    points
}

/// What libvirt sends that changes the guest goes no further here than its arguments.
#[test]
fn libvirt_takes_errors_for_answers_and_stays_in_step() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut libvirt = Libvirt::connect(&agent);
    let cases = [
        (
            "{\"execute\":\"guest-set-vcpus\",\"arguments\":{\"vcpus\":[{\"logical-id\":9999,\
             \"online\":false}]}}",
            "Could not open '/sys/devices/system/cpu/cpu9999/': No such file or directory",
        ),
        (
            "{\"execute\":\"guest-shutdown\",\"arguments\":{\"mode\":\"none\"}}",
            "mode is invalid (valid values are: halt|powerdown|reboot",
        ),
        ("{\"execute\":\"guest-get-devices\"}", "The command guest-get-devices has not been found"),
        (
            "{\"execute\":\"guest-set-user-password\",\"arguments\":{\"username\":\"a:b\",\
             \"password\":\"eA==\",\"crypted\":false}}",
            "forbidden characters in username",
        ),
        (
            "{\"execute\":\"guest-ssh-add-authorized-keys\",\"arguments\":{\"username\":\"nobody\",\
             \"keys\":[\"# x\"],\"reset\":true}}",
            "invalid OpenSSH public key: '# x'",
        ),
        (
            "{\"execute\":\"guest-fstrim\",\"arguments\":{\"minimum\":18446744073709551615}}",
            "Invalid parameter type for 'minimum', expected: integer",
        ),
    ];
    for (request, text) in cases {
        assert_eq!(libvirt.refused(request), text);
    }
    assert_eq!(
        libvirt.ask("{\"execute\":\"guest-set-vcpus\",\"arguments\":{\"vcpus\":[]}}"),
        json!(0)
    );
}

/// Proxmox VE: a connection per command, sync and command in one write.
struct Proxmox<'a> {
    agent: &'a Agent,
    sequence: u64,
}

impl Proxmox<'_> {
    fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        self.sequence += 1;
        let id: u64 = format!("{}0{}", std::process::id(), self.sequence).parse().unwrap();
        let mut client = self.agent.connect();
        let call = json!({ "arguments": arguments, "execute": command });
        client.send(format!(
            "{{\"execute\":\"guest-sync-delimited\",\"arguments\":{{\"id\":{id}}}}}\n{call}\n"
        ));
        let mut received = Vec::new();
        let [sync, reply] = loop {
            client.receive(&mut received);
            if let Some(found) = proxmox_match(&received) {
                break found;
            }
        };
        assert_eq!(sync, json!({ "return": id }));
        reply.get("return").unwrap_or_else(|| panic!("{command}: {reply}")).clone()
    }
}

/// All up to the last 0xFF behind which two whole lines stand is dropped; these are the replies.
fn proxmox_match(received: &[u8]) -> Option<[Value; 2]> {
    let sentinels = received.iter().enumerate().rev().filter(|(_, byte)| **byte == 0xFF);
    for (at, _) in sentinels {
        let lines: Vec<&[u8]> = received[at + 1..].split_inclusive(|&byte| byte == b'\n').collect();
        let whole = |line: &&[u8]| line.ends_with(b"}\n") || line.ends_with(b"}\r\n");
        if lines.len() == 2 && lines.iter().all(whole) {
            return Some([0, 1].map(|line| serde_json::from_slice(lines[line]).unwrap()));
        }
    }
    None
}

/// Base64 with a newline behind every 76 characters, as Perl's MIME module has it.
fn mime(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (index, group) in bytes.chunks(3).enumerate() {
        if index > 0 && index % 19 == 0 {
            text.push('\n');
        }
        let mut three = [0, 0, 0];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for sextet in 0..4_usize {
            let value = usize::try_from(bits >> (18 - 6 * sextet) & 63).unwrap();
            text.push(if sextet <= group.len() { char::from(alphabet[value]) } else { '=' });
        }
    }
    text + "\n"
}

fn unbase64(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    assert!(text.is_ascii() && !text.contains('\n'));
    let read = json!({ "count": 0, "buf-b64": text, "eof": false });
    serde_json::from_value::<FileRead>(read).unwrap().buf_b64.0
}

#[test]
fn proxmox_writes_wrapped_base64_and_reads_in_a_loop() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut proxmox = Proxmox { agent: &agent, sequence: 0 };
    let path = bed.path("config").display().to_string();
    let content: Vec<u8> = (0..60 * 1024_u32).map(|n| n.to_le_bytes()[0] ^ 0x5A).collect();

    let open = proxmox.ask("guest-file-open", &json!({ "path": path, "mode": "wb" }));
    let write = json!({ "handle": open, "buf-b64": mime(&content) });
    let written = proxmox.ask("guest-file-write", &write);
    assert_eq!(written["count"], json!(content.len()));
    assert_eq!(proxmox.ask("guest-file-close", &json!({ "handle": open })), json!({}));
    assert_eq!(std::fs::read(bed.path("config")).unwrap(), content);

    // From a place in the file on, in pieces, until the end.
    let open = proxmox.ask("guest-file-open", &json!({ "path": path, "mode": "rb" }));
    let seek = json!({ "handle": open, "offset": 1000, "whence": "set" });
    assert_eq!(proxmox.ask("guest-file-seek", &seek), json!({ "position": 1000, "eof": false }));
    let mut read = Vec::new();
    loop {
        let answer = proxmox.ask("guest-file-read", &json!({ "handle": open, "count": 1 << 14 }));
        let piece = unbase64(&answer["buf-b64"]);
        assert_eq!(answer["count"], json!(piece.len()));
        read.extend(piece);
        if answer["eof"] == json!(true) {
            break;
        }
    }
    assert!(read == content[1000..]);
    proxmox.ask("guest-file-close", &json!({ "handle": open }));
}

#[test]
fn proxmox_runs_a_program_with_input_and_polls_for_its_output() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut proxmox = Proxmox { agent: &agent, sequence: 0 };
    let started = proxmox.ask(
        "guest-exec",
        &json!({ "path": "sh", "arg": ["-c", "wc -c; echo no >&2; exit 3"],
            "capture-output": true, "input-data": mime(&[7; 64 * 1024]) }),
    );
    let done = crate::bed::wait_for("the program's end", || {
        let status = proxmox.ask("guest-exec-status", &json!({ "pid": started["pid"] }));
        status["exited"].as_bool().unwrap().then_some(status)
    });
    assert_eq!(done["exitcode"], json!(3));
    assert_eq!(unbase64(&done["out-data"]), b"65536\n");
    assert_eq!(unbase64(&done["err-data"]), b"no\n");
    // Before a backup; and what it answers with for a guest that is there.
    assert_eq!(proxmox.ask("guest-ping", &json!({})), json!({}));
    assert_eq!(proxmox.ask("guest-fsfreeze-status", &json!({})), json!("thawed"));
    assert!(proxmox.ask("guest-info", &json!({}))["version"].is_string());
}

/// `KubeVirt` takes an agent for supported if it has all of these enabled.
const KUBEVIRT: [&str; 10] = [
    "guest-ping",
    "guest-get-time",
    "guest-info",
    "guest-shutdown",
    "guest-network-get-interfaces",
    "guest-get-fsinfo",
    "guest-get-host-name",
    "guest-get-users",
    "guest-get-timezone",
    "guest-get-osinfo",
];

/// For keys and passwords that are set from outside, and for what it polls.
const KUBEVIRT_MORE: [&str; 14] = [
    "guest-ssh-get-authorized-keys",
    "guest-ssh-add-authorized-keys",
    "guest-ssh-remove-authorized-keys",
    "guest-exec",
    "guest-exec-status",
    "guest-file-open",
    "guest-file-close",
    "guest-file-read",
    "guest-file-write",
    "guest-set-user-password",
    "guest-fsfreeze-status",
    "guest-get-load",
    "guest-get-cpustats",
    "guest-get-diskstats",
];

#[test]
fn kubevirt_finds_its_commands_enabled() {
    let bed = Bed::new();
    let agent = bed.start();
    // It asks through libvirt.
    let mut libvirt = Libvirt::connect(&agent);
    let info = libvirt.ask("{\"execute\":\"guest-info\"}");
    assert!(info["version"].is_string());
    let commands = info["supported_commands"].as_array().unwrap();
    for name in KUBEVIRT.iter().chain(&KUBEVIRT_MORE) {
        let found: Vec<_> = commands.iter().filter(|command| command["name"] == **name).collect();
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0]["enabled"], json!(true), "{name}");
    }
    for _ in 0..3 {
        let status = libvirt.ask("{\"execute\":\"guest-fsfreeze-status\"}");
        assert_eq!(status, json!("thawed"));
    }
    // Its probes.
    assert_eq!(libvirt.ask("{\"execute\":\"guest-ping\"}"), json!({}));
}
