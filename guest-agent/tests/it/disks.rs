//! Filesystems and disks as clients see them, side by side with qemu-ga.

use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Bed, Client, wait_for};
use crate::cell::{Cell, available, cell_or_skip};
use crate::interop::{installed_qemu_ga, qemu_ga};

fn get(client: &mut Client, command: &str, arguments: &str) -> Value {
    serde_json::from_str(&client.get(command, arguments)).unwrap()
}

/// Takes members away that change by themselves, or that 7.2 does not know.
fn without(mut list: Value, members: &[&str]) -> Value {
    for entry in list.as_array_mut().unwrap() {
        for member in members {
            entry.as_object_mut().unwrap().remove(*member);
        }
    }
    list
}

/// Holds both agents' answers against each other. Other tests attach and detach disks meanwhile,
/// so they need not agree at once.
fn agree(ask: impl Fn(&mut Client) -> Value) {
    let Some(qemu_ga) = qemu_ga() else { return };
    let agents = [AGENT, qemu_ga.to_str().unwrap()].map(|program| {
        let bed = Bed::new();
        let agent = Agent::spawn(&mut bed.command(program), &bed.path("socket"));
        (bed, agent)
    });
    let mut tries = 0;
    loop {
        let [ours, theirs] = agents.each_ref().map(|(_, agent)| ask(&mut agent.connect()));
        assert_ne!(ours, json!([]));
        tries += 1;
        if ours == theirs || tries == 10 {
            return assert_eq!(ours, theirs);
        }
    }
}

#[test]
fn the_machines_filesystems_are_those_that_qemu_ga_sees() {
    let changing = ["used-bytes", "total-bytes-privileged"];
    agree(|client| without(get(client, "guest-get-fsinfo", ""), &changing));
}

#[test]
fn the_machines_disks_are_those_that_qemu_ga_sees() {
    agree(|client| {
        let mut disks = get(client, "guest-get-disks", "");
        // Its order is that of a hash.
        disks.as_array_mut().unwrap().sort_by_key(|disk| disk["name"].to_string());
        // Where udev does not run, only the kernel knows the device mapper's names.
        without(disks, &["alias"])
    });
}

#[test]
fn the_machines_statistics_have_the_same_counters() {
    agree(|client| {
        let mut devices = get(client, "guest-get-diskstats", "");
        for device in devices.as_array_mut().unwrap() {
            let counters = device["stats"].as_object().unwrap();
            let mut names: Vec<_> = counters.keys().cloned().collect();
            names.sort_unstable();
            device["stats"] = names.into();
        }
        devices
    });
}

/// A cell in which both agents can run.
fn furnish(cell: &Cell) {
    if let Some(qemu_ga) = installed_qemu_ga() {
        cell.sh(&format!(
            "cp {0} \"$ROOT/qemu-ga\"
             for file in $(ldd {0} | grep -o '/[^ ]*'); do
                 mkdir -p \"$ROOT$(dirname $file)\"; cp -L $file \"$ROOT$file\"
             done",
            qemu_ga.display()
        ));
    }
}

#[test]
fn filesystems_come_latest_first_and_are_trimmed() {
    let cell = cell_or_skip!();
    furnish(&cell);
    let types: Vec<_> =
        ["ext4", "xfs", "btrfs"].into_iter().filter(|fs_type| available(fs_type)).collect();
    for fs_type in &types {
        cell.mount(fs_type, &format!("/mnt/{fs_type}"));
    }
    cell.sh("mkdir \"$ROOT/mnt/a b\"; mount --bind \"$ROOT/mnt/ext4\" \"$ROOT/mnt/a b\"");
    let paths: Vec<_> = types.iter().rev().map(|fs_type| format!("/mnt/{fs_type}")).collect();
    let agent = cell.start(&[]);
    let mut client = agent.connect();

    let info = get(&mut client, "guest-get-fsinfo", "");
    let seen: Vec<_> = info.as_array().unwrap().iter().map(|fs| &fs["mountpoint"]).collect();
    assert_eq!(seen, paths.iter().collect::<Vec<_>>(), "each filesystem once");
    for fs in info.as_array().unwrap() {
        assert!(fs["name"].as_str().unwrap().starts_with("loop"), "{fs}");
        assert_eq!(fs["disk"], json!([]), "{fs}");
        let bytes = |name: &str| fs[name].as_u64().unwrap();
        assert!(bytes("used-bytes") < bytes("total-bytes"), "{fs}");
        assert!(bytes("total-bytes") <= bytes("total-bytes-privileged"), "{fs}");
    }

    let trimmed = get(&mut client, "guest-fstrim", "");
    let trimmed = trimmed["paths"].as_array().unwrap();
    let seen: Vec<_> = trimmed.iter().map(|fs| &fs["path"]).collect();
    assert_eq!(seen, paths.iter().collect::<Vec<_>>());
    for fs in trimmed {
        assert!(fs["trimmed"].as_i64().unwrap() > 0 || fs["path"] == "/mnt/btrfs", "{fs}");
        assert_eq!(fs.get("error"), None);
    }
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", agent.child.id())).unwrap().count();
    let before = descriptors();
    for _ in 0..20 {
        for command in ["guest-get-fsinfo", "guest-get-disks", "guest-fstrim"] {
            get(&mut client, command, "");
        }
    }
    wait_for("all to be closed", || (descriptors() == before).then_some(()));

    // Whatever a filesystem makes of a number that is out of all bounds, it says it by itself.
    let refused = get(&mut client, "guest-fstrim", "{\"minimum\":-1}");
    let refused = &refused["paths"].as_array().unwrap()[types.len() - 1];
    assert_eq!(refused["error"], "failed to trim: Invalid argument");

    if installed_qemu_ga().is_some() {
        drop(agent);
        let ask = |agent: Agent| {
            let mut client = agent.connect();
            let info = get(&mut client, "guest-get-fsinfo", "");
            let info = without(info, &["total-bytes-privileged"]);
            let minimum = "{\"minimum\":4611686018427387904}";
            [info, get(&mut client, "guest-fstrim", minimum)]
        };
        // 7.2 lists the filesystem of a bind mount twice.
        cell.sh("umount \"$ROOT/mnt/a b\"");
        let ours = ask(cell.start(&[]));
        let theirs = ask(cell.start_program("/qemu-ga", &[]));
        assert_eq!(ours, theirs);
    }
}
