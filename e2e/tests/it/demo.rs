//! The demo's program, as `make demo` runs it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use qga_e2e::until;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::guests::{self, SOON};

/// What the demo prints last before it waits for Ctrl-C, and first while the VM boots.
const IS_UP: &str = "Over TCP, with the token:";
const IS_BOOTING: &str = "Booting a virtual machine";

#[test]
fn its_lines_work_and_nothing_is_left() {
    let Some((mut demo, dir)) = start(&["--check"]) else { return };
    let output = read_until(&mut demo, None);
    let status = demo.wait().expect("an exit status");
    assert!(status.success(), "{status}:\n{output}");
    assert!(output.contains("frozen 4 filesystems"), "{output}");
    assert!(output.ends_with("Nothing is left behind.\n"), "{output}");
    assert_clean(dir.path());
}

#[test]
fn ctrl_c_leaves_nothing() {
    ends_cleanly_on(Signal::INT, IS_UP);
}

#[test]
fn sigterm_while_it_boots_leaves_nothing() {
    ends_cleanly_on(Signal::TERM, IS_BOOTING);
}

fn ends_cleanly_on(signal: Signal, after: &str) {
    let Some((mut demo, dir)) = start(&[]) else { return };
    let mut output = read_until(&mut demo, Some(after));
    let pid = i32::try_from(demo.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("the demo runs");
    output += &read_until(&mut demo, None);
    let status = until("the demo's end", SOON, || Ok(demo.try_wait()?)).expect("an exit status");
    assert!(status.success(), "{status}:\n{output}");
    assert!(output.ends_with("Nothing is left behind.\n"), "{output}");
    assert_clean(dir.path());
}

/// Starts the demo with a run-time directory of its own; `None` as [`guests::assets`].
fn start(args: &[&str]) -> Option<(Child, TempDir)> {
    let programs = &guests::assets()?.programs;
    guests::gateway_program()?;
    // Its own agent if there is one; what is tested here is the demo.
    let stock = programs.agent.is_none().then_some("--stock");
    let dir = tempfile::Builder::new().prefix("qga-run-").tempdir().expect("a directory");
    let demo = Command::new(env!("CARGO_BIN_EXE_qga-demo"))
        .args(args)
        .args(stock)
        .env("XDG_RUNTIME_DIR", dir.path())
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the demo starts");
    Some((demo, dir))
}

/// What the demo prints up to and with the line that contains `text`, or to its end.
fn read_until(demo: &mut Child, text: Option<&str>) -> String {
    let mut out = BufReader::with_capacity(1, demo.stdout.take().expect("a pipe"));
    let mut output = String::new();
    loop {
        let start = output.len();
        let count = out.read_line(&mut output).expect("text");
        if count == 0 || text.is_some_and(|text| output[start..].contains(text)) {
            break;
        }
    }
    let pipe: ChildStdout = out.into_inner();
    demo.stdout = Some(pipe);
    assert!(text.is_none_or(|text| output.contains(text)), "it ended early:\n{output}");
    output
}

fn assert_clean(dir: &Path) {
    let files: Vec<_> = fs::read_dir(dir).expect("its directory").flatten().collect();
    assert!(files.is_empty(), "left behind: {files:?}");
    let path = dir.as_os_str().as_encoded_bytes();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(
            !line.windows(path.len()).any(|part| part == path),
            "still runs: {}",
            String::from_utf8_lossy(&line)
        );
    }
}
