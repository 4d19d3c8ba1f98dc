//! The operator's hook around a freeze: real scripts, real processes.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bed::{Agent, Client, wait_for};
use crate::cell::Cell;

const FREEZE: &str = "guest-fsfreeze-freeze";
const THAW: &str = "guest-fsfreeze-thaw";
const REPORT: &str = "x-guest-fsfreeze-report";

/// A cell with `/mnt/a` and a shell, and this script as `/hook`. What it appends to `/run/log` is
/// what was called.
fn cell_with(script: &str) -> Option<Cell> {
    let cell = match Cell::new() {
        Ok(cell) => cell,
        Err(reason) => {
            qga_testing::unavailable(&reason);
            return None;
        }
    };
    cell.mount("ext4", "/mnt/a");
    cell.add_shell();
    let script = format!("#!/bin/sh\necho \"$@\" >> /run/log\n{script}\n");
    std::fs::write(cell.path("/hook"), script).unwrap();
    cell.sh("chmod +x $ROOT/hook");
    Some(cell)
}

fn log(cell: &Cell) -> String {
    std::fs::read_to_string(cell.path("/run/log")).unwrap_or_default().replace('\n', " ")
}

fn status(client: &mut Client) -> String {
    client.get("guest-fsfreeze-status", "")
}

#[test]
fn it_is_called_before_and_after_and_named_when_it_fails() {
    let Some(cell) = cell_with("[ ! -e /run/fail-$1 ] || { echo boom; exit 3; }") else { return };
    let agent = cell.start(&["-F/hook"]);
    let mut client = agent.connect();
    assert_eq!(client.get(FREEZE, ""), "1");
    assert_eq!(log(&cell), "freeze ");
    assert_eq!(client.get(THAW, ""), "1");
    assert_eq!(log(&cell), "freeze thaw ");

    cell.sh("touch $ROOT/run/fail-freeze");
    let text = "child process has failed to execute fsfreeze hook: boom (/hook freeze)";
    assert_eq!(client.error(FREEZE, ""), text);
    assert_eq!(status(&mut client), "\"thawed\"");
    assert_eq!(log(&cell), "freeze thaw freeze thaw ");
    cell.writer("/mnt/a/f").wait_until_done();

    cell.sh("rm $ROOT/run/fail-freeze; touch $ROOT/run/fail-thaw");
    assert_eq!(client.get(FREEZE, ""), "1");
    // qemu-ga's words, its newline included.
    let text = "child process has failed to execute fsfreeze hook: boom\\n";
    assert_eq!(client.error(THAW, ""), text);
    assert_eq!(status(&mut client), "\"thawed\"");
    assert!(client.get(REPORT, "").contains("\"hook-error\": \"child process has failed"));
    cell.writer("/mnt/a/f").wait_until_done();
}

#[test]
fn one_that_is_missing_or_too_talkative_fails_with_a_bounded_reason() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo 0123456789012345678901234567890123456789; \
                  i=$((i+1)); done; exit 1";
    let Some(cell) = cell_with(script) else { return };
    let agent = cell.start(&["-F/nowhere"]);
    let text = "child process has failed to execute fsfreeze hook: failed to exec '/nowhere': \
                No such file or directory (/nowhere freeze)";
    assert_eq!(agent.connect().error(FREEZE, ""), text);
    drop(agent);
    let agent = cell.start(&["-F/hook"]);
    let text = agent.connect().error(FREEZE, "");
    assert!((16_000..20_000).contains(&text.len()), "{}", text.len());
}

