//! `guest-exec` and `guest-exec-status`: programs, their output and their ends.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Bed, Client, wait_for};

/// The answer's value, or the error's text.
fn ask(client: &mut Client, command: &str, arguments: &Value) -> Result<Value, String> {
    let request = json!({"execute": command, "arguments": arguments});
    let answer: Value = serde_json::from_str(&client.ask(format!("{request}\n"))).unwrap();
    match &answer["error"]["desc"] {
        Value::String(text) => Err(text.clone()),
        _ => Ok(answer["return"].clone()),
    }
}

fn start(client: &mut Client, arguments: &Value) -> Result<i64, String> {
    ask(client, "guest-exec", arguments).map(|started| started["pid"].as_i64().unwrap())
}

fn status(client: &mut Client, pid: i64) -> Result<Value, String> {
    ask(client, "guest-exec-status", &json!({"pid": pid}))
}

/// The result of a program, once it is there.
fn run(client: &mut Client, arguments: &Value) -> Result<Value, String> {
    let pid = start(client, arguments)?;
    Ok(wait_for("the program's end", || {
        let status = status(client, pid).unwrap();
        (status["exited"] == true).then_some(status)
    }))
}

fn sh(script: &str, capture: &str) -> Value {
    json!({"path": "sh", "arg": ["-c", script], "capture-output": capture})
}

/// Decoded by a program that knows base64.
fn decoded(value: &Value) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let text = value.as_str().unwrap_or_default().to_owned();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

#[test]
fn every_mode_keeps_what_it_says_also_when_repeated() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let script = "echo o; echo e >&2; readlink /proc/self/fd/0 >&2";
    for _ in 0..3 {
        for (mode, out, err) in [
            ("none", "", ""),
            ("stdout", "o\n", ""),
            ("stderr", "", "e\n/dev/null\n"),
            ("separated", "o\n", "e\n/dev/null\n"),
            ("merged", "o\ne\n/dev/null\n", ""),
        ] {
            let result = run(&mut client, &sh(script, mode)).unwrap();
            assert_eq!(result["exitcode"], 0, "{mode}: {result}");
            for (name, text) in [("out", out), ("err", err)] {
                assert_eq!(decoded(&result[format!("{name}-data")]), text, "{mode}");
                let truncated = &result[format!("{name}-truncated")];
                let expected = if text.is_empty() { Value::Null } else { Value::Bool(false) };
                assert_eq!(*truncated, expected, "{mode}");
            }
        }
    }
}

#[test]
fn a_result_is_given_once_and_only_when_nobody_holds_the_output() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let pid = start(&mut client, &sh("sleep 1 & echo $$", "separated")).unwrap();
    wait_for("the end of the shell", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    assert_eq!(status(&mut client, pid).unwrap(), json!({"exited": false}));
    let result = wait_for("its output's end", || {
        let status = status(&mut client, pid).unwrap();
        (status["exited"] == true).then_some(status)
    });
    assert_eq!(decoded(&result["out-data"]), format!("{pid}\n"), "the process id is the real one");
    for pid in [pid, 1, -1, i64::MAX] {
        assert_eq!(status(&mut client, pid).unwrap_err(), "PID ld does not exist");
    }
}

#[test]
fn sixteen_mebibytes_are_kept_to_the_byte() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let base64 = |bytes: usize| bytes.div_ceil(3) * 4;
    for (bytes, truncated) in [(16 << 20, false), ((16 << 20) + 1, true), (20 << 20, true)] {
        let script = format!("head -c {bytes} /dev/zero");
        let result = run(&mut client, &sh(&script, "stdout")).unwrap();
        assert_eq!(result["out-data"].as_str().unwrap().len(), base64(16 << 20), "{bytes}");
        assert_eq!(result["out-truncated"], truncated, "{bytes}");
        assert_eq!(result["exitcode"], 0, "{bytes}");
    }
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    wait_for("the memory to be given back", || (resident() < 16 << 10).then_some(()));
}

#[test]
fn input_of_any_size_goes_through_and_nobody_waits_meanwhile() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let input = "QUFBQUFBQUFBQUFB".repeat(200_000);
    let arguments = json!({"path": "wc", "arg": ["-c"], "input-data": input,
                           "capture-output": true});
    let result = run(&mut client, &arguments).unwrap();
    assert_eq!(decoded(&result["out-data"]), "2400000\n");
    // One that never reads its input, and one that never ends, hold nobody up.
    let deaf = json!({"path": "sleep", "arg": ["5"], "input-data": input});
    let deaf = start(&mut client, &deaf).unwrap();
    let begun = Instant::now();
    let quick =
        json!({"path": "cat", "input-data": "eHh4eHh4eHh4eHh4eHh4Cg==", "capture-output": true});
    let result = run(&mut client, &quick).unwrap();
    assert_eq!(decoded(&result["out-data"]), "xxxxxxxxxxxxxxx\n");
    assert_eq!(client.call("guest-ping", ""), "{\"return\": {}}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(status(&mut client, deaf).unwrap(), json!({"exited": false}));
}

