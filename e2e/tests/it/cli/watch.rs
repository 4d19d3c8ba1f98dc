//! The list as it changes: in a terminal, which is given back, and as lines for programs.

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};

use qga_e2e::sim::{Blueprint, Machine, Mode};
use qga_e2e::until;
use serde_json::Value;

use super::{Cli, signal};
use crate::fleet::{Host, SOON, gateway_program};
use crate::processes::shell::Tmux;

fn start() -> Option<(Host, Vec<Machine>, Cli)> {
    let program = gateway_program()?;
    let (host, machines) = Host::start(&program, "", |fleet| {
        ["one", "two"].map(|name| fleet.machine(name, &Blueprint::new(Mode::Qga)).unwrap()).into()
    });
    host.wait_link("one", "ready");
    host.wait_link("two", "ready");
    let cli = Cli::new(&program, host.gateway.socket());
    Some((host, machines, cli))
}

/// The lines of a program, as they come.
fn lines(out: ChildStdout) -> Receiver<Value> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line))).is_err() {
                return;
            }
        }
    });
    lines
}

/// The next line that is so, passing others by.
#[track_caller]
fn line(lines: &Receiver<Value>, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    loop {
        let line = lines.recv_timeout(SOON).unwrap_or_else(|e| panic!("{what}: {e}"));
        if wanted(&line) {
            return line;
        }
    }
}

#[track_caller]
fn told(lines: &Receiver<Value>, kind: &str, id: &str) -> Value {
    line(lines, &format!("{kind} of {id}"), |line| line["kind"] == kind && line["id"] == id)
}

#[test]
fn each_change_is_a_line_of_json() {
    let Some((mut host, machines, cli)) = start() else { return };
    let mut child = cli.start(["vms", "--watch", "--json"]);
    let all = lines(child.stdout.take().unwrap());
    assert_eq!(told(&all, "list", "one")["vm"]["link"]["state"], "ready");
    told(&all, "list", "two");
    let lease = cli.run(["freeze", "one", "--json"]).json();
    assert_eq!(told(&all, "freeze.frozen", "one")["vm"]["freeze"]["id"], lease["id"]);
    cli.run(["thaw", "one"]).ok();
    assert_eq!(told(&all, "freeze.thawed", "one")["vm"]["freeze"], Value::Null);

    // Only what is asked for, also of what a VM becomes.
    let mut frozen = cli.start(["vms", "-w", "--json", "--state", "frozen"]);
    let some = lines(frozen.stdout.take().unwrap());
    cli.run(["freeze", "two"]).ok();
    let of_two = |line: &Value| line["id"] == "two";
    let shown = line(&some, "two", of_two);
    assert_eq!(shown["vm"]["link"]["state"], "frozen", "{shown}");
    cli.run(["thaw", "two"]).ok();
    line(&some, "it is none of them any more", |line| of_two(line) && line["vm"].is_null());
    frozen.kill().unwrap();
    frozen.wait().unwrap();

    // A gateway that is away for a moment is come back to.
    host.gateway.kill();
    host.gateway.start_again().unwrap();
    told(&all, "list", "two");
    host.wait_link("one", "ready");
    machines[0].kill_qemu(true);
    line(&all, "it is gone", |line| line["id"] == "one" && line["vm"]["link"]["state"] == "absent");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn who_has_seen_enough_ends_it() {
    let Some((_host, _machines, cli)) = start() else { return };
    let mut watch = cli.command(["vms", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let out = watch.stdout.take().unwrap();
    let mut first = String::new();
    BufReader::new(out).read_line(&mut first).unwrap();
    assert!(first.starts_with("VM "), "{first}");
    // Its reader is gone. The next change finds that out.
    until("its end", SOON, || {
        cli.run(["freeze", "one"]).ok();
        cli.run(["thaw", "one"]).ok();
        Ok(watch.try_wait()?)
    })
    .map(|status| assert_eq!(status.code(), Some(0)))
    .unwrap();
    cli.run(["vms", "--watch", "--socket", "/nonexistent/api.sock"])
        .fails(4, &["no gateway answers there"]);
    cli.run(["vms", "--watch", "--ask"]).fails(2, &["--ask"]);
}

#[test]
fn a_terminal_shows_changes_and_is_given_back() {
    let Some((_host, _machines, cli)) = start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(tmux) = Tmux::start(dir.path()) else { return };
    let watch = format!("{} vms --watch --socket {}", cli.program.display(), cli.socket.display());
    tmux.types("PS1='$ '; clear; echo bef''ore");
    tmux.shows("before");
    tmux.types(&format!("{watch}; printf '\\ncode %s\\n' $?"));
    let shows = |what: &str, wanted: &dyn Fn(&str) -> bool| {
        let shown = until(what, SOON, || {
            let screen = tmux.run(&["capture-pane", "-p"]);
            Ok(screen.lines().any(wanted).then_some(()))
        });
        shown.unwrap_or_else(|e| panic!("{e}: {}", tmux.run(&["capture-pane", "-p"])));
    };
    shows("it is ready", &|line| line.starts_with("one  ready"));
    cli.run(["freeze", "one"]).ok();
    shows("it is frozen", &|line| line.starts_with("one  frozen"));
    assert_eq!(tmux.run(&["display", "-p", "#{alternate_on} #{cursor_flag}"]), "1 0\n");
    cli.run(["thaw", "one"]).ok();
    shows("it is ready again", &|line| line.starts_with("one  ready"));
    tmux.run(&["send-keys", "C-c"]);
    tmux.shows("code 130");
    tmux.shows("before");
    assert_eq!(tmux.run(&["display", "-p", "#{alternate_on} #{cursor_flag}"]), "0 1\n");
}
