//! Files as streams, with both real agents on this machine: what is no file, disks that are full,
//! files that somebody else changes, and any part of any file. No VM is needed for that, and neither
//! agent is ever told to freeze.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use qga_e2e::until;
use qga_testing::{missing, stock_agent};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::processes::Here;

const SOON: Duration = Duration::from_secs(30);

/// What the gateway moves with one command, and so where things could go wrong.
const PART: usize = 96 << 10;

fn ours() -> Option<Here> {
    Here::start("")
}

fn stock() -> Option<Here> {
    let Some(agent) = stock_agent() else {
        missing("no qemu-ga");
        return None;
    };
    Here::with(agent, "")
}

/// An answer of curl.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    fn problem(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("{}: {e}: {}", self.status, String::from_utf8_lossy(&self.body))
        })
    }
}

fn content(path: &Path) -> String {
    format!("/vms/vm/files/content?path={}", path.to_str().unwrap())
}

fn ask(here: &Here, arguments: &[&str], path: &str) -> Answer {
    let all = [&["-w", "%{stderr}%{http_code}"], arguments].concat();
    let output = here.curl(&all, path);
    let status = String::from_utf8_lossy(&output.stderr);
    let status = status.get(status.len().saturating_sub(3)..).unwrap_or_default();
    Answer { status: status.parse().unwrap_or(0), body: output.stdout }
}

fn get(here: &Here, path: &Path) -> Answer {
    ask(here, &[], &content(path))
}

fn put(here: &Here, body: &Path, path: &str) -> Answer {
    ask(here, &["-T", body.to_str().unwrap()], path)
}

/// The files of this process's agent that are open, as the kernel has them.
fn open_below(here: &Here, dir: &Path) -> usize {
    let of = format!("/proc/{}/task", here.agent_pid());
    let tasks = fs::read_dir(of).unwrap().flatten();
    // The thread for files has descriptors of its own.
    let fds =
        tasks.filter_map(|task| fs::read_dir(task.path().join("fd")).ok()).flatten().flatten();
    let below =
        |path: std::path::PathBuf| path.starts_with(dir) && !path.starts_with(dir.join("agent"));
    fds.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|path| below(path.clone())).count()
}

fn all_closed(here: &Here, dir: &Path) {
    until("all handles to be closed", SOON, || Ok((open_below(here, dir) == 0).then_some(())))
        .unwrap();
}

#[test]
fn what_is_no_file_to_ours() {
    let Some(here) = ours() else { return };
    let dir = places(&here);
    for (name, code) in [
        ("pipe", "not_a_file"),
        ("socket", "not_a_file"),
        ("directory", "is_a_directory"),
        ("missing", "file_not_found"),
    ] {
        let problem = get(&here, &dir.join(name)).problem();
        assert_eq!(problem["code"], code, "{name}: {problem}");
    }
    for (name, code) in
        [("pipe", "not_a_file"), ("socket", "not_a_file"), ("directory", "is_a_directory")]
    {
        let whole = content(&dir.join(name));
        for there in [whole.clone(), whole + "&in_place=true"] {
            let answer = put(&here, &dir.join("file"), &there);
            let problem = answer.problem();
            assert_eq!(
                (answer.status, &problem["code"]),
                (409, &code.into()),
                "{there}: {problem}"
            );
        }
    }
    // With somebody who reads it can be opened, and has no place to write to all the same.
    let reader = fs::File::options().read(true).write(true).open(dir.join("pipe")).unwrap();
    let there = content(&dir.join("pipe")) + "&in_place=true";
    let problem = put(&here, &dir.join("file"), &there).problem();
    assert_eq!(problem["code"], "not_a_file", "{problem}");
    drop(reader);
    // The bytes of one that never ends are taken until there is nobody who wants them.
    devices(&here);
    let full = put(&here, &dir.join("file"), &(content(Path::new("/dev/full")) + "&in_place=true"));
    assert_eq!((full.status, &full.problem()["code"]), (507, &"no_space".into()));
    all_closed(&here, &dir);
    let left: Vec<_> = fs::read_dir(&dir).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 4, "nothing is left behind: {left:?}");
}

#[test]
fn what_is_no_file_to_a_stock_agent() {
    let Some(here) = stock() else { return };
    let dir = places(&here);
    let pipe = get(&here, &dir.join("pipe")).problem();
    assert_eq!(pipe["code"], "not_a_file", "{pipe}");
    for name in ["socket", "directory", "missing"] {
        let problem = get(&here, &dir.join(name)).problem();
        assert_eq!(problem["code"], "agent_error", "{name}: {problem}");
        let there = if name == "missing" { dir.join("missing/x") } else { dir.join(name) };
        let answer = put(&here, &dir.join("file"), &content(&there));
        assert_eq!(answer.problem()["code"], "agent_error", "{name}");
    }
    devices(&here);
    let full = put(&here, &dir.join("file"), &content(Path::new("/dev/full"))).problem();
    // It took the bytes into its buffer, and noticed at the flush.
    assert_eq!((&full["code"], &full["written"]), (&"agent_error".into(), &Value::Null), "{full}");
    all_closed(&here, &dir);
}

/// A directory with one of each kind.
fn places(here: &Here) -> std::path::PathBuf {
    let dir = here.dir.path().join("places");
    fs::create_dir_all(dir.join("directory")).unwrap();
    fs::write(dir.join("file"), b"content").unwrap();
    mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    drop(UnixListener::bind(dir.join("socket")).unwrap());
    dir
}

