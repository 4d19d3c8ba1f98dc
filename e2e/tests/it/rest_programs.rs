//! Programs in a VM through the gateway, with both agents: what each can do, and what is refused.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use qga_e2e::until;
use serde_json::{Value, json};

use crate::guests::{Kind, Served, both_agents, gateway_program};
use crate::hostile::resident;
use crate::processes::shell::Tmux;

/// In a guest under emulation on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// What output that nobody can follow may cost the gateway.
const MEMORY: u64 = 8 << 20;

both_agents!(programs);

fn programs(kind: Kind) {
    let Some(mut served) = Served::start(kind) else { return };
    until("what the agent can do", SOON, || {
        Ok(served.target.vm()?["capabilities"]["commands"].is_array().then_some(()))
    })
    .unwrap();
    results(&served);
    lines_in_order(&served, kind);
    match kind {
        Kind::Ours => {
            events_while_it_runs(&served);
            signals(&mut served);
            timeout(&mut served);
            listing_that_is_read_slowly(&mut served);
            terminal(&served);
        }
        Kind::Stock => {
            events_at_the_end(&served);
            stock_cannot(&served);
        }
    }
}

/// A shell's script, with busybox's programs, that start as soon as they are named.
fn script(text: &str) -> Value {
    json!(["/bin/busybox", "sh", "-c", format!("PATH=/run/bin; {text}")])
}

fn start(served: &Served, body: &Value) -> i64 {
    let started = served.target.rest.post("/vms/vm/processes", body).unwrap();
    started.expect(201).unwrap()["pid"].as_i64().unwrap()
}

fn wait(served: &Served, what: &str, pid: i64, holds: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/vms/vm/processes/{pid}");
    let mut last = Value::Null;
    until(what, SOON, || {
        last = served.target.rest.get(&path)?.expect(200)?;
        Ok(holds(&last).then(|| last.clone()))
    })
    .unwrap_or_else(|e| panic!("{e}: {last}; the gateway's log:\n{}", served.gateway.log()))
}

fn curl(served: &Served, arguments: &[&str], path: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", "--unix-socket"]).arg(served.gateway.socket());
    curl.args(arguments).arg(format!("http://localhost{path}"));
    curl
}

