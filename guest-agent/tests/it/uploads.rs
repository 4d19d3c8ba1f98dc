//! Files that get their names when they are whole: `x-guest-file-create` and `-commit`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bed::{Agent, Bed, Client};

const CREATE: &str = "x-guest-file-create";
const COMMIT: &str = "x-guest-file-commit";

/// A file of a client that is not whole yet.
pub(crate) struct Upload<'c> {
    client: &'c mut Client,
    pub(crate) handle: i64,
    pub(crate) replaces: Value,
}

impl<'c> Upload<'c> {
    pub(crate) fn new(client: &'c mut Client, path: &Path) -> Self {
        let created = client.extension(CREATE, &json!({"path": path.to_str()})).unwrap();
        let handle = created["handle"].as_i64().unwrap();
        Self { client, handle, replaces: created["replaces"].clone() }
    }

    /// Writes `ABC`.
    pub(crate) fn written(self) -> Self {
        let written = self
            .client
            .extension("guest-file-write", &json!({"handle": self.handle, "buf-b64": "QUJD"}));
        assert_eq!(written.unwrap()["count"], 3);
        self
    }

    pub(crate) fn commit(&mut self, mut more: Value) -> Result<Value, (String, String)> {
        more["handle"] = json!(self.handle);
        self.client.extension(COMMIT, &more)
    }

    pub(crate) fn close(self) {
        let arguments = format!("{{\"handle\":{}}}", self.handle);
        self.client.get("guest-file-close", &arguments);
    }
}

/// A bed with a directory `d` for files, and an agent in it.
pub(crate) fn start() -> (Bed, Agent, PathBuf) {
    let bed = Bed::new();
    let dir = bed.path("d");
    fs::create_dir(&dir).unwrap();
    let agent = bed.start();
    (bed, agent, dir)
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn errno<T: std::fmt::Debug>(result: Result<T, (String, String)>) -> String {
    result.unwrap_err().0
}

#[test]
fn a_file_appears_whole_and_at_once() {
    let (_bed, agent, dir) = start();
    let path = dir.join("f");
    let mut client = agent.connect();
    let mut upload = Upload::new(&mut client, &path).written();
    assert_eq!(upload.replaces, Value::Null);
    assert!(names(&dir).is_empty());
    let stat = upload.commit(json!({})).unwrap();
    assert_eq!(names(&dir), ["f"]);
    assert_eq!(fs::read(&path).unwrap(), b"ABC");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(stat["kind"], "file");
    assert_eq!(stat["size"], 3);
    assert_eq!(stat["ino"], metadata.ino());
    assert_eq!(stat["mode"], 0o644);
    // The handle is closed.
    assert_eq!(errno(upload.commit(json!({}))), "EBADF");
}

#[test]
fn what_it_replaces_keeps_owner_and_mode_unless_they_are_given() {
    let (_bed, agent, dir) = start();
    let path = dir.join("f");
    let root = rustix::process::geteuid().is_root();
    let mut client = agent.connect();
    for (mode, more, expected) in [
        (0o640, json!({}), 0o640),
        // Set-user-id does not go over to another content by itself.
        (0o4755, json!({}), 0o755),
        (0o640, json!({"mode": 0o4711}), 0o4711),
        (0o640, json!({"mode": 0}), 0),
    ] {
        fs::write(&path, "old").unwrap();
        if root {
            chown(&path, Some(1234), Some(2345)).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let mut upload = Upload::new(&mut client, &path).written();
        assert_eq!(upload.replaces["size"], 3);
        assert_eq!(upload.replaces["mode"], mode);
        let stat = upload.commit(more.clone()).unwrap();
        assert_eq!(stat["mode"], expected, "{mode:o} {more}");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, expected);
        if root {
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 2345));
        }
        assert_eq!(names(&dir), ["f"]);
    }
    if root {
        let given = json!({"uid": 7, "gid": 8, "mode": 0o6750});
        let stat = Upload::new(&mut client, &path).commit(given).unwrap();
        assert_eq!([&stat["uid"], &stat["gid"], &stat["mode"]], [7, 8, 0o6750]);
    }
    for (argument, value) in [("mode", 0o10000), ("mode", -1), ("uid", -1), ("gid", 1_i64 << 32)] {
        let mut upload = Upload::new(&mut client, &path);
        let (errno, text) = upload.commit(json!({ argument: value })).unwrap_err();
        assert_eq!(errno, "EINVAL");
        assert_eq!(text, format!("value '{value}' is invalid for argument {argument}"));
        upload.close();
    }
}

