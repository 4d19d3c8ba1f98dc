//! Programs in guests: started, followed, read and written while they run.

mod attach;
mod input;
pub(super) mod programs;
mod streams;
mod tickets;

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use qga_gateway::vm::LinkState;
use qga_proto::command::OutputStream::{Stderr, Stdout};
use serde_json::{Value, json};

use super::client::Ask;
use super::gateway::{BOUND, Gateway};
use super::rights::{grant, token, with};
use super::shut_out::rules;
use programs::Programs;

/// A gateway before an agent whose programs do what the test says.
async fn gateway(programs: &Programs, more: &str) -> Gateway {
    let agent = programs.clone();
    let gateway = Gateway::before(move |path| agent.listen(path), more).await;
    gateway.wait_for(LinkState::Ready).await;
    gateway.known().await;
    gateway
}

/// Starts a program; its number, and what the test's agent knows it by.
async fn start(gateway: &Gateway, programs: &Programs, mut body: Value) -> (i64, i64) {
    body["argv"] = json!(["/bin/program", "an argument"]);
    let answer = gateway.ask("POST", "/vms/vm/processes").json(&body).send().await;
    let process = answer.expect(201);
    let pid = process["pid"].as_i64().unwrap();
    assert_eq!(answer.header("location"), format!("/vms/vm/processes/{pid}"));
    assert_eq!(process["state"], "running");
    (pid, programs.handle_of(pid))
}

fn at(gateway: &Gateway, method: &str, pid: i64, rest: &str) -> Ask {
    gateway.ask(method, &format!("/vms/vm/processes/{pid}{rest}"))
}

/// Asks until that holds of the process.
async fn until(gateway: &Gateway, pid: i64, holds: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        let mut often = tokio::time::interval(Duration::from_millis(5));
        loop {
            often.tick().await;
            let process = at(gateway, "GET", pid, "").send().await.expect(200);
            if holds(&process) {
                return process;
            }
        }
    };
    tokio::time::timeout(BOUND, look).await.expect("in time")
}

#[tokio::test]
async fn a_result_that_is_waited_for_is_for_who_has_the_right_to_it() {
    let programs = Programs::extension();
    let (name, exec) = (token("runs"), grant("runs", &["exec"], ""));
    let gateway = gateway(&programs, &(name.clone() + &exec)).await;
    let path = "/vms/vm/processes?wait=600";
    let ask = || {
        let ask = with(gateway.ask_tcp("POST", path), "runs").header("idempotency-key", "k");
        ask.json(&json!({"argv": ["/bin/program"]})).send()
    };
    let waits = tokio::spawn(ask());
    let started = async {
        while programs.handles().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, started).await.expect("it runs");
    gateway.authority.replace(rules(&(name.clone() + &grant("runs", &["observe"], ""))));
    let answer = tokio::time::timeout(BOUND, waits).await.expect("at once").unwrap();
    let problem = answer.problem(403, "forbidden");
    assert_eq!((&problem["outcome"], &problem["pid"]), (&json!("unknown"), &json!(null)));
    ask().await.problem(403, "forbidden");
    // Nor is it started again.
    gateway.authority.replace(rules(&(name + &exec)));
    assert_eq!(ask().await.header("idempotency-replayed"), "true");
    assert_eq!(programs.handles().len(), 1);
}

/// A stream that is being read.
struct Reading {
    response: Response<Incoming>,
    text: Vec<u8>,
}

/// An event of such a stream.
#[derive(Debug)]
struct Told {
    id: String,
    kind: String,
    data: Value,
}

impl Reading {
    async fn open(ask: Ask) -> Self {
        let response = ask.open().await;
        assert_eq!(response.status(), 200);
        Self { response, text: Vec::new() }
    }

    /// More bytes; false at the end. An error is one that breaks off.
    async fn more(&mut self) -> Result<bool, hyper::Error> {
        let frame = tokio::time::timeout(BOUND, self.response.body_mut().frame());
        let Some(frame) = frame.await.expect("in time") else { return Ok(false) };
        self.text.extend_from_slice(&frame?.into_data().unwrap());
        Ok(true)
    }

    async fn at_least(&mut self, count: usize) {
        while self.text.len() < count {
            assert!(self.more().await.unwrap(), "it ended at {}", self.text.len());
        }
    }

    async fn all(mut self) -> Vec<u8> {
        while self.more().await.unwrap() {}
        self.text
    }

    /// The next event; none at the end.
    async fn event(&mut self) -> Option<Told> {
        loop {
            while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
                let frame: Vec<u8> = self.text.drain(..end + 2).collect();
                let frame = String::from_utf8(frame).unwrap();
                let field = |name: &str| {
                    frame.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
                };
                let Some(data) = field("data") else { continue };
                return Some(Told {
                    id: field("id").unwrap().to_owned(),
                    kind: field("event").unwrap().to_owned(),
                    data: serde_json::from_str(data).unwrap(),
                });
            }
            if !self.more().await.unwrap() {
                return None;
            }
        }
    }
}

