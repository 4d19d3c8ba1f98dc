//! The gateway as a process of its own.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use qga_testing::tied;

const BOUND: Duration = Duration::from_secs(20);

fn start(dir: &Path, stderr: Stdio) -> Child {
    let config = dir.join("config.toml");
    let unix = dir.join("api.sock");
    let state = dir.join("state");
    let text = format!("state_dir = {state:?}\n[listen]\nunix = {unix:?}\n");
    std::fs::write(&config, text).unwrap();
    tied(env!("CARGO_BIN_EXE_qga-gateway"))
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

/// Reads what the gateway logs until a line has it.
fn logged(lines: &mut impl Iterator<Item = io::Result<String>>, what: &str) -> String {
    let mut all = String::new();
    for line in lines {
        let line = line.unwrap();
        if line.contains(what) {
            return line;
        }
        all += &line;
    }
    panic!("no {what:?} in {all}");
}

#[test]
fn hangup_takes_a_good_file_over_and_leaves_things_as_they_were_with_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    // systemd's end.
    let notified = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
    notified.set_read_timeout(Some(BOUND)).unwrap();
    let told = || {
        let mut text = [0; 256];
        let n = notified.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    let config = dir.path().join("config.toml");
    let (state, unix) = (dir.path().join("state"), dir.path().join("api.sock"));
    let listen = format!("state_dir = {state:?}\n[listen]\nunix = {unix:?}\n");
    std::fs::write(&config, &listen).unwrap();
    let mut gateway = tied(env!("CARGO_BIN_EXE_qga-gateway"))
        .arg("--config")
        .arg(&config)
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io::BufRead::lines(io::BufReader::new(gateway.stderr.take().unwrap()));
    assert_eq!(told().trim(), "READY=1");
    assert_eq!(ask(dir.path()), "HTTP/1.1 200 OK");

    let pid = rustix::process::Pid::from_child(&gateway);
    let hangup = || rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    std::fs::write(&config, format!("{listen}[limits]\nqueue_dept = 3\n")).unwrap();
    hangup();
    let line = logged(&mut lines, "stays as it was");
    assert!(line.contains("config.toml:5: limits.queue_dept: unknown field"), "{line}");
    let begun = told();
    assert!(begun.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begun}");
    assert_eq!(told().trim(), "READY=1");

    let tcp = "tcp = \"127.0.0.1:1\"";
    let vm = "[[vm]]\nid = \"a\"\nsocket = \"/nonexistent/a\"\n";
    std::fs::write(&config, format!("{listen}{tcp}\n{vm}")).unwrap();
    hangup();
    let line = logged(&mut lines, "is taken over");
    assert!(line.contains("VMs added 1, removed 0, changed 0"), "{line}");
    let line = logged(&mut lines, "only a restart takes over");
    assert!(line.contains("listen.tcp"), "{line}");
    assert!(told().starts_with("RELOADING=1\n"));
    assert_eq!(told().trim(), "READY=1");
    assert_eq!(ask(dir.path()), "HTTP/1.1 200 OK");
    stops(gateway);
}

/// Set for the test below where it is to be killed.
const VICTIM: &str = "QGA_TEST_IS_A_VICTIM";

#[test]
fn a_killed_test_leaves_no_gateway_behind() {
    let dir = tempfile::tempdir().unwrap();
    if let Some(dir) = std::env::var_os(VICTIM) {
        let mut gateway = start(dir.as_ref(), Stdio::null());
        ask(dir.as_ref());
        println!("\ngateway {}", gateway.id());
        gateway.wait().unwrap();
    }
    let mut test = tied(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "process::a_killed_test_leaves_no_gateway_behind"])
        .env(VICTIM, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io::BufRead::lines(io::BufReader::new(test.stdout.take().unwrap()));
    let line = lines.find_map(|line| line.unwrap().strip_prefix("gateway ").map(str::to_owned));
    let gateway = Path::new("/proc").join(line.unwrap());
    assert!(gateway.exists());
    test.kill().unwrap();
    test.wait().unwrap();
    let end = Instant::now() + BOUND;
    // Whoever inherits it may be slow to reap it.
    let runs = || {
        let stat = std::fs::read_to_string(gateway.join("stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while runs() {
        assert!(Instant::now() < end, "the gateway outlives its test");
        std::thread::yield_now();
    }
}
