//! Kinds of mounts, and mounts that come and go while filesystems are frozen.

use serde_json::{Value, json};

use crate::cell::{available, cell_or_skip};
use crate::lease::{freeze, report};

const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";

fn results(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["filesystems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(&one["mountpoint"]), text(&one["freeze"])))
        .collect()
}

#[test]
fn each_kind_has_its_result() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.sh("mkdir $ROOT/mnt/bind $ROOT/mnt/tmpfs $ROOT/mnt/ro
             mount --bind $ROOT/mnt/a $ROOT/mnt/bind
             mount -t tmpfs tmpfs $ROOT/mnt/tmpfs
             truncate -s 32M $OUTER/images/ro
             mkfs.ext4 -q $OUTER/images/ro
             mount -o loop,ro $OUTER/images/ro $ROOT/mnt/ro");
    // A filesystem in a file on one that is frozen after it.
    cell.mount("ext4", "/mnt/lower");
    cell.sh("truncate -s 8M $ROOT/mnt/lower/image
             mkfs.ext4 -q $ROOT/mnt/lower/image
             mkdir $ROOT/mnt/upper
             mount -o loop $ROOT/mnt/lower/image $ROOT/mnt/upper
             echo dirty > $ROOT/mnt/upper/file");
    let mut expected = vec![("/mnt/a", "frozen"), ("/mnt/ro", "frozen"), ("/mnt/lower", "frozen")];
    expected.push(("/mnt/upper", "frozen"));
    let mut frozen = 4;
    if available("vfat") {
        cell.mount("vfat", "/mnt/vfat");
        expected.push(("/mnt/vfat", "unsupported"));
    }
    for fs_type in ["xfs", "btrfs"] {
        if available(fs_type) {
            let at = if fs_type == "xfs" { "/mnt/xfs" } else { "/mnt/btrfs" };
            cell.mount(fs_type, at);
            expected.push((at, "frozen"));
            frozen += 1;
        }
    }
    cell.mount("ext4", "/mnt/others");
    cell.sh("fsfreeze -f $ROOT/mnt/others");
    expected.push(("/mnt/others", "already-frozen"));

    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let answer = freeze(&mut client, "l", 0);
    expected.reverse();
    let expected: Vec<_> =
        expected.into_iter().map(|(at, result)| (at.to_owned(), result.to_owned())).collect();
    assert_eq!(results(&answer), expected);
    assert_eq!(answer["count"], json!(frozen));
    for one in answer["filesystems"].as_array().unwrap() {
        assert_eq!(one["read-only"] == true, one["mountpoint"] == "/mnt/ro", "{one}");
    }
    let mut writers: Vec<_> = ["/mnt/a/f", "/mnt/bind/g", "/mnt/upper/f", "/mnt/lower/f"]
        .map(|path| cell.blocked_writer(path))
        .into();
    cell.writer("/mnt/tmpfs/f").wait_until_done();
    assert_eq!(client.get(THAW, ""), (frozen + 1).to_string());
    writers.iter_mut().for_each(crate::cell::Writer::wait_until_done);
    let now = report(&mut client);
    for one in now["filesystems"].as_array().unwrap() {
        let expected = if one["freeze"] == "unsupported" { "not-frozen" } else { "thawed" };
        assert_eq!(one["thaw"], json!(expected), "{one}");
    }
}

#[test]
fn a_mount_made_after_the_freeze_is_nothing_to_it() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    assert_eq!(client.get(FREEZE, ""), "1");
    cell.mount("ext4", "/mnt/later");
    cell.writer("/mnt/later/f").wait_until_done();
    assert_eq!(client.get(THAW, ""), "1");
    cell.writer("/mnt/a/f").wait_until_done();
}

#[test]
fn one_unmounted_lazily_or_covered_meanwhile_is_thawed_all_the_same() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.mount("ext4", "/mnt/b");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    assert_eq!(client.get(FREEZE, ""), "2");
    let mut writer = cell.blocked_writer("/mnt/a/f");
    cell.sh("umount -l $ROOT/mnt/a
             mount -t tmpfs cover $ROOT/mnt/b");
    assert_eq!(client.get(THAW, ""), "2");
    writer.wait_until_done();
    // It is free again: nothing holds the image any more.
    cell.sh("umount $ROOT/mnt/b
             mount -o loop $OUTER/images/_mnt_a $ROOT/mnt/a
             [ -s $ROOT/mnt/a/f ]");
    cell.writer("/mnt/b/f").wait_until_done();
}

#[test]
fn the_next_agent_thaws_what_was_unmounted_lazily_or_covered_too() {
    let cell = cell_or_skip!();
    let mut types = vec!["ext4"];
    types.extend(["xfs", "btrfs"].into_iter().filter(|fs_type| available(fs_type)));
    for fs_type in &types {
        cell.mount(fs_type, &format!("/mnt/{fs_type}"));
    }
    cell.mount("ext4", "/mnt/covered");
    cell.mount("ext4", "/mnt/left");
    let frozen = types.len() + 2;
    let mut agent = cell.start(&[]);
    let answer = freeze(&mut agent.connect(), "l", 0);
    assert_eq!(answer["count"], json!(frozen));
    let mut writers = Vec::new();
    for fs_type in &types {
        writers.push(cell.blocked_writer(&format!("/mnt/{fs_type}/f")));
        cell.sh(&format!("umount -l $ROOT/mnt/{fs_type}"));
    }
    writers.push(cell.blocked_writer("/mnt/covered/f"));
    cell.sh("mount -t tmpfs cover $ROOT/mnt/covered");
    agent.kill();
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    assert_eq!(client.get(THAW, ""), frozen.to_string());
    writers.iter_mut().for_each(crate::cell::Writer::wait_until_done);
    let now = report(&mut client);
    let all = now["filesystems"].as_array().unwrap();
    assert!(all.iter().all(|one| one["thaw"] == "thawed"), "{now}");
    // Nothing of it is left mounted.
    cell.sh("umount $ROOT/mnt/covered; umount $ROOT/mnt/covered; umount $ROOT/mnt/left");
    for fs_type in &types {
        cell.sh(&format!("mount -o loop $OUTER/images/_mnt_{fs_type} $ROOT/mnt/{fs_type}"));
    }
}

#[test]
fn what_something_else_covers_is_frozen_all_the_same() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.sh("mkdir $ROOT/mnt/bind
             mount --bind $ROOT/mnt/a $ROOT/mnt/bind
             mount -t tmpfs cover $ROOT/mnt/a");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    assert_eq!(client.get(FREEZE, ""), "1");
    let mut writer = cell.blocked_writer("/mnt/bind/f");
    cell.writer("/mnt/a/f").wait_until_done();
    assert_eq!(client.get(THAW, ""), "1");
    writer.wait_until_done();
}

#[test]
fn no_descriptor_and_no_thread_is_left_behind() {
    let cell = cell_or_skip!();
    for at in ["/mnt/a", "/mnt/b"] {
        cell.mount("ext4", at);
    }
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{}/{what}", agent.child.id())).unwrap().count()
    };
    assert_eq!(client.get(FREEZE, ""), "2");
    assert_eq!(client.get(THAW, ""), "2");
    let before = (count("fd"), count("task"));
    for _ in 0..20 {
        assert_eq!(client.get(FREEZE, ""), "2");
        assert_eq!(client.get(THAW, ""), "2");
        assert_eq!(client.get(THAW, ""), "0");
    }
    crate::bed::wait_for("the threads to end", || (count("task") <= before.1).then_some(()));
    assert_eq!(count("fd"), before.0);
}
