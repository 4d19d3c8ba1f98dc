//! Options, exit codes, signals, background.

use std::process::{Command, Output};

use rustix::process::Signal;

use crate::bed::{AGENT, Agent, Bed, Client, wait_for};

fn run(arguments: &[&str]) -> Output {
    Command::new(AGENT).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn version_and_help_succeed() {
    for flag in ["-V", "--version"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stdout(&output), "QEMU Guest Agent 11.1.3 (qga-agent 0.1.0)\n");
    }
    let output = run(&["-h"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("Usage: "));
}

#[test]
fn an_unknown_option_is_refused_in_qemu_gas_words() {
    for arguments in [["-x"].as_slice(), &["--nonsense"], &["-m"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        let text = format!("Unknown option, try '{AGENT} --help' for more information.\n");
        assert_eq!(stdout(&output), text);
    }
}

#[test]
fn what_cannot_be_opened_ends_the_agent_with_1_and_a_reason() {
    let bed = Bed::new();
    let state = bed.path("state").display().to_string();
    let cases: [(&[&str], &str); 5] = [
        (
            &["-t", &state, "-p", "/nonexist/x"],
            "critical: error opening channel '/nonexist/x': No such file or directory",
        ),
        (&["-t", &state, "-m", "foo"], "critical: unsupported channel method/type: foo"),
        (&["-t", &state, "-m", "unix-listen"], "critical: must specify a path for this channel"),
        (
            &["-t", &state, "-m", "unix-listen", "-p", "/nonexist/x"],
            "critical: Failed to bind socket to /nonexist/x: No such file or directory",
        ),
        (
            &["-t", "/nonexist", "-m", "unix-listen", "-p", "/nonexist/x"],
            "critical: failed to write persistent state to /nonexist/qga.state: \
             No such file or directory",
        ),
    ];
    for (arguments, text) in cases {
        let output = run(arguments);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(log.contains(text), "{arguments:?}: {log}");
    }
}

#[test]
fn term_and_int_end_the_agent_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let bed = Bed::new();
        let mut agent = bed.start();
        assert_eq!(agent.connect().call("guest-ping", ""), "{\"return\": {}}");
        agent.signal(signal);
        assert_eq!(agent.wait_for_exit().code(), Some(0));
        assert!(bed.path("socket").exists());
    }
}

#[test]
fn a_stale_socket_is_replaced() {
    let bed = Bed::new();
    let mut agent = bed.start();
    agent.kill();
    assert!(bed.path("socket").exists());
    let agent =
        Agent::spawn(bed.command(AGENT).arg("-l").arg(bed.path("log")), &bed.path("socket"));
    assert_eq!(agent.connect().call("guest-ping", ""), "{\"return\": {}}");
}

#[test]
fn verbose_logs_to_the_file() {
    let bed = Bed::new();
    let mut command = bed.command(AGENT);
    command.arg("-v").arg("-l").arg(bed.path("log"));
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    agent.connect().get("guest-file-open", "{\"path\":\"/etc/passwd\"}");
    wait_for("the log's line", || {
        let log = std::fs::read_to_string(bed.path("log")).unwrap();
        log.contains("info: guest-file-open").then_some(())
    });
}

#[test]
fn a_daemon_writes_its_pid_and_serves() {
    let bed = Bed::new();
    let pid_file = bed.path("pid");
    let mut command = bed.command(AGENT);
    command.arg("-d").arg("-f").arg(&pid_file);
    assert_eq!(command.status().unwrap().code(), Some(0));
    // The daemon is ready when the command has ended.
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let mut client = Client::connect(&bed.path("socket"));
    assert_eq!(client.call("guest-ping", ""), "{\"return\": {}}");
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", pid.trim())).unwrap();
    assert_eq!(cwd, std::path::Path::new("/"));
    // The pid file is locked: a second daemon fails, and says so by its exit code.
    let mut second = bed.command(AGENT);
    second.arg("-d").arg("-f").arg(&pid_file).arg("-p").arg(bed.path("other"));
    assert_eq!(second.status().unwrap().code(), Some(1));
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    wait_for("the pid file's removal", || (!pid_file.exists()).then_some(()));
}

#[test]
fn a_start_with_the_marker_is_frozen_until_thawed() {
    let bed = Bed::new();
    let marker = bed.path("state/qga.state.isfrozen");
    std::fs::write(&marker, "").unwrap();
    let mut command = bed.command(AGENT);
    command.arg("-l").arg(bed.path("log"));
    let mut agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    assert_eq!(client.get("guest-fsfreeze-status", ""), "\"frozen\"");
    assert!(!bed.path("log").exists());
    assert!(!bed.path("state/qga.state").exists());
    agent.signal(Signal::TERM);
    let disabled = "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Command \
                    guest-file-open has been disabled: the command is not allowed\"}}";
    assert_eq!(client.call("guest-file-open", "{\"path\":\"/x\"}"), disabled);
    // Nothing of this machine is frozen, so this thaws nothing.
    assert_eq!(client.get("guest-fsfreeze-thaw", ""), "0");
    assert_eq!(client.get("guest-fsfreeze-status", ""), "\"thawed\"");
    assert!(!marker.exists());
    assert!(bed.path("log").exists());
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait_for_exit().code(), Some(0));
}

#[test]
fn an_idle_agent_does_not_wake_up() {
    let bed = Bed::new();
    let agent = bed.start();
    assert_eq!(agent.connect().call("guest-ping", ""), "{\"return\": {}}");
    let switches = || {
        let mut all = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            all += line.unwrap().trim().parse::<u64>().unwrap();
        }
        all
    };
    let mut before = switches();
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 400_000_000 };
    wait_for("0.4 s without a wake-up", || {
        rustix::event::poll(&mut [], Some(&pause)).unwrap();
        let after = switches();
        (std::mem::replace(&mut before, after) == after).then_some(())
    });
}
