//! Freezes with a lease and a deadline, on real filesystems and the real clock.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::{Agent, Client, wait_for};
use crate::cell::{Cell, available, cell_or_skip};

const X_FREEZE: &str = "x-guest-fsfreeze-freeze";
const X_RENEW: &str = "x-guest-fsfreeze-renew";
const X_THAW: &str = "x-guest-fsfreeze-thaw";
const THAW: &str = "guest-fsfreeze-thaw";

pub(crate) fn report(client: &mut Client) -> Value {
    serde_json::from_str(&client.get("x-guest-fsfreeze-report", "")).unwrap()
}

pub(crate) fn freeze(client: &mut Client, lease: &str, deadline_ms: u64) -> Value {
    let arguments = json!({"lease": lease, "deadline-ms": deadline_ms}).to_string();
    serde_json::from_str(&client.get(X_FREEZE, &arguments)).unwrap()
}

pub(crate) fn wait_until_thawed(agent: &Agent) {
    wait_for("the thaw", || {
        let status = agent.connect().get("guest-fsfreeze-status", "");
        (status == "\"thawed\"").then_some(())
    });
}

fn two_filesystems(cell: &Cell) {
    cell.mount("ext4", "/mnt/a");
    cell.mount("ext4", "/mnt/b");
}

#[test]
fn a_freeze_thaws_by_itself_at_its_deadline() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let begun = Instant::now();
    let answer = freeze(&mut client, "backup", 400);
    assert_eq!((&answer["count"], &answer["generation"]), (&json!(1), &json!(1)));
    let expected = json!([{"mountpoint": "/mnt/a", "freeze": "frozen"}]);
    assert_eq!(answer["filesystems"], expected);
    let mut writer = cell.blocked_writer("/mnt/a/f");
    writer.wait_until_done();
    let held = begun.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(3)).contains(&held), "{held:?}");
    // One client at a time.
    drop(client);
    wait_until_thawed(&agent);
    let mut client = agent.connect();
    assert!(!cell.path("/run/qga.state.isfrozen").exists());
    let now = report(&mut client);
    assert_eq!((&now["state"], &now["last-thaw"]["cause"]), (&json!("thawed"), &json!("deadline")));
    let text = client.error(THAW, "");
    assert!(text.starts_with("filesystems were thawed automatically 0 s ago (deadline)"), "{text}");
    assert_eq!(client.get(THAW, ""), "0");
}

#[test]
fn a_renewed_freeze_stays_and_only_its_owner_or_a_stock_client_thaws_it() {
    let cell = cell_or_skip!();
    two_filesystems(&cell);
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    freeze(&mut client, "backup", 5_000);
    let renew = |client: &mut Client, lease: &str, ms: u64| {
        client.call(X_RENEW, &json!({"lease": lease, "deadline-ms": ms}).to_string())
    };
    assert!(renew(&mut client, "backup", 60_000).contains("\"generation\": 1"));
    let left = report(&mut client)["deadline-ms"].as_u64().unwrap();
    assert!((30_000..=60_000).contains(&left), "{left}");
    let text = "the freeze is owned by lease 'backup', not by 'other'";
    assert!(renew(&mut client, "other", 1).contains(text));
    assert_eq!(client.error(X_THAW, "{\"lease\":\"other\"}"), text);
    let text = "filesystems are frozen already, by lease 'backup'";
    assert_eq!(client.error(X_FREEZE, "{\"lease\":\"other\"}"), text);
    let mut writer = cell.blocked_writer("/mnt/a/f");
    let now = report(&mut client);
    assert_eq!((&now["state"], &now["lease"]), (&json!("frozen"), &json!("backup")));
    assert_eq!((&now["count"], &now["generation"]), (&json!(2), &json!(1)));
    let thaw: Value = serde_json::from_str(&client.get(X_THAW, "{\"lease\":\"backup\"}")).unwrap();
    assert_eq!(thaw["count"], json!(2));
    for filesystem in thaw["filesystems"].as_array().unwrap() {
        assert_eq!(filesystem["thaw"], json!("thawed"));
    }
    writer.wait_until_done();
    let text = client.error(X_THAW, "{\"lease\":\"backup\"}");
    assert_eq!(text, "filesystems were thawed 0 s ago (lease)");

    freeze(&mut client, "again", 60_000);
    assert_eq!(client.get(THAW, ""), "2");
    let last = report(&mut client)["last-thaw"].clone();
    assert_eq!((&last["cause"], &last["lease"]), (&json!("requested"), &json!("again")));
    assert_eq!(last["generation"], json!(2));
}

