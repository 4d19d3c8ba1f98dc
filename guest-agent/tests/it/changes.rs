//! Commands that change the guest, on a machine made of files: in a mount namespace, a tmpfs lies
//! where the kernel has processors, memory and power, and programs are scripts that write down
//! how they were called.

use std::path::PathBuf;

use rustix::fs::statfs;
use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Bed, Client};
use crate::interop::installed_qemu_ga;
use crate::namespace::namespace_or_skip;

const MACHINE: &str = "
for at in /sys/devices/system/cpu /sys/devices/system/memory /sys/power; do
    mount -t tmpfs machine $at
done
cd /sys/devices/system/cpu
mkdir cpu0 cpu1 cpu2
echo 1 > cpu1/online
echo 0 > cpu2/online
cd ../memory
mkdir memory0 memory1
echo online > memory0/state; echo 0 > memory0/removable
echo offline > memory1/state; echo 1 > memory1/removable
echo 8000000 > block_size_bytes
echo 'freeze mem' > /sys/power/state
";

/// Nothing of the real machine may be in reach of the agent.
fn assert_safe(agent: &Agent) {
    for directory in ["sys/devices/system/cpu", "sys/devices/system/memory", "sys/power"] {
        let path = format!("/proc/{}/root/{directory}", agent.child.id());
        let found = statfs(&path).unwrap().f_type;
        assert_eq!(found, 0x0102_1994, "DANGER: {directory} is not a tmpfs");
    }
}

fn get(client: &mut Client, command: &str, arguments: &str) -> Value {
    serde_json::from_str(&client.get(command, arguments)).unwrap()
}

/// The programs: ours, and qemu-ga where it is installed.
fn programs() -> Vec<String> {
    let theirs = installed_qemu_ga().map(|path| path.display().to_string());
    [AGENT.to_owned()].into_iter().chain(theirs).collect()
}

#[test]
fn processors_go_off_and_on() {
    for program in programs() {
        let namespace = namespace_or_skip!(&["-m"], MACHINE);
        let bed = Bed::new();
        let agent = namespace.start(&bed, &program);
        assert_safe(&agent);
        let mut client = agent.connect();
        let set = |client: &mut Client, list: &str| {
            get(client, "guest-set-vcpus", &format!("{{'vcpus':[{list}]}}"))
        };
        assert_eq!(set(&mut client, ""), 0, "{program}");
        let both = "{'logical-id':1,'online':false},{'logical-id':2,'online':true}";
        assert_eq!(set(&mut client, both), 2, "{program}");
        let mut found = get(&mut client, "guest-get-vcpus", "");
        found.as_array_mut().unwrap().sort_by_key(|found| found["logical-id"].as_i64());
        let expected = json!([
            {"logical-id": 0, "online": true, "can-offline": false},
            {"logical-id": 1, "online": false, "can-offline": true},
            {"logical-id": 2, "online": true, "can-offline": true},
        ]);
        assert_eq!(found, expected, "{program}");
        // The second cannot go, so the third is not looked at.
        let part = "{'logical-id':1,'online':true},{'logical-id':0,'online':false},{'logical-id':2,'online':false}";
        assert_eq!(set(&mut client, part), 1, "{program}");
        let text = client.error("guest-set-vcpus", "{'vcpus':[{'logical-id':0,'online':false}]}");
        assert_eq!(text, "logical processor #0 can't be offlined", "{program}");
        if program == AGENT {
            let unknown = "{'vcpus':[{'logical-id':9999,'online':true}]}";
            let text =
                "Could not open '/sys/devices/system/cpu/cpu9999/': No such file or directory";
            assert_eq!(client.error("guest-set-vcpus", unknown), text);
        }
    }
}

#[test]
fn memory_blocks_go_off_and_on() {
    for program in programs() {
        let namespace = namespace_or_skip!(&["-m"], MACHINE);
        let bed = Bed::new();
        let agent = namespace.start(&bed, &program);
        assert_safe(&agent);
        let mut client = agent.connect();
        let list = "{'mem-blks':[{'phys-index':0,'online':true},{'phys-index':1,'online':true},\
                    {'phys-index':99,'online':true},{'phys-index':-1,'online':false}]}";
        let expected = json!([
            {"phys-index": 0, "response": "success"},
            {"phys-index": 1, "response": "success"},
            {"phys-index": 99, "response": "not-found", "error-code": 2},
            {"phys-index": u64::MAX, "response": "not-found", "error-code": 2},
        ]);
        assert_eq!(get(&mut client, "guest-set-memory-blocks", list), expected, "{program}");
        assert_eq!(
            get(&mut client, "guest-get-memory-block-info", ""),
            json!({"size": 0x800_0000})
        );
        let mut found = get(&mut client, "guest-get-memory-blocks", "");
        found.as_array_mut().unwrap().sort_by_key(|found| found["phys-index"].as_u64());
        let expected = json!([
            {"phys-index": 0, "online": true, "can-offline": false},
            {"phys-index": 1, "online": true, "can-offline": true},
        ]);
        assert_eq!(found, expected, "{program}");
    }
}