fn got(output: Output) -> Vec<u8> {
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn is_there(served: &mut Served, pid: &str) -> bool {
    let state = format!("grep -q '^State:.[^ZX]' /proc/{pid}/status");
    served.guest.vm.control().run(&state).unwrap().status == 0
}

/// A result by `?wait=`, and again as often as anybody asks, though the guest gives it once.
fn results(served: &Served) {
    let body = json!({
        "argv": script("read x; echo out $x; echo err $Y >&2; exit 3"),
        "stdin": "in\n", "env": {"Y": "why"},
    });
    let answer = served.target.rest.post("/vms/vm/processes?wait=50", &body).unwrap();
    let process = answer.expect(201).unwrap();
    assert_eq!(process["exit_code"], 3, "{process}");
    assert_eq!(process["stdout"]["text"], "out in\n", "{process}");
    assert_eq!(process["stderr"]["text"], "err why\n", "{process}");
    let pid = process["pid"].as_i64().unwrap();
    for _ in 0..2 {
        let again = wait(served, "the result", pid, |p| p["complete"] == true);
        assert_eq!((&again["stdout"], &again["exit_code"]), (&process["stdout"], &json!(3)));
        let path = format!("/vms/vm/processes/{pid}/output?stream=stderr");
        assert_eq!(got(curl(served, &[], &path).output().unwrap()), b"err why\n");
    }
}

fn lines_in_order(served: &Served, kind: Kind) {
    let mut body = json!({ "argv": script("seq 1 10000") });
    if matches!(kind, Kind::Ours) {
        body["overflow"] = json!("wait");
    }
    let pid = start(served, &body);
    let path = format!("/vms/vm/processes/{pid}/output");
    let lines = got(curl(served, &["-N"], &path).output().unwrap());
    let wanted: String = (1..=10_000).map(|n| format!("{n}\n")).collect();
    assert!(lines == wanted.as_bytes(), "{} bytes of {}", lines.len(), wanted.len());
    // From any place.
    let rest = got(curl(served, &[], &format!("{path}?offset=48000")).output().unwrap());
    assert!(rest == wanted.as_bytes()[48_000..], "{} bytes", rest.len());
}

/// Reads events until one has this name; gives its data.
fn event(lines: &mut impl Iterator<Item = std::io::Result<String>>, name: &str) -> Value {
    let mut current = String::new();
    for line in lines {
        let line = line.unwrap();
        if let Some(event) = line.strip_prefix("event:") {
            current = event.trim().to_owned();
        } else if let Some(data) = line.strip_prefix("data:")
            && current == name
        {
            return serde_json::from_str(data).unwrap();
        }
    }
    panic!("it ends without {name}");
}

fn follow(served: &Served, pid: i64) -> Child {
    let path = format!("/vms/vm/processes/{pid}/output?stream=both");
    let arguments = ["-N", "--max-time", "120", "-H", "accept: text/event-stream"];
    curl(served, &arguments, &path).stdout(Stdio::piped()).spawn().unwrap()
}

fn events_while_it_runs(served: &Served) {
    let body =
        json!({ "argv": script("echo one; read x; echo two $x >&2; exit 4"), "stdin_open": true });
    let pid = start(served, &body);
    let mut reader = follow(served, pid);
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert_eq!(event(&mut lines, "stdout")["text"], "one\n");
    // It waits for that, so the event came while it ran.
    let input = format!("/vms/vm/processes/{pid}/stdin");
    got(curl(served, &["-X", "PUT", "--data-binary", "in\n"], &input).output().unwrap());
    assert_eq!(event(&mut lines, "stderr")["text"], "two in\n");
    assert_eq!(event(&mut lines, "exit")["exit_code"], 4);
    reader.wait().unwrap();
}

/// A stock agent has its output at the end, and the answer says so.
fn events_at_the_end(served: &Served) {
    let pid = start(served, &json!({ "argv": script("echo one; echo two >&2; exit 4") }));
    let mut reader = follow(served, pid);
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert_eq!(event(&mut lines, "exit")["exit_code"], 4);
    reader.wait().unwrap();
    let path = format!("/vms/vm/processes/{pid}/output");
    let head = got(curl(served, &["-D", "-"], &path).output().unwrap());
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("x-output-streaming: false") && head.ends_with("one\n"), "{head}");
}

fn stock_cannot(served: &Served) {
    let members = [
        ("cwd", json!("/tmp")),
        ("user", json!("root")),
        ("timeout_seconds", json!(5)),
        ("stdin_open", json!(true)),
        ("overflow", json!("wait")),
        ("pty", json!({ "rows": 24, "cols": 80 })),
    ];
    for (member, value) in members {
        let body = json!({ "argv": script("echo no"), member: value });
        let reply = served.target.rest.post("/vms/vm/processes", &body).unwrap();
        assert_eq!((reply.status, reply.code()), (501, "command_unsupported"), "{member}");
        assert_eq!(reply.json["member"], member, "{}", reply.json);
    }
    let pid = start(served, &json!({ "argv": script("sleep 3") }));
    let path = format!("/vms/vm/processes/{pid}");
    let signal =
        served.target.rest.post(&format!("{path}/signal"), &json!({ "signal": "TERM" })).unwrap();
    assert_eq!(signal.status, 501, "{}", signal.json);
    assert_eq!(served.target.rest.delete(&path).unwrap().status, 501);
}

/// A signal that it handles, and an end for all of its group.
fn signals(served: &mut Served) {
    let text = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 1; done";
    let pid = start(served, &json!({ "argv": script(text) }));
    let path = format!("/vms/vm/processes/{pid}");
    wait(served, "its trap", pid, |p| p["stdout"]["end"] == 6);
    let signal = json!({ "signal": "TERM", "alone": true });
    let sent = served.target.rest.post(&format!("{path}/signal"), &signal).unwrap();
    assert!(sent.status < 300, "{}", sent.json);
    let ended = wait(served, "its end", pid, |p| p["complete"] == true);
    assert_eq!(
        (&ended["exit_code"], &ended["stdout"]["text"]),
        (&json!(5), &json!("ready\ncaught\n"))
    );

    let pid = start(served, &json!({ "argv": script("sleep 1000 & echo $!; wait") }));
    let child = first_line(served, pid);
    assert!(is_there(served, &child));
    served.target.rest.delete(&format!("/vms/vm/processes/{pid}")).unwrap().expect(200).unwrap();
    until("its child's end", SOON, || Ok((!is_there(served, &child)).then_some(()))).unwrap();
}

