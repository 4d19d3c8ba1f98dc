//! `qga-gateway cp -r` out of a guest that lists what no honest one would: nothing is written beside the
//! directory that was named, and it comes to an end.

use std::path::{Path, PathBuf};

use qga_proto::command::COMMANDS;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::agent::{Agent, Quirk};
use super::client::Target;
use super::gateway::{BOUND, Gateway};

fn stat(kind: &str) -> Value {
    json!({"kind": kind, "size": 5, "mode": 0o644, "uid": 0, "gid": 0, "nlink": 1, "ino": 7, "dev": 1,
           "mtime-ns": 1, "ctime-ns": 1})
}

fn entry(name: &str, kind: &str) -> Value {
    json!({"name": name, "stat": stat(kind)})
}

/// `qga-agent` whose lists are these, one after the other and the last for ever; every path is a
/// directory for who asks, and a file for who opens it.
fn listing(lists: impl IntoIterator<Item = Value>) -> Agent {
    let commands: Vec<_> = COMMANDS
        .iter()
        .map(|info| json!({"name": info.name, "enabled": true, "success-response": true}))
        .collect();
    let info = json!({"version": "11.1.3", "supported_commands": commands});
    Agent::default()
        .with("guest-info", Quirk::Value(info))
        .with("x-guest-file-stat", Quirk::Value(stat("directory")))
        .with("x-guest-file-list", Quirk::values(lists))
        .with("x-guest-file-open", Quirk::Value(json!({"handle": 1, "stat": stat("file")})))
        .with(
            "guest-file-read",
            Quirk::Value(json!({"count": 5, "buf-b64": "ZXZpbAo=", "eof": true})),
        )
}

/// What comes of a copy into the directory `a/to`, and all that there is beside and below `a` then.
async fn copied(lists: impl IntoIterator<Item = Value>) -> (Option<i32>, String, Vec<String>) {
    let gateway = Gateway::with(listing(lists)).await;
    gateway.known().await;
    let Target::Unix(socket) = &gateway.unix else { unreachable!("it is bound to one") };
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("a/to");
    std::fs::create_dir_all(&to).unwrap();
    let mut copy = Command::new(env!("CARGO_BIN_EXE_qga-gateway"));
    copy.args(["cp", "-rp", "--max-entries", "300", "--socket"]).arg(socket);
    copy.arg("vm:/dir").arg(&to).kill_on_drop(true).env_remove("QGA_GATEWAY_TOKEN_FILE");
    let done = timeout(2 * BOUND, copy.output()).await.expect("in time").unwrap();
    let mut there = Vec::new();
    walk(place.path(), place.path(), &mut there);
    there.sort();
    (done.status.code(), String::from_utf8(done.stderr).unwrap(), there)
}

fn walk(top: &Path, dir: &Path, there: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        there.push(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned());
        if path.symlink_metadata().unwrap().is_dir() {
            walk(top, &path, there);
        }
    }
}

#[tokio::test]
async fn a_name_that_is_none_ends_the_copy() {
    let outside = tempfile::tempdir().unwrap();
    let absolute = outside.path().join("evil").display().to_string();
    let bytes = |b64: &str| json!({"name": "x", "name-b64": b64, "stat": stat("file")});
    let bad = [
        entry("../evil", "file"),
        entry("../../evil", "directory"),
        entry("..", "directory"),
        entry(".", "directory"),
        entry("", "file"),
        entry("sub/evil", "file"),
        entry(&absolute, "file"),
        entry("evil\0", "file"),
        // "../evil", "/", "a\0"
        bytes("Li4vZXZpbA=="),
        bytes("Lw=="),
        bytes("YQA="),
    ];
    for bad in bad {
        let list = json!({"entries": [entry("good", "file"), bad, entry("later", "file")]});
        let (code, told, there) = copied([list]).await;
        assert_eq!(code, Some(1), "{bad}: {told}");
        assert!(told.contains("not honest"), "{bad}: {told}");
        assert_eq!(there, ["a", "a/to", "a/to/dir", "a/to/dir/good"], "{bad}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn one_name_for_many_things_stays_in_its_place() {
    let link = |name: &str| {
        let mut link = entry(name, "symlink");
        link["stat"]["target"] = "/".into();
        link
    };
    let top = json!({"entries": [
        link("a"), entry("a", "directory"), link("a"), entry("a", "file"), entry("b", "file"),
        entry("b", "directory"), entry("c", "socket"), entry("d", "something-new"), {"name": "gone"},
    ]});
    let below = json!({"entries": [entry("evil", "file")]});
    let (code, told, there) = copied([top, below]).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("2 files in 2 directories; 4 left out, 3 could not be copied"), "{told}");
    assert_eq!(there, ["a", "a/to", "a/to/dir", "a/to/dir/a", "a/to/dir/a/evil", "a/to/dir/b"]);
}

#[tokio::test]
async fn lists_without_an_end_end() {
    let empty = json!({"entries": [], "next": "YQ=="});
    let same = json!({"entries": [entry("a", "file")], "next": "YQ=="});
    for list in [empty, same] {
        let (code, told, there) = copied([list]).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("more than 300 files and directories"), "{told}");
        assert!(there.len() <= 4, "{there:?}");
    }
    let (code, told, there) = copied([json!({"entries": [entry("d", "directory")]})]).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("more than 128 directories within each other"), "{told}");
    assert_eq!(there.len(), 2 + 128);
}
