//! Looking at files, listing, opening, renaming, removing, making directories.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Bed, Client};
use crate::uploads::{errno, names, start};

const STAT: &str = "x-guest-file-stat";
const LIST: &str = "x-guest-file-list";
const OPEN: &str = "x-guest-file-open";
const RENAME: &str = "x-guest-file-rename";
const REMOVE: &str = "x-guest-file-remove";
const MKDIR: &str = "x-guest-file-mkdir";

fn at(path: &Path) -> Value {
    json!({"path": path.to_str().unwrap()})
}

fn with(path: &Path, member: &str, value: Value) -> Value {
    let mut arguments = at(path);
    arguments[member] = value;
    arguments
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn a_stat_is_what_the_kernel_says() {
    let (_bed, agent, dir) = start();
    let path = dir.join("f");
    fs::write(&path, "hello").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o2751)).unwrap();
    symlink("f", dir.join("link")).unwrap();
    fifo(&dir.join("fifo"));
    let mut client = agent.connect();
    let metadata = fs::metadata(&path).unwrap();
    let expected = json!({
        "kind": "file",
        "size": 5,
        "mode": metadata.mode() & 0o7777,
        "uid": metadata.uid(),
        "gid": metadata.gid(),
        "nlink": 1,
        "ino": metadata.ino(),
        "dev": metadata.dev(),
        "mtime-ns": metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        "ctime-ns": metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
    });
    assert_eq!(client.extension(STAT, &at(&path)).unwrap(), expected);
    assert_eq!(client.extension(STAT, &at(&dir.join("link"))).unwrap(), expected);
    let opened = client.extension(OPEN, &at(&dir.join("link"))).unwrap();
    assert_eq!(opened["stat"], expected);
    let handle = json!({"handle": opened["handle"]});
    assert_eq!(client.extension(STAT, &handle).unwrap(), expected);
    let link = with(&dir.join("link"), "follow", json!(false));
    let link = client.extension(STAT, &link).unwrap();
    assert_eq!([&link["kind"], &link["target"]], ["symlink", "f"]);
    for (path, kind) in [
        (dir.as_path(), "directory"),
        (&dir.join("fifo"), "fifo"),
        (Path::new("/dev/null"), "char-device"),
        (&_bed.path("socket"), "socket"),
    ] {
        assert_eq!(client.extension(STAT, &at(path)).unwrap()["kind"], kind);
    }
    let none = dir.join("none");
    let (errno_, text) = client.extension(STAT, &at(&none)).unwrap_err();
    assert_eq!(errno_, "ENOENT");
    assert_eq!(text, format!("failed to look at '{}': No such file or directory", none.display()));
    assert_eq!(errno(client.extension(STAT, &at(&path.join("x")))), "ENOTDIR");
    assert_eq!(errno(client.extension(STAT, &at(Path::new(&"x".repeat(300))))), "ENAMETOOLONG");
    for (arguments, text) in [
        (json!({}), "one of path and path-b64 is needed"),
        (json!({"path": "/", "path-b64": "Lw=="}), "one of path and path-b64 is needed"),
        (json!({"path": "/", "handle": 1000}), "one of path, path-b64 and handle is needed"),
        (json!({"path": ""}), "path is empty or contains a NUL"),
        (json!({"path": "/\u{0}"}), "path is empty or contains a NUL"),
        (json!({"path-b64": "?"}), "Base64 data contains invalid characters"),
        (json!({"path": 1}), "Invalid parameter type for 'path', expected: string"),
        (json!({"path": "/", "x": 1}), "Parameter 'x' is unexpected"),
    ] {
        let failed = client.extension(STAT, &arguments).unwrap_err();
        assert_eq!(failed, ("EINVAL".to_owned(), text.to_owned()), "{arguments}");
    }
    assert_eq!(errno(client.extension(STAT, &json!({"handle": 7}))), "EBADF");
}

