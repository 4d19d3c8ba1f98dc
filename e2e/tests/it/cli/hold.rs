//! A freeze for as long as a command runs.

use std::path::Path;
use std::process::Stdio;

use qga_e2e::sim::{Machine, Mode};
use qga_e2e::until;

use super::{Cli, Ran, signal};
use crate::fleet::{Host, SOON, gateway_program, one};

/// A frozen machine, and a command that waits for a file while it is.
fn start() -> Option<(Host, Machine, Cli, tempfile::TempDir)> {
    let program = gateway_program()?;
    let (host, mut machines) = Host::start(&program, "", one(Mode::Qga));
    host.wait_link("one", "ready");
    let cli = Cli::new(&program, host.gateway.socket());
    Some((host, machines.remove(0), cli, tempfile::tempdir().unwrap()))
}

/// Writes the lease to `begun`, and ends with that code when `go` is there.
fn waits(dir: &Path, code: u8) -> String {
    let dir = dir.display();
    format!(
        "echo $QGA_LEASE > {dir}/lease; mv {dir}/lease {dir}/begun; \
         until [ -e {dir}/go ]; do sleep 0.05; done; echo copied; exit {code}"
    )
}

fn begun(dir: &Path) -> String {
    let begun = until("the command", SOON, || Ok(std::fs::read_to_string(dir.join("begun")).ok()));
    begun.unwrap().trim().to_owned()
}

fn go(dir: &Path) {
    std::fs::write(dir.join("go"), "").unwrap();
}

#[test]
fn it_is_held_while_the_command_runs_and_thawed_behind_it() {
    let Some((host, machine, cli, dir)) = start() else { return };
    let script = waits(dir.path(), 0);
    let child = cli.start(["freeze", "one", "--ttl", "15", "--", "sh", "-c", &script]);
    let lease = begun(dir.path());
    assert!(machine.truth().frozen.is_some());
    let expires = || {
        let lease = host.rest().get(&format!("/freezes/{lease}")).unwrap().expect(200).unwrap();
        assert_eq!(lease["state"], "frozen", "{lease}");
        lease["expires_at"].clone()
    };
    let first = expires();
    until("a renewal", SOON, || Ok((expires() != first).then_some(()))).unwrap();
    go(dir.path());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "copied\n"), "{ran:?}");
    assert!(ran.err.contains("verdict     held"), "{ran:?}");
    assert!(machine.truth().frozen.is_none());
}

#[test]
fn the_commands_code_is_the_exit_code() {
    let Some((_host, machine, cli, _dir)) = start() else { return };
    let run = |command: &[&str]| {
        let ran = cli.run([&["freeze", "one", "--"], command].concat());
        assert!(ran.err.contains("verdict     held"), "{ran:?}");
        assert!(machine.truth().frozen.is_none());
        ran.code
    };
    assert_eq!(run(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(run(&["/nonexistent/command"]), Some(127));
    // One that thaws by itself, as soon as it can.
    let cli = format!("{} thaw $QGA_LEASE", cli.program.display());
    assert_eq!(run(&["sh", "-c", &cli]), Some(0));
}

#[test]
fn a_signal_ends_the_command_and_thaws() {
    for (name, code) in [("-TERM", 143), ("-INT", 130), ("-HUP", 129), ("-QUIT", 131)] {
        let Some((_host, machine, cli, dir)) = start() else { return };
        let script = waits(dir.path(), 0);
        let child = cli.start(["freeze", "one", "--", "sh", "-c", &script]);
        begun(dir.path());
        assert!(machine.truth().frozen.is_some());
        signal(&child, name);
        // A shell that waits for its child may put off an interrupt until that has ended.
        go(dir.path());
        let ran = Ran::from(child.wait_with_output().unwrap());
        ran.fails(code, &["verdict     held"]);
        assert!(machine.truth().frozen.is_none());
    }
}

/// As under nohup, whose terminal is closed.
#[test]
fn a_signal_that_is_ignored_ends_nothing() {
    let Some((_host, machine, cli, dir)) = start() else { return };
    let mut command = qga_testing::tied("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(&cli.program);
    command.args(["freeze", "one", "--socket"]).arg(&cli.socket);
    command.args(["--", "sh", "-c", &waits(dir.path(), 0)]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    begun(dir.path());
    signal(&child, "-HUP");
    go(dir.path());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "copied\n"), "{ran:?}");
    assert!(ran.err.contains("verdict     held") && machine.truth().frozen.is_none(), "{ran:?}");
}

/// Nothing of it is left that could thaw, nor renew.
#[test]
fn a_client_that_is_killed_leaves_the_thaw_to_the_end_of_its_time() {
    let Some((host, machine, cli, dir)) = start() else { return };
    let script = waits(dir.path(), 0);
    let mut child = cli.start(["freeze", "one", "--ttl", "3", "--", "sh", "-c", &script]);
    let lease = begun(dir.path());
    assert!(machine.truth().frozen.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    let thawed = until("the end of its time", SOON, || {
        let lease = host.rest().get(&format!("/freezes/{lease}"))?.expect(200)?;
        Ok((lease["state"] == "thawed").then_some(lease))
    });
    assert_eq!(thawed.unwrap()["thaw_cause"], "expired");
    assert!(machine.truth().frozen.is_none());
    // The command knows nothing of it, and ends by itself.
    go(dir.path());
}

#[test]
fn a_freeze_that_did_not_hold_is_no_success() {
    let Some((_host, machine, cli, dir)) = start() else { return };
    let script = waits(dir.path(), 0);
    let child = cli.start(["freeze", "one", "--", "sh", "-c", &script]);
    begun(dir.path());
    machine.reset();
    go(dir.path());
    let ran = Ran::from(child.wait_with_output().unwrap());
    ran.fails(3, &["do not rely on what was copied"]);
}

#[test]
fn a_gateway_that_is_restarted_meanwhile_changes_nothing() {
    let Some((mut host, machine, cli, dir)) = start() else { return };
    let script = waits(dir.path(), 0);
    let child = cli.start(["freeze", "one", "--", "sh", "-c", &script]);
    begun(dir.path());
    host.gateway.kill();
    host.gateway.start_again().unwrap();
    host.wait_link("one", "frozen");
    go(dir.path());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ran.err.contains("verdict"), "{ran:?}");
    assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
    assert!(machine.truth().frozen.is_none());
}

#[test]
fn without_a_freeze_the_command_does_not_run() {
    let Some((_host, _machine, cli, dir)) = start() else { return };
    let script = waits(dir.path(), 0);
    cli.run(["freeze", "nobody", "--", "sh", "-c", &script]).fails(1, &["[vm_not_found]"]);
    let nowhere = ["freeze", "one", "--socket", "/nonexistent/api.sock", "--", "sh", "-c", &script];
    cli.run(nowhere).fails(4, &["no gateway answers there"]);
    assert!(!dir.path().join("begun").exists());
}