fn events(gateway: &Gateway, pid: i64, query: &str) -> Ask {
    at(gateway, "GET", pid, &format!("/output{query}")).header("accept", "text/event-stream")
}

#[tokio::test]
async fn a_result_is_kept_though_the_guest_gives_it_once() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let body = json!({"env": {"A": "b"}, "cwd": "/tmp", "user": "ada", "timeout_seconds": 1.5,
                      "stdin": "hi", "capture": "separated"});
    let (pid, handle) = start(&gateway, &programs, body).await;
    let told = serde_json::to_value(programs.last_start().unwrap()).unwrap();
    assert_eq!(
        told,
        json!({"argv": ["/bin/program", "an argument"], "env": ["A=b"], "cwd": "/tmp",
               "user": "ada", "timeout-ms": 1500, "capture-output": "separated",
               "overflow": "drop", "input-data": "aGk="})
    );
    programs.write(handle, Stdout, b"out\n");
    programs.write(handle, Stderr, b"\xff");
    programs.exit(handle, 3);
    let process = until(&gateway, pid, |process| process["complete"] == true).await;
    assert_eq!(process["state"], "exited");
    assert_eq!((&process["exit_code"], &process["signal"]), (&json!(3), &Value::Null));
    assert_eq!(process["stdout"], json!({"start": 0, "end": 4, "eof": true, "text": "out\n"}));
    assert_eq!(process["stderr"], json!({"start": 0, "end": 1, "eof": true, "base64": "/w=="}));
    assert!(process["owner"].as_str().unwrap().starts_with("unix:uid="), "{process}");
    assert_eq!((&process["streaming"], &process["pty"]), (&json!(true), &json!(false)));
    assert_eq!(process["program"], "/bin/program");
    // The guest has been given its memory back, and it is asked nothing more.
    let forgotten = async {
        while !programs.handles().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, forgotten).await.expect("forgotten");
    assert_eq!(at(&gateway, "GET", pid, "").send().await.expect(200), process);
    let list = gateway.ask("GET", "/vms/vm/processes").send().await.expect(200);
    assert_eq!(list["processes"][0]["pid"], pid);
    assert_eq!(list["processes"][0]["stdout"], json!({"start": 0, "end": 4, "eof": true}));
    at(&gateway, "DELETE", pid, "").send().await.expect(200);
    let problem = at(&gateway, "GET", pid, "").send().await.problem(404, "process_not_found");
    assert_eq!(problem["vm_id"], "vm");
}