#[test]
fn nothing_leaks_into_programs_or_from_them() {
    let bed = Bed::new();
    std::fs::write(bed.path("open"), "x").unwrap();
    let agent = bed.start();
    let mut client = agent.connect();
    let open = json!({"path": "open", "mode": "r"});
    ask(&mut client, "guest-file-open", &open).unwrap();
    let listed = run(&mut client, &sh("exec ls /proc/self/fd", "stdout")).unwrap();
    assert_eq!(decoded(&listed["out-data"]), "0\n1\n2\n3\n", "3 is the directory that ls lists");

    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", agent.child.id())).unwrap().count();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap().count();
    let before = (descriptors(), threads());
    for round in 0..600 {
        let capture = ["none", "separated", "merged"][round % 3];
        let arguments = json!({"path": "true", "input-data": "QUJD", "capture-output": capture});
        let pid = wait_for("a place", || start(&mut client, &arguments).ok());
        if round % 2 == 0 {
            wait_for("its end", || {
                (status(&mut client, pid).unwrap()["exited"] == true).then_some(())
            });
        }
    }
    wait_for("all to be closed", || ((descriptors(), threads()) == before).then_some(()));
    let children = format!("/proc/{0}/task/{0}/children", agent.child.id());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    assert_eq!(children, "", "all have been waited for");
}

/// As qemu-ga's, whose children GLib gives their defaults back.
#[test]
fn what_whoever_started_the_agent_ignores_its_programs_do_not() {
    let bed = Bed::new();
    let ours = bed.command(AGENT);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP INT QUIT PIPE USR1 TERM; exec \"$@\"", "sh", AGENT]);
    command.args(ours.get_args()).current_dir(bed.dir.path());
    let mut agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    // The C library keeps two for itself, which it lets nobody reset.
    let ignored = |signals: &str| {
        let line = signals.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap() & !(3 << 31)
    };
    let of_agent = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id())).unwrap();
    assert_eq!(ignored(&of_agent) & 0b111, 0b111, "the agent itself keeps what it was given");
    let signals = sh("grep -E 'SigBlk|SigIgn' /proc/self/status", "stdout");
    let signals = run(&mut client, &signals).unwrap();
    let signals = decoded(&signals["out-data"]);
    assert!(signals.starts_with("SigBlk:\t0000000000000000\n"), "{signals}");
    assert_eq!(ignored(&signals), 0, "{signals}");
    let ended = run(&mut client, &sh("kill -INT $$; exit 1", "none")).unwrap();
    assert_eq!((&ended["signal"], &ended["exitcode"]), (&json!(2), &json!(null)), "{ended}");
    // A blocked signal is queued although it is ignored: the agent ends as ever.
    agent.signal(Signal::TERM);
    assert!(agent.wait_for_exit().success());
}

#[test]
fn no_argument_shows_in_the_log() {
    let bed = Bed::new();
    let mut command = bed.command(AGENT);
    command.arg("-v").arg("-l").arg(bed.path("log"));
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    let mut client = agent.connect();
    let arguments = json!({"path": "true", "arg": ["Sesam1"], "env": ["A=Sesam2"],
                           "input-data": "U2VzYW0z"});
    run(&mut client, &arguments).unwrap();
    ask(&mut client, "guest-exec", &json!({"path": "/nope", "arg": ["Sesam4"]})).unwrap_err();
    let log = wait_for("the log", || {
        let log = std::fs::read_to_string(bed.path("log")).unwrap();
        log.contains("/nope").then_some(log)
    });
    assert!(log.contains("guest-exec called: \"true\""), "{log}");
    assert!(!log.contains("Sesam") && !log.contains("U2VzYW"), "{log}");
}