#[test]
fn access_lists_stay_and_those_of_the_directory_do_not_come() {
    let (_bed, agent, dir) = start();
    // The kernel's form: a version, and entries of tag, permissions and number.
    let list_of = |named: u32, permissions: u16| {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, number) in [
            (0x01_u16, 6_u16, u32::MAX),
            (0x02, permissions, named),
            (0x04, 0, u32::MAX),
            (0x10, permissions, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(number.to_le_bytes());
        }
        list
    };
    let give = |path: &Path, name: &str, list: &[u8]| {
        rustix::fs::setxattr(path, name, list, rustix::fs::XattrFlags::empty())
    };
    let (with, without) = (dir.join("with"), dir.join("without"));
    fs::write(&with, "old").unwrap();
    fs::write(&without, "old").unwrap();
    fs::set_permissions(&without, Permissions::from_mode(0o660)).unwrap();
    if give(&with, "system.posix_acl_access", &list_of(1234, 6)).is_err() {
        qga_testing::unavailable("no access lists here");
        return;
    }
    give(&dir, "system.posix_acl_default", &list_of(4321, 7)).unwrap();
    let list = |path: &Path| {
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut value[..]);
        length.map(|length| value[..length].to_vec())
    };
    let before = list(&with).unwrap();
    let mut client = agent.connect();
    for path in [&with, &without] {
        Upload::new(&mut client, path).written().commit(json!({})).unwrap();
    }
    assert_eq!(list(&with).unwrap(), before);
    assert_eq!(list(&without), Err(rustix::io::Errno::NODATA));
    assert_eq!(fs::metadata(&without).unwrap().mode() & 0o777, 0o660);
}

#[test]
fn what_is_expected_must_be_there() {
    let (_bed, agent, dir) = start();
    let path = dir.join("f");
    let mut client = agent.connect();
    let absent = json!({"expect": {"absent": true}});
    let mut upload = Upload::new(&mut client, &path).written();
    fs::write(&path, "first").unwrap();
    assert_eq!(errno(upload.commit(absent.clone())), "EEXIST");
    let metadata = fs::metadata(&path).unwrap();
    let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    let same = json!({"ino": metadata.ino(), "size": 5, "mtime-ns": mtime_ns});
    for (member, wrong) in
        [("ino", json!(metadata.ino() + 1)), ("size", json!(4)), ("mtime-ns", json!(mtime_ns - 1))]
    {
        let mut expected = same.clone();
        expected[member] = wrong;
        let (errno, text) = upload.commit(json!({ "expect": expected })).unwrap_err();
        assert_eq!(errno, "ESTALE");
        let path = path.display();
        assert_eq!(
            text,
            format!("failed to commit '{path}': what is there is not what was expected")
        );
    }
    let both = json!({"expect": {"absent": true, "size": 5}});
    assert_eq!(errno(upload.commit(both)), "EINVAL");
    assert_eq!(fs::read(&path).unwrap(), b"first");
    // None of these has cost the upload.
    upload.commit(json!({ "expect": same })).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ABC");
    let mut upload = Upload::new(&mut client, &path).written();
    fs::remove_file(&path).unwrap();
    assert_eq!(errno(upload.commit(json!({ "expect": same }))), "ENOENT");
    upload.commit(absent).unwrap();
    assert_eq!(names(&dir), ["f"]);
}

#[test]
fn of_two_that_want_to_be_the_first_one_is() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    for round in 0..100 {
        let path = dir.join(format!("f{round}"));
        let mut upload = Upload::new(&mut client, &path).written();
        let (ours, theirs) = std::thread::scope(|scope| {
            let other = scope.spawn(|| fs::File::create_new(&path).is_ok());
            (upload.commit(json!({"expect": {"absent": true}})), other.join().unwrap())
        });
        assert_ne!(ours.is_ok(), theirs, "{round}: {ours:?}");
        let content = fs::read(&path).unwrap();
        assert_eq!(content, if theirs { &b""[..] } else { b"ABC" });
    }
}

