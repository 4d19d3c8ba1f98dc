//! Nothing grows: memory and descriptors over many commands of all kinds.

use std::fs;

use crate::bed::{Agent, Bed, Client};

/// Of 21 commands each.
const ROUNDS: usize = 1000;
/// By how much resident memory may differ between the first and the last quarter.
const SLACK_KIB: usize = 256;

/// A round's work: sessions, files, queries, errors, garbage, a program now and then.
fn round(client: &mut Client, number: usize) {
    let handle = client.get("guest-file-open", "{\"path\":\"flat\",\"mode\":\"w+\"}");
    let on = |more: &str| format!("{{\"handle\":{handle}{more}}}");
    client.get("guest-file-write", &on(",\"buf-b64\":\"aGVsbG8gd29ybGQ=\""));
    client.get("guest-file-seek", &on(",\"offset\":0,\"whence\":\"set\""));
    client.get("guest-file-read", &on(",\"count\":65536"));
    client.get("guest-file-flush", &on(""));
    client.get("guest-file-close", &on(""));
    for query in [
        "guest-ping",
        "guest-info",
        "guest-get-time",
        "guest-get-vcpus",
        "guest-get-host-name",
        "guest-get-osinfo",
        "guest-get-timezone",
        "guest-get-users",
        "guest-fsfreeze-status",
        "guest-network-get-interfaces",
    ] {
        client.get(query, "");
    }
    assert_eq!(client.get("guest-sync", &format!("{{\"id\":{number}}}")), number.to_string());
    assert!(client.call("guest-foo", "").contains("CommandNotFound"));
    client.error("guest-file-read", "{\"handle\":1}");
    client.error("guest-file-open", "{\"path\":\"/nonexistent/x\"}");
    assert!(client.ask("{\"execute\":\"guest-pi\u{1}").contains("JSON parse error"));
    if number.is_multiple_of(20) {
        program(client);
    }
}

fn program(client: &mut Client) {
    let started = client.get("guest-exec", "{\"path\":\"/bin/true\",\"capture-output\":true}");
    crate::bed::wait_for("the program's end", || {
        let status = client.get("guest-exec-status", &started);
        status.contains("\"exited\": true").then_some(())
    });
}

/// KiB of resident memory, and the number of descriptors.
fn footprint(agent: &Agent) -> (usize, usize) {
    let place = format!("/proc/{}", agent.child.id());
    let status = fs::read_to_string(format!("{place}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    (resident, fs::read_dir(format!("{place}/fd")).unwrap().count())
}

#[test]
fn memory_and_descriptors_are_flat_over_twenty_thousand_commands() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let mut quarters = [(0, 0); 4];
    for (index, quarter) in quarters.iter_mut().enumerate() {
        for number in 0..ROUNDS / 4 {
            round(&mut client, index * ROUNDS + number);
        }
        *quarter = footprint(&agent);
    }
    let [first, .., last] = quarters;
    assert_eq!(last.1, first.1, "descriptors: {quarters:?}");
    assert!(last.0 <= first.0 + SLACK_KIB, "resident KiB: {quarters:?}");
}
