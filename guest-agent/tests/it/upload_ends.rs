//! Uploads that come to no good end leave the old file whole, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use rustix::event::{Timespec, poll};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Bed, Client, wait_for};
use crate::cell::{available, cell_or_skip};
use crate::uploads::{Upload, errno, names, start};

/// A mebibyte of zeros.
fn chunk() -> String {
    "A".repeat((1 << 20) / 3 * 4)
}

fn write(client: &mut Client, handle: i64, base64: &str) -> Result<Value, (String, String)> {
    client.extension("guest-file-write", &json!({"handle": handle, "buf-b64": base64}))
}

#[test]
fn closing_without_commit_and_killing_the_agent_leave_nothing() {
    let (bed, mut agent, dir) = start();
    let path = dir.join("f");
    fs::write(&path, "old").unwrap();
    let mut client = agent.connect();
    Upload::new(&mut client, &path).written().close();
    assert_eq!(names(&dir), ["f"]);
    Upload::new(&mut client, &path).written();
    agent.kill();
    assert_eq!(names(&dir), ["f"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let agent = bed.start();
    Upload::new(&mut agent.connect(), &path).written().commit(json!({})).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ABC");
}

#[test]
fn a_full_disk_is_named_and_the_old_file_stays_on_every_filesystem() {
    let cell = cell_or_skip!();
    let mut types = vec!["ext4"];
    types.extend(["xfs", "btrfs", "vfat"].into_iter().filter(|fs_type| available(fs_type)));
    for fs_type in &types {
        cell.mount(fs_type, &format!("/mnt/{fs_type}"));
    }
    cell.sh("mkdir $ROOT/mnt/tmpfs; mount -t tmpfs -o size=8M tmpfs $ROOT/mnt/tmpfs");
    types.push("tmpfs");
    let mut agent = cell.start(&[]);
    let mut client = agent.connect();
    let chunk = chunk();
    for fs_type in &types {
        let dir = format!("/mnt/{fs_type}/d");
        let outside = cell.path(&dir);
        cell.sh(&format!("mkdir $ROOT{dir}; printf old > $ROOT{dir}/f"));
        let path = std::path::PathBuf::from(format!("{dir}/f"));
        // Where it is not the write that meets the full disk, the commit does.
        let mut upload = Upload::new(&mut client, &path);
        let handle = upload.handle;
        let mut failed = None;
        drop(upload);
        for _ in 0..400 {
            if let Err(error) = write(&mut client, handle, &chunk) {
                failed = Some(error);
                break;
            }
        }
        let commit = json!({ "handle": handle });
        let failed =
            failed.unwrap_or_else(|| client.extension("x-guest-file-commit", &commit).unwrap_err());
        assert_eq!(failed.0, "ENOSPC", "{fs_type}: {failed:?}");
        assert_eq!(fs::read(outside.join("f")).unwrap(), b"old", "{fs_type}");
        client.get("guest-file-close", &commit.to_string());
        assert_eq!(names(&outside), ["f"], "{fs_type}");
        // There is room again.
        upload = Upload::new(&mut client, &path).written();
        upload.commit(json!({})).unwrap();
        assert_eq!(fs::read(outside.join("f")).unwrap(), b"ABC", "{fs_type}");
        let handle = Upload::new(&mut client, &path).handle;
        write(&mut client, handle, &chunk).unwrap();
    }
    // Killed in the middle, and nothing is left that takes up room.
    agent.kill();
    let agent = cell.start(&[]);
    for fs_type in &types {
        let dir = cell.path(&format!("/mnt/{fs_type}/d"));
        wait_for("the remains to go", || (names(&dir) == ["f"]).then_some(()));
        assert_eq!(fs::read(dir.join("f")).unwrap(), b"ABC", "{fs_type}");
        cell.sh(&format!("[ $(du -k $ROOT/mnt/{fs_type}/d | cut -f1) -lt 100 ]"));
    }
    drop(agent);
}

/// The moments between two steps of the agent cannot be told from outside, so it is killed a little
/// later each time.
#[test]
fn whenever_the_agent_is_killed_the_file_is_the_old_one_or_the_new_one() {
    let bed = Bed::new();
    let dir = bed.path("d");
    fs::create_dir(&dir).unwrap();
    let path = dir.join("f");
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..40_i64 {
        fs::write(&path, "old").unwrap();
        let mut agent = bed.start();
        let mut client = agent.connect();
        let handle = Upload::new(&mut client, &path).written().handle;
        client.send(
            json!({"execute": "x-guest-file-commit", "arguments": {"handle": handle}}).to_string(),
        );
        let wait = Timespec { tv_sec: 0, tv_nsec: n * n * 3000 };
        poll(&mut [], Some(&wait)).unwrap();
        agent.kill();
        let agent = bed.start();
        wait_for("the remains to go", || (names(&dir) == ["f"]).then_some(()));
        drop(agent);
        let content = fs::read_to_string(&path).unwrap();
        assert!(["old", "ABC"].contains(&&*content), "{content}");
        seen.insert(content);
    }
    println!("{seen:?}");
}

#[test]
fn remains_on_record_are_removed_at_the_start_and_at_the_end() {
    let bed = Bed::new();
    let dir = bed.path("d");
    fs::create_dir(&dir).unwrap();
    let remain = || {
        let path = dir.join(".f.qga-0011223344556677");
        fs::write(&path, "half").unwrap();
        let record = bed.path("state/qga.upload.0011223344556677");
        fs::write(record, path.to_str().unwrap()).unwrap();
    };
    remain();
    let mut agent = bed.start();
    wait_for("the remains to go", || names(&dir).is_empty().then_some(()));
    wait_for("the record to go", || (names(&bed.path("state")) == ["qga.state"]).then_some(()));
    remain();
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait_for_exit().code(), Some(0));
    assert!(names(&dir).is_empty());
    assert_eq!(names(&bed.path("state")), ["qga.state"]);
}

#[test]
fn who_may_not_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        qga_testing::unavailable("not root");
        return;
    }
    let bed = Bed::new();
    let open = |name: &str, mode| {
        fs::set_permissions(bed.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["open", "closed", "readable"] {
        fs::create_dir(bed.path(name)).unwrap();
        fs::write(bed.path(&format!("{name}/f")), "old").unwrap();
    }
    open(".", 0o777);
    open("state", 0o777);
    open("open", 0o777);
    open("closed", 0o700);
    open("readable", 0o755);
    let program = bed.path("agent");
    fs::copy(AGENT, &program).unwrap();
    let inner = bed.command(program.to_str().unwrap());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(inner.get_program()).args(inner.get_args()).stderr(Stdio::null());
    command.current_dir(bed.dir.path());
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    let mut refused = |command: &str, mut arguments: Value, path: &str| {
        arguments["path"] = json!(bed.path(path).to_str());
        client.extension(command, &arguments).unwrap_err()
    };
    let (errno_, text) = refused("x-guest-file-create", json!({}), "readable/f");
    let path = bed.path("readable/f");
    assert_eq!(errno_, "EACCES");
    assert_eq!(text, format!("failed to create '{}': Permission denied", path.display()));
    for (command, arguments, path) in [
        ("x-guest-file-create", json!({}), "readable/new"),
        ("x-guest-file-create", json!({}), "closed/f"),
        ("x-guest-file-stat", json!({}), "closed/f"),
        ("x-guest-file-list", json!({}), "closed"),
        ("x-guest-file-open", json!({}), "closed/f"),
        ("x-guest-file-open", json!({"write": true}), "readable/f"),
        ("x-guest-file-remove", json!({}), "readable/f"),
        ("x-guest-file-mkdir", json!({}), "readable/new"),
        ("x-guest-file-mkdir", json!({"parents": true}), "closed/a/b"),
    ] {
        assert_eq!(refused(command, arguments, path).0, "EACCES", "{command} {path}");
    }
    // Another's file can be replaced there, but not by one of the same owner.
    let path = bed.path("open/f");
    let mut upload = Upload::new(&mut client, &path).written();
    assert_eq!(errno(upload.commit(json!({}))), "EPERM");
    upload.commit(json!({"uid": 65534, "gid": 65534})).unwrap();
    Upload::new(&mut client, &bed.path("open/new")).written().commit(json!({})).unwrap();
    assert_eq!(names(&bed.path("open")), ["f", "new"]);
}

#[test]
fn links_of_others_in_a_directory_for_all_are_not_followed() {
    let protected = fs::read_to_string("/proc/sys/fs/protected_symlinks");
    if !rustix::process::geteuid().is_root() || protected.is_ok_and(|value| value.trim() != "1") {
        qga_testing::unavailable("not root, or links are not protected here");
        return;
    }
    let (bed, agent, dir) = start();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    let victim = bed.path("victim");
    fs::write(&victim, "old").unwrap();
    std::os::unix::fs::symlink(&victim, dir.join("f")).unwrap();
    std::os::unix::fs::lchown(dir.join("f"), Some(65534), Some(65534)).unwrap();
    let path = json!({"path": dir.join("f").to_str()});
    assert_eq!(errno(agent.connect().extension("x-guest-file-create", &path)), "EACCES");
}

#[test]
fn uploads_count_twice_among_the_open_files() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    for _ in 0..256 {
        Upload::new(&mut client, &dir.join("f"));
    }
    let path = json!({"path": dir.join("f").to_str()});
    let (errno, text) = client.extension("x-guest-file-create", &path).unwrap_err();
    assert_eq!(errno, "EMFILE");
    assert!(text.ends_with("512 files are open already (an upload counts twice)"), "{text}");
    client.error("guest-file-open", "{\"path\":\"/etc/passwd\"}");
    client.get("guest-file-close", "{\"handle\":1000}");
    client.get("guest-file-open", "{\"path\":\"/etc/passwd\"}");
    assert!(names(&dir).is_empty());
}
