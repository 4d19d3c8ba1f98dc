//! A filesystem whose freeze does not come back: an ext4 on a loop device whose file lies on a
//! filesystem that was frozen from outside.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bed::{Agent, Client, wait_for};
use crate::cell::{Cell, available, cell_or_skip};
use crate::lease::report;

/// `/mnt/a` and `/mnt/z` around `/mnt/stuck`, which has something to write but cannot.
fn prepare(cell: &Cell) {
    prepare_on("ext4", cell);
}

fn prepare_on(lower: &str, cell: &Cell) {
    cell.mount("ext4", "/mnt/a");
    cell.sh(&format!(
        "truncate -s 320M $OUTER/images/lower
         mkfs.{lower} -q $OUTER/images/lower
         mkdir $OUTER/lower $ROOT/mnt/stuck
         mount -o loop $OUTER/images/lower $OUTER/lower
         truncate -s 32M $OUTER/lower/upper
         mkfs.ext4 -q $OUTER/lower/upper
         mount -o loop $OUTER/lower/upper $ROOT/mnt/stuck"
    ));
    cell.mount("ext4", "/mnt/z");
    cell.sh("fsfreeze -f $OUTER/lower
             echo data > $ROOT/mnt/stuck/file");
}

/// Sends a freeze and waits until it hangs: from the latest mount on, `/mnt/z` is frozen then.
fn hang(agent: &Agent, client: &mut Client) {
    client.send("{'execute':'guest-fsfreeze-freeze'}");
    wait_until_it_hangs(agent);
}

fn wait_until_it_hangs(agent: &Agent) {
    wait_for("the freeze to hang", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap();
        tasks.flatten().find(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.contains("(fs:stuck) D")
        })
    });
}

fn status(client: &mut Client) -> String {
    client.get("guest-fsfreeze-status", "")
}

#[test]
fn a_thaw_ends_a_freeze_that_hangs() {
    let cell = cell_or_skip!();
    prepare(&cell);
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    hang(&agent, &mut client);
    let mut z = cell.blocked_writer("/mnt/z/f");

    let begun = Instant::now();
    client.send("{'execute':'guest-fsfreeze-thaw'}");
    z.wait_until_done();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let freeze = client.line();
    assert!(freeze.contains("\"desc\": \"stopped by thaw\""), "{freeze}");
    let thaw = client.line();
    assert!(thaw.contains("failed to thaw /mnt/stuck: busy in the kernel"), "{thaw}");
    assert_eq!(status(&mut client), "\"frozen\"");
    assert!(cell.path("/run/qga.state.isfrozen").exists());
    assert_eq!(report(&mut client)["stuck"], json!(["/mnt/stuck"]));
    cell.writer("/mnt/a/f").wait_until_done();
    assert_eq!(client.get("guest-ping", ""), "{}");

    cell.sh("fsfreeze -u $OUTER/lower");
    wait_for("the stuck one to thaw", || (status(&mut client) == "\"thawed\"").then_some(()));
    assert!(!cell.path("/run/qga.state.isfrozen").exists());
    cell.writer("/mnt/stuck/f").wait_until_done();
}

#[test]
fn a_sync_overtakes_a_freeze_that_hangs_and_a_new_client_can_thaw() {
    let cell = cell_or_skip!();
    prepare(&cell);
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    hang(&agent, &mut client);
    assert_eq!(client.call("guest-sync-delimited", "{\"id\":9}"), "<FF>{\"return\": 9}");
    assert_eq!(status(&mut client), "\"frozen\"");
    drop(client);

    let mut client = agent.connect();
    assert_eq!(status(&mut client), "\"frozen\"");
    let thaw = client.error("guest-fsfreeze-thaw", "");
    assert!(thaw.contains("failed to thaw /mnt/stuck: busy in the kernel"), "{thaw}");
    cell.sh("fsfreeze -u $OUTER/lower");
    wait_for("the stuck one to thaw", || (status(&mut client) == "\"thawed\"").then_some(()));
    cell.writer("/mnt/stuck/f").wait_until_done();
}

#[test]
fn a_thaw_and_a_sync_in_one_write_stop_a_freeze_that_hangs() {
    let cell = cell_or_skip!();
    prepare(&cell);
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    hang(&agent, &mut client);
    let mut z = cell.blocked_writer("/mnt/z/f");
    client.send("{'execute':'guest-fsfreeze-thaw'}{'execute':'guest-sync','arguments':{'id':3}}");
    assert_eq!(client.line(), "{\"return\": 3}");
    z.wait_until_done();
    cell.sh("fsfreeze -u $OUTER/lower");
    wait_for("the stuck one to thaw", || (status(&mut client) == "\"thawed\"").then_some(()));
}