#[test]
fn guests_without_memory_hotplug_have_no_blocks() {
    let without = "mount -t tmpfs machine /sys/devices/system";
    let with_none = format!("{MACHINE}\nrm -r /sys/devices/system/memory/*");
    for program in programs() {
        let bed = Bed::new();
        let namespace = namespace_or_skip!(&["-m"], without);
        let agent = namespace.start(&bed, &program);
        let mut client = agent.connect();
        assert_eq!(get(&mut client, "guest-get-memory-blocks", ""), json!([]), "{program}");
        let text = "open(\\\"/sys/devices/system/memory/\\\"): No such file or directory";
        if program == AGENT {
            assert_eq!(client.error("guest-get-memory-block-info", ""), text);
        }
        drop((client, agent));
        let namespace = namespace_or_skip!(&["-m"], &with_none);
        let agent = namespace.start(&bed, &program);
        let text = "guest reported zero memory blocks!";
        assert_eq!(agent.connect().error("guest-get-memory-blocks", ""), text, "{program}");
    }
}

/// Suspends with these programs; returns what was run, and the answer if there was one.
fn suspend(program: &str, scripts: &[(&str, &str)], mode: &str) -> Option<(Vec<String>, String)> {
    let namespace = match crate::namespace::Namespace::new(&["-m"], MACHINE) {
        Ok(namespace) => namespace,
        Err(reason) => {
            qga_testing::unavailable(&reason);
            return None;
        }
    };
    let bed = Bed::new();
    let (programs, log) = (bed.path("bin"), bed.path("log"));
    std::fs::create_dir(&programs).unwrap();
    for (name, script) in scripts {
        let text = format!("#!/bin/sh\necho {name} \"$@\" >> {}\n{script}\n", log.display());
        write_program(programs.join(name), &text);
    }
    let path = format!("PATH={}", programs.display());
    let agent = namespace.start_by(&bed, &["/usr/bin/env", &path], program);
    assert_safe(&agent);
    let environment = std::fs::read(format!("/proc/{}/environ", agent.child.id())).unwrap();
    let searched = environment.split(|&byte| byte == 0).filter(|line| line.starts_with(b"PATH="));
    assert!(searched.eq([path.as_bytes()]), "DANGER: the machine's programs are in reach");
    let mut client = agent.connect();
    client.send(format!("{{'execute':'guest-suspend-{mode}'}}"));
    let answer = client.call("guest-ping", "");
    let ran = std::fs::read_to_string(&log).unwrap_or_default();
    Some((ran.lines().map(str::to_owned).collect(), answer))
}

/// By another process, so that no fork of another test's thread holds it open for writing.
fn write_program(path: PathBuf, text: &str) {
    use std::io::Write as _;
    let mut child = std::process::Command::new("sh")
        .args(["-c", "cat > \"$0\"; chmod 755 \"$0\""])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn suspending_asks_and_runs_what_qemu_ga_does() {
    let systemd = ("systemctl", "test $1 = status && exit 3; exit 0");
    let no_systemd = ("systemctl", "exit 4");
    let pm = ("pm-is-supported", "exit 0");
    let machines: [(&[(&str, &str)], &str); 8] = [
        (&[systemd, pm], "ram"),
        (&[systemd], "disk"),
        (&[systemd], "hybrid"),
        (&[no_systemd, pm, ("pm-suspend", "exit 0")], "ram"),
        (&[no_systemd, pm, ("pm-hibernate", "exit 0")], "disk"),
        (&[pm, ("pm-suspend-hybrid", "exit 0")], "hybrid"),
        (&[("pm-is-supported", "exit 1")], "disk"),
        (&[], "hybrid"),
    ];
    for (scripts, mode) in machines {
        let mut found = Vec::new();
        for program in programs() {
            let Some((ran, answer)) = suspend(&program, scripts, mode) else { return };
            let answer: Value = serde_json::from_str(&answer).unwrap();
            found.push((ran, answer));
        }
        let ours = &found[0];
        assert!(found.iter().all(|theirs| theirs == ours), "{mode}: {found:#?}");
        // A success has no answer: the first one is the ping's.
        let expected = ours.0.last().is_some_and(|last| !last.starts_with("pm-is"));
        assert_eq!(ours.1 == json!({"return": {}}), expected, "{mode}: {ours:?}");
    }
    let unsupported = suspend(AGENT, &[], "disk").unwrap().1;
    assert!(unsupported.contains("the requested suspend mode is not supported by the guest"));
}