#[test]
fn programs_that_nobody_asks_about_make_room_and_too_many_at_once_are_refused() {
    let bed = Bed::new();
    let agent = bed.start();
    let mut client = agent.connect();
    let sleep = json!({"path": "sleep", "arg": ["60"]});
    let mut running = Vec::new();
    let refused = loop {
        match start(&mut client, &sleep) {
            Ok(pid) => running.push(pid),
            Err(text) => break text,
        }
    };
    assert_eq!(refused, "100 programs are running already, which is the limit");
    assert_eq!(running.len(), 100);
    for pid in running {
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    let result = wait_for("a place", || run(&mut client, &sh("exit 3", "none")).ok());
    assert_eq!(result, json!({"exited": true, "exitcode": 3}));
}

/// What 7.2 words differently from the release that the agent follows.
fn as_of_11_1(text: &str) -> String {
    let inner = text.strip_prefix("Guest agent command failed, error was '");
    match (inner.and_then(|rest| rest.strip_suffix('\'')), text) {
        (Some(inner), _) => inner.to_owned(),
        (None, "Invalid parameter 'pid'") => "PID ld does not exist".to_owned(),
        _ => text.to_owned(),
    }
}

#[test]
fn results_are_those_of_qemu_ga() {
    let Some(qemu_ga) = crate::interop::qemu_ga() else { return };
    let cases = |dir: &str| {
        let separated =
            |path: &str, arg: Value| json!({"path": path, "arg": arg, "capture-output": true});
        vec![
            json!({"path": "/nope"}),
            json!({"path": ""}),
            json!({"path": "nope"}),
            json!({"path": dir}),
            json!({"path": "/proc/self/nope/\u{e9}"}),
            json!({"path": format!("{dir}/noexec")}),
            json!({"path": "noexec", "env": [format!("PATH={dir}")]}),
            json!({"path": "noexec", "env": [format!("PATH={dir}:/bin:/usr/bin")]}),
            json!({"path": "nope", "env": [format!("PATH={dir}:/etc/passwd")]}),
            json!({"path": "nope", "env": [format!("PATH=/etc/passwd:{dir}")]}),
            json!({"path": "a".repeat(300)}),
            json!({"path": "/etc/passwd/x"}),
            separated(&format!("{dir}/script"), json!(["a", "b"])),
            json!({"path": "script", "env": [format!("PATH={dir}")], "capture-output": true}),
            json!({"path": "script", "env": ["PATH="], "capture-output": true}),
            json!({"path": "sh", "arg": ["-c", "echo $A"], "env": ["A=b"], "capture-output": true}),
            json!({"path": "/usr/bin/env", "env": ["A=b", "JUNK", "=x", "A=c", ""],
                   "capture-output": true}),
            json!({"path": "/usr/bin/env", "env": [], "capture-output": true}),
            separated("sh", json!(["-c", "kill -9 $$"])),
            separated("sh", json!(["-c", "echo o; echo e >&2; exit 300"])),
            separated("sh", json!(["-c", "pwd; umask; readlink /proc/self/fd/0"])),
            separated("sh", json!(["-c", "echo a\u{0}b"])),
            json!({"path": "cat", "input-data": "QUJD", "capture-output": true}),
            json!({"path": "cat", "input-data": "QUJ", "capture-output": true}),
            json!({"path": "cat", "input-data": "", "capture-output": true}),
            json!({"path": "cat", "input-data": "QU!D"}),
            json!({"path": "/nope", "input-data": "QU!D"}),
            json!({"path": "true", "capture-output": false}),
            json!({"path": 1}),
            json!({}),
            json!({"path": "true", "arg": ["a", 1]}),
            json!({"path": "true", "x": 1}),
        ]
    };
    let [ours, theirs] = [AGENT, qemu_ga.to_str().unwrap()].map(|program| {
        use std::os::unix::fs::PermissionsExt as _;
        let bed = Bed::new();
        let file = |name: &str, text: &str, mode| {
            std::fs::write(bed.path(name), text).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(bed.path(name), mode).unwrap();
        };
        file("noexec", "x", 0o644);
        file("script", "echo \"script $0 $*\"\n", 0o755);
        let agent = Agent::spawn(&mut bed.command(program), &bed.path("socket"));
        let mut client = agent.connect();
        let dir = bed.dir.path().display().to_string();
        let mut seen = Vec::new();
        for case in cases(&dir) {
            let result = run(&mut client, &case).map(|mut result| {
                for name in ["out-data", "err-data"] {
                    if !result[name].is_null() {
                        result[name] = decoded(&result[name]).replace(&dir, "DIR").into();
                    }
                }
                result
            });
            let result = result.map_err(|text| as_of_11_1(&text).replace(&dir, "DIR"));
            seen.push((case.to_string().replace(&dir, "DIR"), result));
        }
        let unknown = status(&mut client, 1).map_err(|text| as_of_11_1(&text));
        seen.push(("status".into(), unknown));
        seen
    });
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
}