#[test]
fn arguments_are_checked() {
    let cell = cell_or_skip!();
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    for (command, arguments, text) in [
        (X_FREEZE, "{}", "Parameter 'lease' is missing"),
        (X_FREEZE, "{\"lease\":1}", "Invalid parameter type for 'lease', expected: string"),
        (
            X_FREEZE,
            "{\"lease\":\"\"}",
            "invalid lease: it has to have 1 to 128 bytes, without control characters",
        ),
        (
            X_FREEZE,
            "{\"lease\":\"x\",\"deadline-ms\":-1}",
            "value '-1' is invalid for argument deadline-ms",
        ),
        (X_RENEW, "{\"lease\":\"x\"}", "Parameter 'deadline-ms' is missing"),
        (X_RENEW, "{\"lease\":\"x\",\"deadline-ms\":5}", "nothing is frozen by lease 'x'"),
        (X_THAW, "{\"lease\":\"x\"}", "nothing is frozen by lease 'x'"),
        (X_THAW, "{\"lease\":\"x\",\"y\":1}", "Parameter 'y' is unexpected"),
        (
            X_FREEZE,
            "{\"lease\":\"x\",\"mountpoints\":[\"/nowhere\"]}",
            "failed to freeze /nowhere: No such file or directory",
        ),
    ] {
        assert_eq!(client.error(command, arguments), text, "{command} {arguments}");
    }
    // Without a filesystem to freeze there is no freeze, and no lease.
    assert_eq!(freeze(&mut client, "x", 0)["count"], json!(0));
    assert_eq!(client.get("guest-fsfreeze-status", ""), "\"thawed\"");
    let text = "nothing is frozen by lease 'x'";
    assert_eq!(client.error(X_THAW, "{\"lease\":\"x\"}"), text);
}

#[test]
fn the_next_agent_keeps_lease_generation_and_deadline() {
    let cell = cell_or_skip!();
    two_filesystems(&cell);
    let mut agent = cell.start(&[]);
    let first = freeze(&mut agent.connect(), "backup", 60_000);
    agent.kill();
    let mut agent = cell.start(&[]);
    let mut client = agent.connect();
    let now = report(&mut client);
    assert_eq!((&now["state"], &now["lease"]), (&json!("frozen"), &json!("backup")));
    assert_eq!((&now["generation"], &now["boot-id"]), (&json!(1), &first["boot-id"]));
    assert_ne!(now["agent-instance"], first["agent-instance"]);
    let left = now["deadline-ms"].as_u64().unwrap();
    assert!((30_000..60_000).contains(&left), "{left}");
    assert_eq!(now["filesystems"], first["filesystems"]);
    let renew = json!({"lease": "backup", "deadline-ms": 800}).to_string();
    client.get(X_RENEW, &renew);
    agent.kill();
    // The deadline passes with an agent or without.
    let agent = cell.start(&[]);
    wait_until_thawed(&agent);
    cell.writer("/mnt/a/f").wait_until_done();
    cell.writer("/mnt/b/f").wait_until_done();
    let text = agent.connect().error(X_THAW, "{\"lease\":\"backup\"}");
    assert!(text.starts_with("filesystems were thawed automatically"), "{text}");
    assert_eq!(freeze(&mut agent.connect(), "next", 60_000)["generation"], json!(2));
    assert_eq!(agent.connect().get(THAW, ""), "2");
}

#[test]
fn a_marker_of_another_boot_is_stale() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    let mut agent = cell.start(&[]);
    freeze(&mut agent.connect(), "backup", 0);
    agent.kill();
    // As if the machine had been started anew with a state directory that is kept.
    let path = cell.path("/run/qga.state.freeze");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["boot-id"] = json!("another");
    std::fs::write(&path, record.to_string()).unwrap();
    let agent = cell.start(&[]);
    wait_until_thawed(&agent);
    assert!(!cell.path("/run/qga.state.isfrozen").exists());
    let text = agent.connect().error(THAW, "");
    assert_eq!(text, "filesystems were thawed automatically 0 s ago (restart)");
}

#[test]
fn what_thaws_and_freezes_behind_the_agents_back_shows() {
    let cell = cell_or_skip!();
    let kinds: Vec<_> = ["ext4", "xfs", "btrfs"].into_iter().filter(|t| available(t)).collect();
    for kind in &kinds {
        cell.mount(kind, &format!("/mnt/{kind}"));
        cell.mount(kind, &format!("/mnt/torn-{kind}"));
        cell.sh(&format!("echo dirty > $ROOT/mnt/{kind}/f; echo dirty > $ROOT/mnt/torn-{kind}/f"));
    }
    let mut agent = cell.start(&[]);
    let counts = 2 * kinds.len();
    assert_eq!(freeze(&mut agent.connect(), "l", 0)["count"], json!(counts));
    let mut writers: Vec<_> =
        kinds.iter().map(|kind| cell.blocked_writer(&format!("/mnt/{kind}/g"))).collect();
    // What was counted at the freeze is known to the next agent.
    agent.kill();
    let agent = cell.start(&[]);
    for kind in &kinds {
        let at = format!("$ROOT/mnt/torn-{kind}");
        cell.sh(&format!("fsfreeze -u {at}; echo torn > {at}/f; fsfreeze -f {at}"));
    }
    let thaw = agent.connect().get(X_THAW, "{\"lease\":\"l\"}");
    let thaw: Value = serde_json::from_str(&thaw).unwrap();
    writers.iter_mut().for_each(crate::cell::Writer::wait_until_done);
    assert_eq!(thaw["count"], json!(counts));
    for one in thaw["filesystems"].as_array().unwrap() {
        let torn = one["mountpoint"].as_str().unwrap().contains("torn");
        let written = one["written-sectors"].as_u64();
        assert_eq!(one["thaw"], "thawed");
        assert_eq!(written.map(|sectors| sectors > 0), Some(torn), "{one}");
    }
}
