//! Files on a filesystem that somebody froze behind the agent's back.

use crate::bed::Client;
use crate::cell::{Cell, cell_or_skip};

const WRITE: &str = "{'execute':'guest-file-write','arguments':{'handle':1000,'buf-b64':'QUJD'}}";

/// An agent's client whose write hangs.
fn hang(cell: &Cell, client: &mut Client) {
    let open = client.get("guest-file-open", "{\"path\":\"/mnt/a/f\",\"mode\":\"w\"}");
    assert_eq!(open, "1000");
    cell.sh("fsfreeze -f $ROOT/mnt/a");
    client.send(WRITE);
}

#[test]
fn a_write_that_hangs_blocks_neither_sync_nor_ping_nor_thaw() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.mount("ext4", "/mnt/b");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    hang(&cell, &mut client);
    // A sync overtakes it.
    assert_eq!(client.call("guest-sync-delimited", "{\"id\":7}"), "<FF>{\"return\": 7}");
    assert_eq!(client.get("guest-ping", ""), "{}");
    assert!(client.get("x-guest-fsfreeze-report", "").contains("\"state\": \"thawed\""));
    drop(client);

    // A thaw ends it: it thaws what others froze, too.
    let mut client = agent.connect();
    assert_eq!(client.get("guest-fsfreeze-thaw", ""), "1");
    assert_eq!(client.get("guest-file-seek", "{\"handle\":1000,\"offset\":0,\"whence\":1}"), {
        "{\"position\": 3, \"eof\": false}"
    });
}

#[test]
fn an_upload_that_hangs_blocks_nothing_else_either() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let created = client.get("x-guest-file-create", "{\"path\":\"/mnt/a/f\"}");
    assert_eq!(created, "{\"handle\": 1000}");
    cell.sh("fsfreeze -f $ROOT/mnt/a");
    client.send("{'execute':'x-guest-file-commit','arguments':{'handle':1000}}");
    assert_eq!(client.call("guest-sync-delimited", "{\"id\":7}"), "<FF>{\"return\": 7}");
    assert_eq!(client.get("guest-ping", ""), "{}");
    assert!(!cell.path("/mnt/a/f").exists());
    assert_eq!(client.get("guest-fsfreeze-thaw", ""), "1");
    // It went on where it hung, though nobody waits for it any more.
    crate::bed::wait_for("the file", || cell.path("/mnt/a/f").exists().then_some(()));
}

#[test]
fn an_agent_killed_while_its_write_hangs_leaves_the_channel_to_the_next_one() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    let mut agent = cell.start(&[]);
    let mut client = agent.connect();
    hang(&cell, &mut client);
    crate::bed::wait_for("the write to hang", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap();
        tasks.flatten().find(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.contains("(file) D")
        })
    });
    let _ = agent.child.kill();
    // The thread in the kernel outlives the kill, but it does not hold the channel.
    assert_eq!(client.rest(), b"");
    let next = cell.start(&[]);
    assert_eq!(next.connect().get("guest-fsfreeze-thaw", ""), "1");
    agent.kill();
}