#[test]
fn opening_never_waits_and_never_opens_a_directory() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    let pipe = dir.join("fifo");
    fifo(&pipe);
    let write = |path: &Path| with(path, "write", json!(true));
    assert_eq!(errno(client.extension(OPEN, &write(&pipe))), "ENXIO");
    let opened = client.extension(OPEN, &at(&pipe)).unwrap();
    assert_eq!(opened["stat"]["kind"], "fifo");
    client.extension(OPEN, &write(&pipe)).unwrap();
    // An empty pipe that has a writer.
    let read = client.extension("guest-file-read", &json!({"handle": opened["handle"]}));
    let (errno_, text) = read.unwrap_err();
    assert_eq!(errno_, "EAGAIN");
    assert_eq!(text, "failed to read file: Resource temporarily unavailable");
    let seek = json!({"handle": opened["handle"], "offset": 0, "whence": 0});
    assert_eq!(errno(client.extension("guest-file-seek", &seek)), "ESPIPE");

    let (errno_, text) = client.extension(OPEN, &at(&dir)).unwrap_err();
    assert_eq!(errno_, "EISDIR");
    assert!(text.ends_with("it is a directory; x-guest-file-list lists it"), "{text}");
    assert_eq!(errno(client.extension(OPEN, &write(&dir))), "EISDIR");
    assert_eq!(errno(client.extension(OPEN, &at(&dir.join("none")))), "ENOENT");
    assert_eq!(errno(client.extension(OPEN, &write(&dir.join("none")))), "ENOENT");
    let null = client.extension(OPEN, &at(Path::new("/dev/null"))).unwrap();
    assert_eq!(null["stat"]["kind"], "char-device");

    // For writing at any place: what is there stays.
    let path = dir.join("f");
    fs::write(&path, "hello").unwrap();
    let handle = client.extension(OPEN, &write(&path)).unwrap()["handle"].clone();
    let seek = json!({"handle": handle, "offset": 2, "whence": 0});
    client.extension("guest-file-seek", &seek).unwrap();
    let bytes = json!({"handle": handle, "buf-b64": "QUI="});
    client.extension("guest-file-write", &bytes).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"heABo");
    let read = client.extension("guest-file-read", &json!({"handle": handle}));
    assert_eq!(read.unwrap_err().0, "EBADF");
    let full = client.extension(OPEN, &write(Path::new("/dev/full"))).unwrap()["handle"].clone();
    let bytes = json!({"handle": full, "buf-b64": "QUI="});
    let (errno_, text) = client.extension("guest-file-write", &bytes).unwrap_err();
    assert_eq!(errno_, "ENOSPC");
    assert_eq!(text, "failed to write to file: No space left on device");
}

/// All entries, by pages of `limit`.
fn pages(client: &mut Client, dir: &Path, limit: usize) -> Vec<Vec<Value>> {
    let mut arguments = with(dir, "limit", json!(limit));
    let mut pages = Vec::new();
    loop {
        let page = client.extension(LIST, &arguments).unwrap();
        pages.push(page["entries"].as_array().unwrap().clone());
        match page.get("next") {
            Some(next) => arguments["after-b64"] = next.clone(),
            None => return pages,
        }
    }
}

