//! The gateway as a process of its own.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOUND: Duration = Duration::from_secs(20);

fn start(dir: &Path, stderr: Stdio) -> Child {
    let config = dir.join("config.toml");
    let unix = dir.join("api.sock");
    let state = dir.join("state");
    let text = format!("state_dir = {state:?}\n[listen]\nunix = {unix:?}\n");
    std::fs::write(&config, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_qga-gateway"))
        .arg("--config")
        .arg(config)
        .env("RUST_LOG", "trace")
        .stderr(stderr)
        .spawn()
        .unwrap()
}

/// Asks until the gateway listens; the status line.
fn ask(dir: &Path) -> String {
    let end = Instant::now() + BOUND;
    let mut stream = loop {
        match UnixStream::connect(dir.join("api.sock")) {
            Ok(stream) => break stream,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
        std::thread::yield_now();
    };
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(b"GET /vms HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

fn stops(mut gateway: Child) {
    let pid = rustix::process::Pid::from_child(&gateway);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let end = Instant::now() + BOUND;
    while Instant::now() < end {
        if let Some(status) = gateway.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        std::thread::yield_now();
    }
    gateway.kill().unwrap();
    panic!("does not stop");
}

#[test]
fn a_standard_error_that_nobody_holds_any_more_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let gateway = start(dir.path(), writer.into());
    for _ in 0..10 {
        assert_eq!(ask(dir.path()), "HTTP/1.1 200 OK");
    }
    stops(gateway);
}

#[test]
fn a_standard_error_that_nobody_reads_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_reader, mut writer) = io::pipe().unwrap();
    // Full from the first byte on.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let gateway = start(dir.path(), writer.into());
    for _ in 0..10 {
        assert_eq!(ask(dir.path()), "HTTP/1.1 200 OK");
    }
    stops(gateway);
}