#[test]
fn an_agent_killed_while_its_freeze_hangs_leaves_the_channel_to_the_next_one() {
    let cell = cell_or_skip!();
    prepare(&cell);
    let mut agent = cell.start(&[]);
    let mut client = agent.connect();
    hang(&agent, &mut client);
    let _ = agent.child.kill();
    // The thread in the kernel outlives the kill, but it does not hold the channel.
    assert_eq!(client.rest(), b"");

    let next = cell.start(&[]);
    let mut client = next.connect();
    assert_eq!(status(&mut client), "\"frozen\"");
    // Either its own FITHAW hangs behind that thread, or the thread has yet to come that far.
    let thaw = client.error("guest-fsfreeze-thaw", "");
    assert!(thaw.contains("busy in the kernel"), "{thaw}");
    cell.writer("/mnt/z/f").wait_until_done();
    assert_eq!(status(&mut client), "\"frozen\"");
    assert_eq!(report(&mut client)["stuck"], json!(["/mnt/stuck"]));
    cell.sh("fsfreeze -u $OUTER/lower");
    wait_for("the stuck one to thaw", || (status(&mut client) == "\"thawed\"").then_some(()));
    cell.writer("/mnt/stuck/f").wait_until_done();
    agent.kill();
}

#[test]
fn a_deadline_ends_a_freeze_that_hangs_and_the_report_is_there_all_the_while() {
    let cell = cell_or_skip!();
    prepare(&cell);
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let freeze = json!({"lease": "l", "deadline-ms": 2000}).to_string();
    client.send(format!("{{'execute':'x-guest-fsfreeze-freeze','arguments':{freeze}}}"));
    wait_until_it_hangs(&agent);
    let mut z = cell.blocked_writer("/mnt/z/f");
    // Another client: the freeze goes on, and its result is not lost.
    drop(client);
    let mut client = agent.connect();
    let now = report(&mut client);
    assert_eq!((&now["state"], &now["lease"]), (&json!("freezing"), &json!("l")));
    let results: Vec<_> = now["filesystems"].as_array().unwrap().iter().collect();
    assert_eq!(results[0]["freeze"], json!("frozen"));
    assert_eq!(results[1], &json!({"mountpoint": "/mnt/stuck", "freeze": "freezing"}));
    z.wait_until_done();
    wait_for("the deadline", || {
        let now = report(&mut client);
        (now["state"] == "frozen" && now["stuck"] == json!(["/mnt/stuck"])).then_some(())
    });
    assert_eq!(report(&mut client)["error"], json!("stopped by its deadline"));
    cell.writer("/mnt/a/f").wait_until_done();
    cell.sh("fsfreeze -u $OUTER/lower");
    wait_for("the stuck one to thaw", || (status(&mut client) == "\"thawed\"").then_some(()));
    cell.writer("/mnt/stuck/f").wait_until_done();
    assert_eq!(report(&mut client)["last-thaw"]["cause"], json!("deadline"));
}

#[test]
fn an_agent_killed_while_its_freeze_hangs_is_followed_by_one_that_keeps_the_deadline() {
    let cell = cell_or_skip!();
    prepare(&cell);
    let mut agent = cell.start(&[]);
    let mut client = agent.connect();
    let freeze = json!({"lease": "l", "deadline-ms": 1500}).to_string();
    client.send(format!("{{'execute':'x-guest-fsfreeze-freeze','arguments':{freeze}}}"));
    wait_until_it_hangs(&agent);
    let _ = agent.child.kill();
    assert_eq!(client.rest(), b"");
    let mut z = cell.blocked_writer("/mnt/z/f");
    let next = cell.start(&[]);
    let mut client = next.connect();
    let now = report(&mut client);
    assert_eq!((&now["lease"], &now["stuck"]), (&json!("l"), &json!(["/mnt/stuck"])));
    // Nobody asks for it.
    z.wait_until_done();
    cell.sh("fsfreeze -u $OUTER/lower");
    wait_for("the stuck one to thaw", || (status(&mut client) == "\"thawed\"").then_some(()));
    cell.writer("/mnt/stuck/f").wait_until_done();
    agent.kill();
}

/// FITRIM of a loop mount makes holes in its file. A frozen xfs holds that up; ext4 does not.
#[test]
fn a_trim_that_hangs_keeps_a_channel_for_no_longer_than_a_sync() {
    let cell = cell_or_skip!();
    if !available("xfs") {
        return;
    }
    prepare_on("xfs", &cell);
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    client.send("{'execute':'guest-fstrim'}");
    wait_for("the trim to hang", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap();
        tasks.flatten().find(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.contains("(fstrim) D")
        })
    });
    assert_eq!(client.call("guest-sync-delimited", "{\"id\":9}"), "<FF>{\"return\": 9}");
    // None of these may run while frozen.
    let handle = client.get("guest-file-open", "{\"path\":\"/run/f\",\"mode\":\"w\"}");
    let write = format!("{{\"handle\":{handle},\"buf-b64\":\"QUJD\"}}");
    assert!(client.get("guest-file-write", &write).contains("\"count\": 3"));
    assert!(client.get("guest-get-osinfo", "").contains("kernel-release"));
    assert!(client.get("guest-get-fsinfo", "").contains("/mnt/z"));
    // Nor a freeze: it freezes what was mounted latest, and then hangs for the same reason.
    client.send("{'execute':'guest-fsfreeze-freeze'}");
    wait_until_it_hangs(&agent);
    client.send("{'execute':'guest-fsfreeze-thaw'}");
    assert!(client.line().contains("stopped by thaw"));
    assert!(client.line().contains("failed to thaw /mnt/stuck: busy in the kernel"));
    cell.writer("/mnt/z/f").wait_until_done();
    cell.sh("fsfreeze -u $OUTER/lower");
    wait_for("the stuck one to thaw", || (status(&mut client) == "\"thawed\"").then_some(()));
}