#[test]
fn a_list_is_sorted_by_bytes_and_comes_in_pages() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    assert_eq!(client.extension(LIST, &at(&dir)).unwrap(), json!({"entries": []}));
    fs::write(dir.join("b"), "12").unwrap();
    fs::create_dir(dir.join("B")).unwrap();
    symlink("/nowhere", dir.join("ä")).unwrap();
    fifo(&dir.join(".hidden"));
    fs::write(dir.join(std::ffi::OsStr::from_bytes(b"b\xffd")), "").unwrap();
    let page = client.extension(LIST, &at(&dir)).unwrap();
    assert!(page.get("next").is_none(), "{page}");
    let entries = page["entries"].as_array().unwrap();
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap(), entry["stat"]["kind"].as_str().unwrap()))
        .collect();
    let expected = [
        (".hidden", "fifo"),
        ("B", "directory"),
        ("b", "file"),
        ("b\u{fffd}d", "file"),
        ("ä", "symlink"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(entries[2]["stat"], client.extension(STAT, &at(&dir.join("b"))).unwrap());
    assert_eq!(entries[4]["stat"]["target"], "/nowhere");
    assert_eq!(entries[3]["name-b64"], "Yv9k");
    assert!(entries[2].get("name-b64").is_none());
    for limit in 1..=6 {
        let pages = pages(&mut client, &dir, limit);
        assert_eq!(pages.len(), 5_usize.div_ceil(limit));
        assert_eq!(&pages.concat(), entries);
    }
    for limit in [0, -1, 1001] {
        let (errno_, text) =
            client.extension(LIST, &with(&dir, "limit", json!(limit))).unwrap_err();
        assert_eq!(errno_, "EINVAL");
        assert!(text.ends_with("the limit is not between 1 and 1000"), "{text}");
    }
    assert_eq!(errno(client.extension(LIST, &at(&dir.join("b")))), "ENOTDIR");
    assert_eq!(errno(client.extension(LIST, &at(&dir.join("none")))), "ENOENT");

    // A name that is no text goes everywhere as bytes.
    let bytes = base64(dir.join(std::ffi::OsStr::from_bytes(b"b\xffd")).as_os_str().as_bytes());
    let stat = client.extension(STAT, &json!({"path-b64": bytes})).unwrap();
    assert_eq!(stat, entries[3]["stat"]);
    let to = base64(dir.join(std::ffi::OsStr::from_bytes(b"\xfe")).as_os_str().as_bytes());
    client.extension(RENAME, &json!({"path-b64": bytes, "to-b64": to})).unwrap();
    client.extension(REMOVE, &json!({"path-b64": to})).unwrap();
    assert_eq!(pages(&mut client, &dir, 1000).concat().len(), 4);
}

fn base64(bytes: &[u8]) -> Value {
    serde_json::to_value(qga_proto::base64::Base64(bytes.to_vec())).unwrap()
}

#[test]
fn a_large_directory_costs_no_memory_and_long_names_end_a_page() {
    const FILES: usize = 100_000;
    let (bed, agent, dir) = start();
    // Names of one file are the cheapest.
    fs::write(bed.path("file"), "").unwrap();
    let mut link = bed.path("file");
    for number in 0..FILES {
        let path = dir.join(format!("entry {number:06}"));
        if fs::hard_link(&link, &path).is_err() {
            // It has as many as it can have.
            fs::write(&path, "").unwrap();
            link = path;
        }
    }
    let mut client = agent.connect();
    let mut arguments = at(&dir);
    for first in [0, 1000, 2000] {
        let page = client.extension(LIST, &arguments).unwrap();
        let entries = page["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 1000);
        for (offset, entry) in entries.iter().enumerate() {
            assert_eq!(entry["name"], format!("entry {:06}", first + offset));
            assert_eq!(entry["stat"]["kind"], "file");
        }
        arguments["after-b64"] = page["next"].clone();
    }
    arguments["after-b64"] = base64(b"entry 099000");
    let page = client.extension(LIST, &arguments).unwrap();
    assert_eq!(page["entries"].as_array().unwrap().len(), 999);
    assert!(page.get("next").is_none());
    let status = fs::read_to_string(format!("/proc/{}/status", agent.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // The program of the tests is large itself; all names would be some 10 MiB more.
    assert!(peak < 16 << 10, "{peak} KiB");

    let dir = bed.path("links");
    fs::create_dir(&dir).unwrap();
    for number in 0..200 {
        symlink("x".repeat(4000), dir.join(format!("{number:03}"))).unwrap();
    }
    let pages = pages(&mut client, &dir, 1000);
    assert!(pages.len() == 4, "{}", pages.len());
    assert_eq!(pages.concat().len(), 200);
}

#[test]
fn entries_may_come_and_go_while_they_are_listed() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    let done = std::sync::atomic::AtomicBool::new(false);
    fs::write(dir.join("m"), "").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let path = dir.join(format!("{}{}", ["a", "z"][number as usize % 2], number % 50));
                fs::write(&path, "").unwrap();
                fs::remove_file(&path).unwrap();
            }
        });
        for _ in 0..300 {
            let page = client.extension(LIST, &at(&dir)).unwrap();
            let entries = page["entries"].as_array().unwrap();
            assert!(entries.iter().any(|entry| entry["name"] == "m"), "{page}");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_rename_replaces_only_what_it_is_told_to() {
    let (bed, agent, dir) = start();
    let mut client = agent.connect();
    let [a, b] = ["a", "b"].map(|name| dir.join(name));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    let mut rename = |from: &Path, to: &Path, replace: bool| {
        let arguments = json!({"path": from.to_str(), "to": to.to_str(), "replace": replace});
        client.extension(RENAME, &arguments)
    };
    let (errno_, text) = rename(&a, &b, false).unwrap_err();
    assert_eq!(errno_, "EEXIST");
    let expected = format!("failed to rename '{}' to '{}': File exists", a.display(), b.display());
    assert_eq!(text, expected);
    rename(&a, &b, true).unwrap();
    assert_eq!(names(&dir), ["b"]);
    assert_eq!(fs::read(&b).unwrap(), b"a");
    rename(&b, &a, false).unwrap();
    assert_eq!(errno(rename(&b, &a, true)), "ENOENT");
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/f"), "").unwrap();
    assert_eq!(errno(rename(&dir.join("sub"), &dir.join("sub/in"), false)), "EINVAL");
    assert_eq!(errno(rename(&a, &dir.join("sub"), true)), "EISDIR");
    assert_eq!(errno(rename(&dir.join("sub"), &a, true)), "ENOTDIR");
    assert_eq!(errno(rename(&a, &dir.join("c/"), false)), "ENOTDIR");
    assert_eq!(errno(rename(&a, &dir.join("none/c"), false)), "ENOENT");
    rename(&dir.join("sub/"), &dir.join("moved/"), false).unwrap();
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/f"), "").unwrap();
    assert_eq!(errno(rename(&dir.join("moved"), &dir.join("full"), true)), "ENOTEMPTY");
    // A link is renamed, not what it leads to.
    symlink("moved", dir.join("link")).unwrap();
    rename(&dir.join("link"), &dir.join("other"), false).unwrap();
    assert_eq!(fs::read_link(dir.join("other")).unwrap(), Path::new("moved"));
    if Path::new("/dev/shm").is_dir() {
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        if elsewhere.path().metadata().unwrap().dev() != bed.dir.path().metadata().unwrap().dev() {
            assert_eq!(errno(rename(&a, &elsewhere.path().join("a"), true)), "EXDEV");
        }
    }
}

#[test]
fn files_links_and_empty_directories_are_removed() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    let mut remove = |path: &Path| client.extension(REMOVE, &at(path));
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/f"), "").unwrap();
    symlink("sub", dir.join("link")).unwrap();
    let (errno_, text) = remove(&dir.join("sub")).unwrap_err();
    assert_eq!(errno_, "ENOTEMPTY");
    let expected = format!("failed to remove '{}': Directory not empty", dir.join("sub").display());
    assert_eq!(text, expected);
    assert_eq!(errno(remove(&dir.join("link/"))), "ENOTDIR");
    assert_eq!(errno(remove(&dir.join("sub/f/"))), "ENOTDIR");
    remove(&dir.join("link")).unwrap();
    remove(&dir.join("sub/f")).unwrap();
    remove(&dir.join("sub/")).unwrap();
    assert!(names(&dir).is_empty());
    assert_eq!(errno(remove(&dir.join("sub"))), "ENOENT");
    assert_eq!(errno(remove(&dir.join("."))), "EINVAL");
    assert_eq!(errno(remove(Path::new("/"))), "EINVAL");
    let mount = errno(remove(Path::new("/proc")));
    assert!(["EBUSY", "EACCES"].contains(&&*mount), "{mount}");

    let path = dir.join("f");
    fs::write(&path, "abc").unwrap();
    let expect = |expected: Value| with(&path, "expect", expected);
    assert_eq!(errno(client.extension(REMOVE, &expect(json!({"size": 4})))), "ESTALE");
    assert_eq!(errno(client.extension(REMOVE, &expect(json!({"absent": true})))), "EEXIST");
    let ino = fs::metadata(&path).unwrap().ino();
    client.extension(REMOVE, &expect(json!({"size": 3, "ino": ino}))).unwrap();
    assert_eq!(errno(client.extension(REMOVE, &expect(json!({"ino": ino})))), "ENOENT");
}

#[test]
fn directories_are_made_with_those_above() {
    let (_bed, agent, dir) = start();
    let mut client = agent.connect();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    client.extension(MKDIR, &at(&dir.join("a"))).unwrap();
    assert_eq!(mode(&dir.join("a")), 0o755);
    let (errno_, text) = client.extension(MKDIR, &at(&dir.join("a"))).unwrap_err();
    assert_eq!(errno_, "EEXIST");
    let expected = format!("failed to make directory '{}': File exists", dir.join("a").display());
    assert_eq!(text, expected);
    client.extension(MKDIR, &with(&dir.join("b/"), "mode", json!(0o1777))).unwrap();
    assert_eq!(mode(&dir.join("b")), 0o1777);
    fs::set_permissions(dir.join("a"), fs::Permissions::from_mode(0o2755)).unwrap();
    client.extension(MKDIR, &with(&dir.join("a/c"), "mode", json!(0o700))).unwrap();
    assert_eq!(mode(&dir.join("a/c")), 0o2700);
    assert_eq!(errno(client.extension(MKDIR, &at(&dir.join("x/y")))), "ENOENT");

    let mut parents = |path: &Path| {
        client.extension(MKDIR, &json!({"path": path.to_str(), "parents": true, "mode": 0o700}))
    };
    parents(&dir.join("x/y//./z/")).unwrap();
    assert_eq!(mode(&dir.join("x/y")), 0o755);
    assert_eq!(mode(&dir.join("x/y/z")), 0o700);
    for there in [dir.join("x/y"), dir.join("x/new/../y/w"), dir.join("."), "/".into()] {
        parents(&there).unwrap();
    }
    assert_eq!(mode(&dir.join("x/y")), 0o755);
    assert_eq!(names(&dir.join("x")), ["new", "y"]);
    fs::write(dir.join("f"), "").unwrap();
    assert_eq!(errno(parents(&dir.join("f"))), "EEXIST");
    assert_eq!(errno(parents(&dir.join("f/g/h"))), "ENOTDIR");
    assert_eq!(errno(client.extension(MKDIR, &with(&dir, "mode", json!(-1)))), "EINVAL");
}

fn start_with(bed: &Bed, more: &[&str]) -> Agent {
    let mut command: Command = bed.command(AGENT);
    command.args(more);
    Agent::spawn(&mut command, &bed.path("socket"))
}

#[test]
fn what_is_blocked_for_qemu_ga_is_blocked() {
    let disabled = |client: &mut Client, command: &str, arguments: &str, named: &str| {
        let expected = format!(
            "{{\"error\": {{\"class\": \"CommandNotFound\", \"desc\": \"Command {named} has been \
             disabled: the command is not allowed\"}}}}"
        );
        assert_eq!(client.call(command, arguments), expected, "{command}");
    };
    let all = ["stat", "list", "open", "create", "commit", "rename", "remove", "mkdir"];
    let bed = Bed::new();
    let agent = start_with(&bed, &["-b", "guest-file-open"]);
    let mut client = agent.connect();
    for name in all {
        let command = format!("x-guest-file-{name}");
        disabled(&mut client, &command, "{\"path\":\"/etc/passwd\"}", &command);
    }
    drop(agent);
    let agent = start_with(&bed, &["-b", "guest-file-write"]);
    let mut client = agent.connect();
    for name in ["create", "commit", "rename", "remove", "mkdir"] {
        let command = format!("x-guest-file-{name}");
        disabled(&mut client, &command, "", &command);
    }
    let write = "{\"path\":\"/dev/null\",\"write\":true}";
    disabled(&mut client, OPEN, write, "guest-file-write");
    client.get(OPEN, "{\"path\":\"/dev/null\",\"write\":false}");
    drop(agent);
    // Frozen.
    fs::write(bed.path("state/qga.state.isfrozen"), "").unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    for name in all {
        let command = format!("x-guest-file-{name}");
        disabled(&mut client, &command, "{\"path\":\"/etc/passwd\"}", &command);
    }
}