fn devices(here: &Here) {
    let null = get(here, Path::new("/dev/null"));
    assert_eq!((null.status, null.body.len()), (200, 0));
    let status = get(here, Path::new("/proc/self/status"));
    assert!(status.status == 200 && status.body.starts_with(b"Name:"), "a size that lies");
    let mut stream = UnixStream::connect(here.gateway.socket()).unwrap();
    write!(stream, "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", content(Path::new("/dev/zero")))
        .unwrap();
    let mut read = vec![0; 4 << 20];
    stream.read_exact(&mut read).unwrap();
    assert!(read.starts_with(b"HTTP/1.1 200 "));
    drop(stream);
    until("it to be closed", SOON, || {
        Ok((open_below(here, Path::new("/dev/zero")) == 0).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_file_that_somebody_else_writes_meanwhile_stays_theirs() {
    let Some(here) = ours() else { return };
    let dir = here.dir.path().join("files");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("f");
    let data = noise(5 * PART + 3);
    for condition in ["if-match", "if-none-match"] {
        let _ = fs::remove_file(&file);
        let mut value = "*".to_owned();
        if condition == "if-match" {
            fs::write(&file, b"old").unwrap();
            let show = format!("/vms/vm/files?path={}", file.to_str().unwrap());
            let shown = here.gateway.rest().get(&show).unwrap().expect(200).unwrap();
            value = format!("\"{}\"", shown["etag"].as_str().unwrap());
        }
        let mut stream = UnixStream::connect(here.gateway.socket()).unwrap();
        write!(
            stream,
            "PUT {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{condition}: {value}\r\n\
             content-length: {}\r\n\r\n",
            content(&file),
            data.len()
        )
        .unwrap();
        stream.write_all(&data[..3 * PART]).unwrap();
        until("it to begin", SOON, || Ok((open_below(&here, &dir) > 0).then_some(()))).unwrap();
        fs::write(&file, b"somebody else's, and newer").unwrap();
        stream.write_all(&data[3 * PART..]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 412 "), "{condition}: {answer}");
        assert!(answer.contains("precondition_failed"), "{answer}");
        assert_eq!(fs::read(&file).unwrap(), b"somebody else's, and newer", "{condition}");
        all_closed(&here, &dir);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left behind");
    }
}

#[test]
fn what_a_killed_gateway_had_open_is_closed_by_the_next() {
    let Some(mut here) = ours() else { return };
    let dir = here.dir.path().join("files");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("f");
    // More than lies on the way to somebody who reads nothing.
    fs::write(&file, noise(64 << 20)).unwrap();
    let begin = |request: String| {
        let mut stream = UnixStream::connect(here.gateway.socket()).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nhost: localhost\r\n").unwrap();
        stream
    };
    let mut down = begin(format!("GET {}", content(&file)));
    write!(down, "\r\n").unwrap();
    let mut up = begin(format!("PUT {}", content(&dir.join("g"))));
    write!(up, "content-length: 1000000\r\n\r\n").unwrap();
    up.write_all(&noise(3 * PART)).unwrap();
    let list = here.dir.path().join("state/handles");
    until("both to be kept", SOON, || {
        let kept = fs::read_to_string(&list).unwrap_or_default();
        Ok((kept.matches("process").count() >= 2).then_some(()))
    })
    .unwrap();
    here.gateway.kill();
    assert!(open_below(&here, &dir) >= 2, "nobody has told the agent");
    here.gateway.start_again().unwrap();
    here.ready();
    all_closed(&here, &dir);
    // Nothing is left for the one after it.
    here.gateway.kill();
    here.gateway.start_again().unwrap();
    here.ready();
    assert_eq!(get(&here, &file).body.len(), 64 << 20);
    let told = here.gateway.log().matches("of the gateway before this one").count();
    assert_eq!(told, 2, "{}", here.gateway.log());
}

#[test]
fn any_part_of_any_file_goes_both_ways_byte_for_byte() {
    let both = [stock(), ours()];
    let data = noise(4 * PART);
    let sizes = prop_oneof![0..100usize, PART - 3..PART + 3, 1..4 * PART];
    let places = (0.0..1.1f64, 0.0..1.1f64);
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    for here in both.into_iter().flatten() {
        let dir = here.dir.path().join("files");
        fs::create_dir(&dir).unwrap();
        let (sent, file) = (here.dir.path().join("sent"), dir.join("f"));
        let mut runner = TestRunner::new(config.clone());
        let outcome = runner.run(&(sizes.clone(), places.clone()), |(size, (a, b))| {
            fs::write(&sent, &data[..size]).unwrap();
            let answer = put(&here, &sent, &content(&file));
            prop_assert!(matches!(answer.status, 200 | 201), "{}", answer.problem());
            prop_assert!(fs::read(&file).unwrap() == data[..size]);
            let at = |part: f64| format!("{:.0}", part * size as f64).parse::<usize>().unwrap();
            let (from, to) = (at(a.min(b)), at(a.max(b)));
            let range = format!("{from}-{to}");
            let answer = ask(&here, &["-r", &range], &content(&file));
            if from >= size {
                prop_assert_eq!(answer.status, 416, "{} of {}", range, size);
            } else {
                prop_assert_eq!(answer.status, 206, "{} of {}", range, size);
                prop_assert!(answer.body == data[from..size.min(to + 1)], "{} of {}", range, size);
            }
            Ok(())
        });
        outcome.unwrap();
        all_closed(&here, &dir);
    }
}

/// Bytes of which no two places look alike.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