#[test]
fn a_link_stays_and_what_it_leads_to_is_replaced() {
    let (bed, agent, dir) = start();
    fs::create_dir(bed.path("real")).unwrap();
    let real = bed.path("real/file");
    fs::write(&real, "old").unwrap();
    let link = dir.join("link");
    symlink("../real/file", &link).unwrap();
    symlink(&link, dir.join("second")).unwrap();
    let mut client = agent.connect();
    let mut upload = Upload::new(&mut client, &dir.join("second")).written();
    assert_eq!(upload.replaces["ino"], fs::metadata(&real).unwrap().ino());
    upload.commit(json!({})).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&real).unwrap(), b"ABC");
    assert_eq!(names(&bed.path("real")), ["file"]);

    symlink("nowhere", dir.join("dangling")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    symlink("..", dir.join("up")).unwrap();
    for (name, errno, text) in [
        ("dangling", "ENOENT", "it is a link that leads nowhere"),
        ("loop", "ELOOP", "Too many levels of symbolic links"),
        ("up", "EISDIR", "it is a directory"),
    ] {
        let path = dir.join(name);
        let failed = client.extension(CREATE, &json!({"path": path.to_str()})).unwrap_err();
        assert_eq!(failed.0, errno);
        assert_eq!(failed.1, format!("failed to create '{}': {text}", path.display()));
    }
}

#[test]
fn only_regular_files_are_replaced() {
    let (_bed, agent, dir) = start();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = dir.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut client = agent.connect();
    let mut create = |path: &str| errno(client.extension(CREATE, &json!({ "path": path })));
    assert_eq!(create(fifo.to_str().unwrap()), "EINVAL");
    assert_eq!(create("/dev/null"), "EINVAL");
    assert_eq!(create(dir.to_str().unwrap()), "EISDIR");
    assert_eq!(create("/"), "EINVAL");
    assert_eq!(create(&format!("{}/new/", dir.display())), "EISDIR");
    assert_eq!(create(&format!("{}/..", dir.display())), "EINVAL");
    assert_eq!(create(&format!("{}/none/f", dir.display())), "ENOENT");
    assert_eq!(create("/etc/passwd/f"), "ENOTDIR");
    // One that took the place meanwhile.
    let path = dir.join("f");
    let mut upload = Upload::new(&mut client, &path).written();
    fs::create_dir(&path).unwrap();
    assert_eq!(errno(upload.commit(json!({}))), "EISDIR");
    fs::remove_dir(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(errno(upload.commit(json!({}))), "EINVAL");
    assert_eq!(names(&dir), ["f", "fifo"]);
}

#[test]
fn an_upload_can_be_read_back_and_looked_at() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    let handle = Upload::new(&mut client, &dir.join("f")).written().handle;
    let arguments = json!({ "handle": handle });
    let stat = client.extension("x-guest-file-stat", &arguments).unwrap();
    assert_eq!([&stat["size"], &stat["nlink"]], [3, 0]);
    client.get("guest-file-seek", &format!("{{\"handle\":{handle},\"offset\":0,\"whence\":0}}"));
    let read = client.extension("guest-file-read", &arguments).unwrap();
    assert_eq!(read["buf-b64"], "QUJD");
    // What was opened otherwise is no upload.
    let path = json!({"path": "/etc/passwd"});
    let other = client.extension("x-guest-file-open", &path).unwrap()["handle"].clone();
    let (errno, text) = client.extension(COMMIT, &json!({ "handle": other })).unwrap_err();
    assert_eq!(errno, "EINVAL");
    assert_eq!(text, format!("handle '{other}' is none of x-guest-file-create"));
}

#[test]
fn an_upload_is_written_to_disk_beside_everything_else_before_its_commit() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    let mut upload = Upload::new(&mut client, &dir.join("f")).written();
    let arguments = json!({"handle": upload.handle});
    let begun = std::time::Instant::now();
    loop {
        let said = upload.client.extension("x-guest-file-sync", &arguments).unwrap();
        if said == json!({"done": true}) {
            break;
        }
        assert_eq!(said, json!({"done": false}));
        assert!(begun.elapsed().as_secs() < 20);
    }
    assert!(names(&dir).is_empty(), "it has no name yet");
    upload.commit(json!({})).unwrap();
    assert_eq!(fs::read(dir.join("f")).unwrap(), b"ABC");
    let (errno, _) = client.extension("x-guest-file-sync", &arguments).unwrap_err();
    assert_eq!(errno, "EBADF");
    let other = client.extension("x-guest-file-open", &json!({"path": dir.join("f").to_str()}));
    let arguments = json!({"handle": other.unwrap()["handle"]});
    let (errno, text) = client.extension("x-guest-file-sync", &arguments).unwrap_err();
    assert!(errno == "EINVAL" && text.ends_with("is none of x-guest-file-create"), "{text}");
}