#[test]
fn a_thaw_ends_a_freeze_whose_hook_hangs() {
    let Some(cell) = cell_with("[ $1 = thaw ] || { echo $$ > /run/pid; exec sleep 100; }") else {
        return;
    };
    let agent = cell.start(&["-F/hook"]);
    let mut client = agent.connect();
    client.send("{'execute':'guest-fsfreeze-freeze'}");
    wait_for("the hook", || cell.path("/run/pid").exists().then_some(()));
    let begun = Instant::now();
    client.send("{'execute':'guest-fsfreeze-thaw'}");
    let freeze = client.line();
    assert!(freeze.contains("stopped by thaw"), "{freeze}");
    assert_eq!(client.line(), "{\"return\": 0}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(log(&cell), "freeze thaw ");
    assert_eq!(status(&mut client), "\"thawed\"");
}

#[test]
fn an_agent_killed_in_either_hook_is_followed_by_one_that_runs_the_thaw_hook() {
    let Some(cell) = cell_with("[ ! -e /run/hang-$1 ] || { rm /run/hang-$1; exec sleep 3; }")
    else {
        return;
    };
    let marker = cell.path("/run/qga.state.isfrozen");
    let wait_for_log = |end: &str| {
        wait_for("the hook", || log(&cell).ends_with(end).then_some(()));
    };
    // In the freeze hook: nothing is frozen, and the thaw hook follows.
    cell.sh("touch $ROOT/run/hang-freeze");
    let mut agent = cell.start(&["-F/hook"]);
    let mut client = agent.connect();
    client.send("{'execute':'guest-fsfreeze-freeze'}");
    wait_for_log("freeze ");
    agent.kill();
    let mut agent = cell.start(&["-F/hook"]);
    wait_for_log("freeze thaw ");
    wait_for("the marker to go", || (!marker.exists()).then_some(()));
    let mut client = agent.connect();
    assert_eq!(status(&mut client), "\"thawed\"");
    let text = client.error(THAW, "");
    assert!(text.starts_with("filesystems were thawed automatically"), "{text}");
    assert!(text.ends_with("(restart)"), "{text}");

    // In the thaw hook: everything is thawed, and the thaw hook runs again.
    assert_eq!(client.get(FREEZE, ""), "1");
    cell.sh("touch $ROOT/run/hang-thaw");
    client.send("{'execute':'guest-fsfreeze-thaw'}");
    wait_for_log("freeze thaw freeze thaw ");
    cell.writer("/mnt/a/f").wait_until_done();
    agent.kill();
    let agent = cell.start(&["-F/hook"]);
    wait_for_log("freeze thaw freeze thaw thaw ");
    wait_for("the marker to go", || (!marker.exists()).then_some(()));
    let mut client = agent.connect();
    assert!(client.get(REPORT, "").contains("\"cause\": \"requested\""));
    // While frozen: the hook is run by the next agent's thaw.
    assert_eq!(client.get(FREEZE, ""), "1");
    drop(agent);
    let agent = cell.start(&["-F/hook"]);
    assert_eq!(agent.connect().get(THAW, ""), "1");
    assert!(log(&cell).ends_with("freeze thaw "), "{}", log(&cell));
    agent.signal(Signal::TERM);
}

/// Logs `overlap` if the other hook's process, or a child of it, still runs.
const WATCHFUL: &str = "alive() {
    [ -e /run/$1 ] || return 1
    case $(cat /proc/$(cat /run/$1)/stat 2>/dev/null) in '' | *') Z '*) return 1 ;; esac
}
if alive leader || alive child; then echo overlap >> /run/log; fi
echo $$ > /run/leader
if [ -e /run/hang-$1 ]; then
    time=$(cat /run/hang-$1)
    rm /run/hang-$1
    sleep $time &
    echo $! > /run/child
    wait
    echo end >> /run/log
fi";

/// An agent killed while a hook hangs for this many seconds, and another one in its place.
fn killed_in_hook(cell: &Cell, verb: &str, seconds: u32, options: &[&str]) -> Agent {
    let mut agent = cell.start(options);
    let mut client = agent.connect();
    if verb == "thaw" {
        assert_eq!(client.get(FREEZE, ""), "1");
    }
    let hang = cell.path(&format!("/run/hang-{verb}"));
    std::fs::write(&hang, seconds.to_string()).unwrap();
    let _ = std::fs::remove_file(cell.path("/run/child"));
    client.send(format!("{{'execute':'guest-fsfreeze-{verb}'}}"));
    wait_for("the hook's child", || cell.path("/run/child").exists().then_some(()));
    agent.kill();
    cell.start(options)
}

#[test]
fn the_freeze_hook_of_a_killed_agent_is_ended_before_the_thaw_hook_runs() {
    let Some(cell) = cell_with(WATCHFUL) else { return };
    let begun = Instant::now();
    let agent = killed_in_hook(&cell, "freeze", 60, &["-F/hook"]);
    wait_for("the thaw hook", || log(&cell).contains("thaw").then_some(()));
    let marker = cell.path("/run/qga.state.isfrozen");
    wait_for("the marker to go", || (!marker.exists()).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(log(&cell), "freeze thaw ");
    // A hook that has ended is not looked for.
    let mut client = agent.connect();
    assert!(client.error(THAW, "").ends_with("(restart)"));
    assert_eq!(client.get(FREEZE, ""), "1");
    assert_eq!(client.get(THAW, ""), "1");
    assert_eq!(log(&cell), "freeze thaw freeze thaw ");
}

#[test]
fn the_thaw_hook_of_a_killed_agent_may_end_by_itself_before_it_runs_again() {
    let Some(cell) = cell_with(WATCHFUL) else { return };
    let _agent = killed_in_hook(&cell, "thaw", 1, &["-F/hook"]);
    let marker = cell.path("/run/qga.state.isfrozen");
    wait_for("the marker to go", || (!marker.exists()).then_some(()));
    assert_eq!(log(&cell), "freeze thaw end thaw ");
}

#[test]
fn the_thaw_hook_of_a_killed_agent_has_no_more_time_than_any_other() {
    let Some(cell) = cell_with(WATCHFUL) else { return };
    std::fs::write(cell.path("/run/conf"), "[general]\nhook-timeout=2\n").unwrap();
    let begun = Instant::now();
    let _agent = killed_in_hook(&cell, "thaw", 60, &["-F/hook", "-c/run/conf"]);
    let marker = cell.path("/run/qga.state.isfrozen");
    wait_for("the marker to go", || (!marker.exists()).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(log(&cell), "freeze thaw thaw ");
}