#[tokio::test]
async fn an_answer_may_wait_for_the_result() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let ask = gateway.ask("POST", "/vms/vm/processes?wait=20");
    let sent = tokio::spawn(ask.json(&json!({"argv": ["x"]})).send());
    while programs.handles().is_empty() {
        tokio::task::yield_now().await;
    }
    programs.write(100, Stdout, b"done");
    programs.exit(100, 0);
    let process = sent.await.unwrap().expect(201);
    assert_eq!((&process["state"], &process["stdout"]["text"]), (&json!("exited"), &json!("done")));
    let ask = gateway.ask("POST", "/vms/vm/processes?wait=0.05").json(&json!({"argv": ["x"]}));
    let process = ask.send().await.expect(201);
    assert_eq!((&process["state"], &process["complete"]), (&json!("running"), &json!(false)));
    for bad in ["wait=-1", "wait=1e9", "wait=x", "wait=NaN"] {
        let ask = gateway.ask("POST", &format!("/vms/vm/processes?{bad}"));
        ask.json(&json!({"argv": ["x"]})).send().await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_stock_agent_does_what_it_can_and_the_rest_is_refused_by_name() {
    let programs = Programs::stock();
    let gateway = gateway(&programs, "").await;
    for (member, value) in [
        ("cwd", json!("/tmp")),
        ("user", json!("ada")),
        ("timeout_seconds", json!(1)),
        ("pty", json!({"rows": 24, "cols": 80})),
        ("stdin_open", json!(true)),
        ("overflow", json!("wait")),
    ] {
        let ask = gateway.ask("POST", "/vms/vm/processes");
        let answer = ask.json(&json!({"argv": ["x"], member: value})).send().await;
        let problem = answer.problem(501, "command_unsupported");
        assert_eq!((&problem["member"], &problem["outcome"]), (&json!(member), &json!("not_sent")));
        assert!(problem["detail"].as_str().unwrap().contains(member), "{problem}");
    }
    assert_eq!(programs.times("guest-exec"), 0);
    let body = json!({"env": {"A": "b"}, "stdin_b64": "/w==", "overflow": "drop"});
    let (pid, handle) = start(&gateway, &programs, body).await;
    let exec: Value = serde_json::from_str(&programs.last_exec().unwrap()).unwrap();
    assert_eq!(
        exec,
        json!({"path": "/bin/program", "arg": ["an argument"], "env": ["A=b"],
               "input-data": "/w==", "capture-output": "separated"})
    );
    for (method, rest, member) in [("POST", "/signal", "signal"), ("DELETE", "", "kill")] {
        let mut ask = at(&gateway, method, pid, rest);
        if method == "POST" {
            ask = ask.json(&json!({"signal": "TERM"}));
        }
        let problem = ask.send().await.problem(501, "command_unsupported");
        assert_eq!(problem["member"], member);
    }
    at(&gateway, "PUT", pid, "/stdin").text("x").send().await.problem(409, "process_conflict");
    at(&gateway, "GET", pid, "/attach").send().await.problem(409, "process_conflict");
    let mut reading = Reading::open(events(&gateway, pid, "")).await;
    assert_eq!(reading.response.headers()["x-output-streaming"], "false");
    programs.write(handle, Stdout, b"a line\n");
    programs.exit(handle, 0);
    let told = reading.event().await.unwrap();
    assert_eq!((&*told.kind, told.data), ("stdout", json!({"offset": 0, "text": "a line\n"})));
    assert_eq!(reading.event().await.unwrap().kind, "exit");
    // Again, and as bytes.
    let all = Reading::open(at(&gateway, "GET", pid, "/output")).await.all().await;
    assert_eq!(all, b"a line\n");
    let process = at(&gateway, "GET", pid, "").send().await.expect(200);
    assert_eq!((&process["streaming"], &process["exit_code"]), (&json!(false), &json!(0)));
    at(&gateway, "DELETE", pid, "").send().await.expect(200);
}

#[tokio::test]
async fn bare_guest_exec_has_a_place_and_its_result_is_kept() {
    let programs = Programs::stock();
    let gateway = gateway(&programs, "[limits]\nprocesses_per_vm = 1\n").await;
    let send = |name: &str, arguments: Value| {
        let ask = gateway.ask("POST", &format!("/vms/vm/commands/{name}"));
        ask.json(&json!({"arguments": arguments})).send()
    };
    let exec = json!({"path": "/bin/true", "capture-output": true});
    let pid = send("guest-exec", exec.clone()).await.expect(200)["return"]["pid"].clone();
    let status = || send("guest-exec-status", json!({"pid": pid}));
    assert_eq!(status().await.expect(200), json!({"return": {"exited": false}}));
    send("guest-exec", exec.clone()).await.problem(429, "too_many_processes");
    programs.write(pid.as_i64().unwrap(), Stdout, b"hi");
    programs.exit(pid.as_i64().unwrap(), 7);
    let process = until(&gateway, pid.as_i64().unwrap(), |p| p["complete"] == true).await;
    assert_eq!(process["program"], "/bin/true");
    let result = json!({"return": {"exited": true, "exitcode": 7, "out-data": "aGk="}});
    for _ in 0..2 {
        assert_eq!(status().await.expect(200), result);
    }
    // A result gives way to what is new.
    send("guest-exec", exec).await.expect(200);
    at(&gateway, "GET", pid.as_i64().unwrap(), "").send().await.problem(404, "process_not_found");
    // What only the table may do is not done past it.
    for name in ["x-guest-exec-start", "x-guest-exec-read", "x-guest-exec-forget"] {
        let problem = send(name, json!({})).await.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains("/vms/vm/processes"));
    }
    let problem = send("guest-exec-status", json!({"pid": 1})).await.problem(422, "agent_error");
    assert_eq!(problem["qga_desc"], "PID 1 does not exist");
}

#[tokio::test]
async fn running_programs_are_bounded_and_results_expire() {
    let programs = Programs::extension();
    let more = "[limits]\nprocesses_per_vm = 2\nprocess_results_seconds = 0.05\n";
    let gateway = gateway(&programs, more).await;
    let (first, handle) = start(&gateway, &programs, json!({})).await;
    start(&gateway, &programs, json!({})).await;
    let ask = || gateway.ask("POST", "/vms/vm/processes").json(&json!({"argv": ["x"]}));
    let problem = ask().send().await.problem(429, "too_many_processes");
    assert!(problem["detail"].as_str().unwrap().contains("processes_per_vm"), "{problem}");
    programs.exit(handle, 0);
    let gone = async {
        let mut often = tokio::time::interval(Duration::from_millis(5));
        while at(&gateway, "GET", first, "").send().await.status != 404 {
            often.tick().await;
        }
    };
    tokio::time::timeout(BOUND, gone).await.expect("expires");
    ask().send().await.expect(201);
}