fn first_line(served: &Served, pid: i64) -> String {
    wait(served, "its child's number", pid, |p| p["stdout"]["end"].as_u64().unwrap() > 1);
    let path = format!("/vms/vm/processes/{pid}/output");
    let mut reader = curl(served, &["-N"], &path).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(reader.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _ = reader.kill();
    let _ = reader.wait();
    line.trim().to_owned()
}

fn timeout(served: &mut Served) {
    let body = json!({ "argv": script("sleep 1000 & echo $!; wait"), "timeout_seconds": 2 });
    let answer = served.target.rest.post("/vms/vm/processes?wait=50", &body).unwrap();
    let process = answer.expect(201).unwrap();
    assert_eq!((&process["signal"], &process["timed_out"]), (&json!(9), &json!(true)), "{process}");
    let child = process["stdout"]["text"].as_str().unwrap().trim().to_owned();
    until("its child's end", SOON, || Ok((!is_there(served, &child)).then_some(()))).unwrap();
}

/// `ls -R /` with output faster than its reader: the gateway's memory stays flat. What gives way is
/// told of, and what waits for its reader comes whole.
fn listing_that_is_read_slowly(served: &mut Served) {
    let again_and_again = script("while :; do ls -R / 2>/dev/null; done");
    let pid = start(served, &json!({ "argv": again_and_again, "overflow": "drop" }));
    let path = format!("/vms/vm/processes/{pid}");
    let mut slow =
        curl(served, &["--limit-rate", "2k", "-o", "/dev/null"], &format!("{path}/output"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    let end = |process: &Value| process["stdout"]["end"].as_u64().unwrap();
    wait(served, "a full window", pid, |p| end(p) > 1 << 20);
    let before = resident(&served.gateway);
    let flood = wait(served, "more than is kept", pid, |p| end(p) > 3 << 20);
    let after = resident(&served.gateway);
    assert!(after < before + MEMORY, "{before} to {after} bytes");
    assert!(end(&flood) - flood["stdout"]["start"].as_u64().unwrap() <= 1 << 20, "{flood}");
    served.target.rest.delete(&path).unwrap().expect(200).unwrap();
    let _ = slow.kill();
    let _ = slow.wait();

    let body = json!({ "argv": script("ls -R / >/run/list 2>/dev/null; cat /run/list"), "overflow": "wait" });
    let pid = start(served, &body);
    let path = format!("/vms/vm/processes/{pid}/output");
    let list = got(curl(served, &["-N", "--limit-rate", "400k"], &path).output().unwrap());
    let control = served.guest.vm.control();
    let sum = control.output("wc -c </run/list; sha256sum </run/list; rm /run/list").unwrap();
    let there = sum.split_whitespace().next().unwrap();
    assert_eq!(list.len().to_string(), there);
    let file = served.guest.dir().join("list");
    std::fs::write(&file, &list).unwrap();
    let here = Command::new("sha256sum").arg(&file).output().unwrap().stdout;
    let here = String::from_utf8(here).unwrap();
    assert!(sum.contains(here.split(' ').next().unwrap()), "{sum}; {here}");
}

/// A shell in a VM without any network, in a real terminal.
fn terminal(served: &Served) {
    let Some(tmux) = Tmux::start(served.guest.dir()) else { return };
    let gateway = gateway_program().expect("it ran just now");
    let (gateway, socket) = (gateway.display(), served.gateway.socket());
    let shell = format!("{gateway} shell vm --socket {}", socket.display());
    tmux.types("PS1='$ '; clear");
    tmux.types(&format!("{shell} -- /bin/busybox sh; printf '\\ncode %s\\n' $?"));
    tmux.types("PATH=/run/bin PS1='in '; stty size; cat /proc/sys/kernel/hostname");
    tmux.shows("30 90");
    tmux.shows("guest");
    tmux.run(&["resize-window", "-x", "100", "-y", "40"]);
    tmux.types("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo resi''zed");
    tmux.shows("resized");
    tmux.types("exit 7");
    tmux.shows("code 7");
}