#[tokio::test]
async fn signals_and_deletion_reach_the_group() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({})).await;
    let signal = |body: Value| at(&gateway, "POST", pid, "/signal").json(&body).send();
    signal(json!({"signal": "SIGTERM"})).await.expect(200);
    signal(json!({"signal": 64, "alone": true})).await.expect(200);
    assert_eq!(programs.signals(), [(handle, 15), (handle, 64)]);
    for bad in [json!({"signal": "NONE"}), json!({"signal": 0}), json!({})] {
        signal(bad).await.problem(400, "bad_request");
    }
    let mut reading = Reading::open(events(&gateway, pid, "")).await;
    at(&gateway, "DELETE", pid, "").send().await.expect(200);
    assert!(programs.handles().is_empty());
    let told = reading.event().await.unwrap();
    assert_eq!((&*told.kind, &told.data["state"]), ("exit", &json!("lost")));
    at(&gateway, "GET", pid, "").send().await.problem(404, "process_not_found");
    signal(json!({"signal": 1})).await.problem(404, "process_not_found");
    // One that has ended is sent none.
    let (pid, handle) = start(&gateway, &programs, json!({})).await;
    programs.exit(handle, 0);
    until(&gateway, pid, |process| process["complete"] == true).await;
    let ask = at(&gateway, "POST", pid, "/signal").json(&json!({"signal": "KILL"}));
    ask.send().await.problem(409, "process_conflict");
}

#[tokio::test]
async fn a_repeat_under_a_key_starts_nothing_twice() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let ask = || {
        let ask = gateway.ask("POST", "/vms/vm/processes").header("idempotency-key", "k");
        ask.json(&json!({"argv": ["x"]})).send()
    };
    let (first, second) = (ask().await, ask().await);
    assert_eq!(first.expect(201), second.expect(201));
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!(programs.times("x-guest-exec-start"), 1);
}

#[tokio::test]
async fn another_run_of_the_agent_loses_its_programs_and_says_so() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({})).await;
    programs.write(handle, Stdout, b"some");
    until(&gateway, pid, |process| process["stdout"]["end"] == 4).await;
    programs.restart();
    let process = until(&gateway, pid, |process| process["state"] == "lost").await;
    assert!(process["reason"].as_str().unwrap().contains("started afresh"), "{process}");
    assert_eq!(process["stdout"]["text"], "some");
    // What came of it is there; as bytes it breaks off, because it is not whole.
    let mut reading = Reading::open(at(&gateway, "GET", pid, "/output")).await;
    while let Ok(true) = reading.more().await {}
    assert_eq!(reading.text, b"some");
    let stock = Programs::stock();
    let gateway = self::gateway(&stock, "").await;
    let (pid, _) = start(&gateway, &stock, json!({})).await;
    stock.restart();
    let process = until(&gateway, pid, |process| process["state"] == "lost").await;
    let reason = process["reason"].as_str().unwrap();
    assert!(reason.contains("does not know it") || reason.contains("was lost"), "{process}");
}

#[tokio::test]
async fn another_gateway_finds_what_runs() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({"pty": {"rows": 2, "cols": 2}})).await;
    programs.write(handle, Stdout, b"before ");
    until(&gateway, pid, |process| process["stdout"]["end"] == 7).await;
    drop(gateway);
    let gateway = self::gateway(&programs, "").await;
    let process = at(&gateway, "GET", pid, "").send().await.expect(200);
    assert_eq!((&process["owner"], &process["program"]), (&Value::Null, &json!("/bin/program")));
    assert_eq!(process["pty"], true);
    programs.write(handle, Stdout, b"and after");
    programs.exit(handle, 0);
    let process = until(&gateway, pid, |process| process["complete"] == true).await;
    let output = &process["stdout"];
    let start = output["start"].as_u64().unwrap();
    // What the first gateway had taken is gone with it, at most.
    assert!(start <= 7 && output["end"] == 16, "{process}");
    assert!("before and after".ends_with(output["text"].as_str().unwrap()), "{process}");
}

#[tokio::test]
async fn a_freeze_waits_for_no_program_and_it_goes_on_after_the_thaw() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({"stdin_open": true})).await;
    programs.set_frozen(true);
    gateway.ask("POST", "/vms/vm/sync").send().await;
    // The link learns of it as it does of any freeze.
    gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    programs.write(handle, Stdout, b"while frozen");
    let ask = gateway.ask("POST", "/vms/vm/processes").json(&json!({"argv": ["x"]}));
    ask.send().await.problem(409, "vm_frozen");
    assert_eq!(at(&gateway, "GET", pid, "").send().await.expect(200)["state"], "running");
    let write = tokio::spawn(at(&gateway, "PUT", pid, "/stdin").text("input").send());
    programs.set_frozen(false);
    gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    until(&gateway, pid, |process| process["stdout"]["end"] == 12).await;
    write.await.unwrap().expect(200);
    assert_eq!(programs.input(handle), b"input");
}
