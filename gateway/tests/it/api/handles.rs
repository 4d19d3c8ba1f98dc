//! Whose a handle is: its opener's, and within reach of those who may send anything; a transfer's is
//! nobody's.

use qga_gateway::config::Config;
use qga_gateway::rights::Rules;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::client::{Answer, Ask};
use super::downloads::{self, CHUNK, all_closed, eventually, noise};
use super::file_agent::FileAgent;
use super::gateway::Gateway;
use super::rights::{grant, lacks_right, token, with};
use super::uploads::begin;

/// A reader and two who write, none of whom may send anything; one that may, and one that may and does
/// not write.
fn grants() -> String {
    let both: &[&str] = &["observe", "files_read", "files_write"];
    let raw: &[&str] = &["observe", "files_read", "files_write", "raw"];
    [
        ("reader", &["observe", "files_read"][..]),
        ("ann", both),
        ("bob", both),
        ("root", raw),
        ("peeker", &["observe", "files_read", "raw"]),
    ]
    .map(|(name, rights)| token(name) + &grant(name, rights, ""))
    .concat()
}

struct Bed {
    agent: FileAgent,
    gateway: Gateway,
}

impl Bed {
    async fn new(limits: &str) -> Self {
        let agent = FileAgent::new(true);
        agent.put("/f", b"content");
        let gateway = downloads::gateway(&agent, &(limits.to_owned() + &grants())).await;
        Self { agent, gateway }
    }

    async fn open(&self, who: &str, mode: &str) -> Answer {
        let ask = self.ask(who, "POST", "/vms/vm/file-handles");
        ask.json(&json!({"path": "/f", "mode": mode})).send().await
    }

    async fn opened(&self, who: &str, mode: &str) -> i64 {
        self.open(who, mode).await.expect(201)["handle"].as_i64().unwrap()
    }

    fn ask(&self, who: &str, method: &str, path: &str) -> Ask {
        with(self.gateway.ask_tcp(method, path), who)
    }

    /// One operation on a handle, by its own path.
    async fn does(&self, who: &str, what: &str, handle: i64) -> Answer {
        let path = format!("/vms/vm/file-handles/{handle}");
        let (method, path) = match what {
            "close" => ("DELETE", path),
            what => ("POST", format!("{path}/{what}")),
        };
        let ask = self.ask(who, method, &path);
        let ask = match arguments(what) {
            Value::Null => ask,
            body => ask.json(&body),
        };
        ask.send().await
    }

    /// The same as it is.
    async fn sends(&self, who: &str, what: &str, handle: i64) -> Answer {
        let mut body = arguments(what);
        body["handle"] = handle.into();
        self.raw(who, &format!("guest-file-{what}"), &body).await
    }

    async fn raw(&self, who: &str, command: &str, arguments: &Value) -> Answer {
        let ask = self.ask(who, "POST", &format!("/vms/vm/commands/{command}"));
        ask.json(&json!({"arguments": arguments})).send().await
    }

    /// Commands about handles that the agent was sent.
    fn sent(&self) -> usize {
        WHAT.iter().map(|what| self.agent.ran(&format!("guest-file-{what}"))).sum()
    }
}

const WHAT: [&str; 5] = ["read", "write", "seek", "flush", "close"];

fn arguments(what: &str) -> Value {
    match what {
        "read" => json!({"count": 4}),
        "write" => json!({"buf-b64": "QUJD"}),
        "seek" => json!({"offset": 0, "whence": "set"}),
        _ => Value::Null,
    }
}

#[tokio::test]
async fn a_handle_is_its_openers() {
    let bed = Bed::new("").await;
    let handle = bed.opened("ann", "r+").await;
    for what in WHAT {
        let problem = bed.does("bob", what, handle).await.problem(404, "file_handle_unknown");
        assert_eq!(problem["outcome"], "not_sent", "{what}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.contains("/f") && !detail.contains("ann"), "{detail}");
        let answer = bed.does("reader", what, handle).await;
        match what {
            "write" | "flush" => assert!(lacks_right(&answer), "{what}"),
            _ => drop(answer.problem(404, "file_handle_unknown")),
        }
    }
    assert_eq!(bed.sent(), 0);
    for what in WHAT {
        bed.does("ann", what, handle).await.expect(200);
    }
    assert_eq!(bed.agent.content("/f").unwrap(), b"contABC");
    // It is closed.
    bed.does("ann", "read", handle).await.problem(404, "file_handle_unknown");
    assert_eq!((bed.sent(), bed.agent.open()), (WHAT.len(), 0));
}

#[tokio::test]
async fn whoever_may_send_anything_reaches_what_others_opened_as_far_as_it_may_write() {
    let bed = Bed::new("").await;
    let handle = bed.opened("ann", "r+").await;
    for what in ["read", "write", "seek", "flush"] {
        bed.does("root", what, handle).await.expect(200);
        bed.sends("root", what, handle).await.expect(200);
    }
    let before = bed.sent();
    for what in ["read", "seek", "close"] {
        assert!(lacks_right(&bed.does("peeker", what, handle).await), "{what}");
        assert!(lacks_right(&bed.sends("peeker", what, handle).await), "{what}");
    }
    assert_eq!(bed.sent(), before, "it was opened to be written to");
    let other = bed.opened("ann", "r").await;
    bed.does("peeker", "read", other).await.expect(200);
    bed.sends("peeker", "close", other).await.expect(200);
    bed.does("ann", "read", other).await.problem(404, "file_handle_unknown");
    bed.does("root", "close", handle).await.expect(200);
    bed.does("ann", "read", handle).await.problem(404, "file_handle_unknown");
}

#[tokio::test]
async fn a_handle_that_nobody_here_opened_is_for_those_who_may_send_anything() {
    let bed = Bed::new("").await;
    bed.does("ann", "read", 4711).await.problem(404, "file_handle_unknown");
    assert_eq!(bed.sent(), 0);
    for answer in [bed.does("root", "read", 4711).await, bed.sends("root", "read", 4711).await] {
        let problem = answer.problem(422, "agent_error");
        assert_eq!(problem["qga_desc"], "handle '4711' has not been found");
    }
    assert_eq!(bed.sent(), 2);
}

#[tokio::test]
async fn a_handle_is_for_what_it_was_opened_for() {
    let bed = Bed::new("").await;
    let (read, write) = (bed.opened("ann", "r").await, bed.opened("ann", "w").await);
    let (raw_read, raw_write) = (bed.opened("root", "r").await, bed.opened("root", "a").await);
    for answer in [
        bed.does("ann", "write", read).await,
        bed.does("ann", "read", write).await,
        bed.sends("root", "write", raw_read).await,
        bed.sends("root", "read", raw_write).await,
    ] {
        answer.problem(409, "file_handle_conflict");
    }
    assert_eq!(bed.sent(), 0);
}

#[tokio::test]
async fn what_is_opened_as_it_is_is_a_handle_like_any_other() {
    let bed = Bed::new("").await;
    let open = |mode: &str| json!({"path": "/f", "mode": mode});
    let opened = bed.raw("root", "guest-file-open", &open("r+")).await.expect(200);
    let handle = opened["return"].as_i64().unwrap();
    let opened = bed.raw("root", "x-guest-file-open", &json!({"path": "/f"})).await.expect(200);
    let extended = opened["return"]["handle"].as_i64().unwrap();
    for handle in [handle, extended] {
        bed.does("ann", "read", handle).await.problem(404, "file_handle_unknown");
        bed.does("root", "read", handle).await.expect(200);
    }
    bed.sends("root", "write", extended).await.problem(409, "file_handle_conflict");
    assert!(lacks_right(&bed.does("peeker", "close", handle).await));
    bed.sends("peeker", "close", extended).await.expect(200);
    // What opens a file to be written takes the right to write, whoever may send it.
    let writing = json!({"path": "/f", "write": true});
    for (command, arguments) in [
        ("guest-file-open", open("w")),
        ("guest-file-open", open("r+")),
        ("guest-file-open", json!({"path": "/f", "mode": 7})),
        ("x-guest-file-open", writing),
    ] {
        assert!(lacks_right(&bed.raw("peeker", command, &arguments).await), "{arguments}");
    }
    bed.raw("peeker", "guest-file-open", &open("r")).await.expect(200);
    // No spelling of a number leads by.
    for odd in [json!(handle.to_string()), json!(1.0e3), json!([handle])] {
        let answer = bed.raw("root", "guest-file-close", &json!({"handle": odd})).await;
        answer.problem(400, "bad_request");
    }
    assert_eq!(bed.agent.content("/f").unwrap(), b"content");
}

#[tokio::test]
async fn handles_of_transfers_are_out_of_everybodys_reach() {
    let bed = Bed::new("").await;
    let data = noise(3 * CHUNK);
    let mut upload = begin(&bed.gateway, "/up", data.len(), &data[..CHUNK]).await;
    eventually("it goes on", || bed.agent.ran("guest-file-write") > 0).await;
    let [handle] = bed.agent.handles()[..] else { panic!("one is open") };
    let before = bed.sent();
    for what in WHAT {
        bed.does("ann", what, handle).await.problem(404, "file_handle_unknown");
        let problem = bed.does("root", what, handle).await.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains("transfers"), "{problem}");
        bed.sends("root", what, handle).await.problem(403, "forbidden");
    }
    for command in ["x-guest-file-sync", "x-guest-file-commit"] {
        let answer = bed.raw("root", command, &json!({"handle": handle})).await;
        answer.problem(403, "forbidden");
    }
    assert_eq!((bed.sent(), bed.agent.ran("x-guest-file-commit")), (before, 0));
    upload.write_all(&data[CHUNK..]).await.unwrap();
    eventually("it is there", || bed.agent.content("/up").as_deref() == Some(&*data)).await;
    // It is the transfer's no more.
    all_closed(&bed.agent).await;
    let freed = async { while bed.sends("root", "read", handle).await.status != 422 {} };
    tokio::time::timeout(super::gateway::BOUND, freed).await.expect("the agent is asked");
}

#[tokio::test]
async fn a_number_that_a_transfer_is_about_to_be_given_is_not_tried() {
    let bed = Bed::new("").await;
    bed.agent.hold(true);
    let upload = begin(&bed.gateway, "/up", 3, b"abc").await;
    let refused = async {
        loop {
            let problem = bed.sends("root", "close", 1_000_000).await;
            if problem.status == 409 {
                break problem.problem(409, "file_handle_conflict");
            }
        }
    };
    let problem = tokio::time::timeout(super::gateway::BOUND, refused).await.expect("soon");
    assert_eq!((&problem["retryable"], &problem["outcome"]), (&json!(true), &json!("not_sent")));
    bed.agent.hold(false);
    eventually("it is there", || bed.agent.content("/up").is_some()).await;
    drop(upload);
}

#[tokio::test]
async fn nobody_has_more_open_than_the_limit_and_others_have_theirs() {
    let bed = Bed::new("[limits]\ntransfers_vm = 2\n").await;
    let first = bed.opened("ann", "r").await;
    bed.opened("ann", "r").await;
    let problem = bed.open("ann", "r").await.problem(429, "too_many_file_handles");
    assert_eq!(problem["outcome"], "not_sent");
    bed.opened("bob", "r").await;
    bed.does("ann", "close", first).await.expect(200);
    bed.opened("ann", "r").await;
    for _ in 0..2 {
        bed.raw("root", "guest-file-open", &json!({"path": "/f"})).await.expect(200);
    }
    let full = bed.raw("root", "guest-file-open", &json!({"path": "/f"})).await;
    full.problem(429, "too_many_file_handles");
    assert_eq!(bed.agent.open(), 5);
    // What cannot be opened takes no place.
    bed.does("bob", "read", first).await.problem(404, "file_handle_unknown");
    for _ in 0..3 {
        let ask = bed.ask("bob", "POST", "/vms/vm/file-handles").json(&json!({"path": "/none"}));
        assert_eq!(ask.send().await.status, 404);
    }
    bed.opened("bob", "r").await;
}

#[tokio::test]
async fn an_agent_that_was_started_afresh_has_none_of_them() {
    let bed = Bed::new("[limits]\ntransfers_vm = 1\n").await;
    let handle = bed.opened("ann", "r").await;
    bed.agent.restart();
    let told = async {
        loop {
            let answer = bed.does("ann", "read", handle).await;
            if answer.status != 503 {
                break answer;
            }
        }
    };
    let answer = tokio::time::timeout(super::gateway::BOUND, told).await.expect("soon");
    answer.problem(422, "agent_error");
    bed.does("ann", "read", handle).await.problem(404, "file_handle_unknown");
    bed.opened("ann", "r").await;
}

fn rules(text: &str) -> Rules {
    let config = Config::parse(text, "test.toml".as_ref()).unwrap();
    Rules::new(&config.grants, &config.tokens)
}

#[tokio::test]
async fn with_the_right_the_handles_go() {
    let only_ann = token("ann") + &grant("ann", &["observe", "files_read"], "");
    let limited = "files = [\"/dir\"]";
    for left in [
        // The token is withdrawn.
        String::new(),
        // Its grant.
        token("ann"),
        // A part of its grant.
        token("ann") + &grant("ann", &["observe", "files_read"], limited),
    ] {
        let bed = Bed::new("").await;
        let (handle, other) = (bed.opened("ann", "r").await, bed.opened("bob", "r").await);
        let bobs = token("bob") + &grant("bob", &["files_read"], "");
        bed.gateway.authority.replace(rules(&(left.clone() + &bobs)));
        eventually("it is closed", || bed.agent.handles() == [other]).await;
        let answer = bed.does("ann", "read", handle).await;
        assert!([401, 403, 404].contains(&answer.status.as_u16()), "{:?}", answer.body);
        // It is not there again with the right.
        bed.gateway.authority.replace(rules(&(only_ann.clone() + &bobs)));
        bed.does("ann", "read", handle).await.problem(404, "file_handle_unknown");
        bed.does("bob", "read", other).await.expect(200);
    }
}

#[tokio::test]
async fn what_is_opened_for_somebody_who_has_gone_is_closed_again() {
    let bed = Bed::new("[limits]\ntransfers_vm = 1\n").await;
    let in_hand = async |requests: usize| {
        let line = format!("qga_http_requests_in_flight {requests}\n");
        let told = async {
            loop {
                let figures = bed.gateway.ask("GET", "/metrics").send().await.body;
                if String::from_utf8_lossy(&figures).contains(&line) {
                    return;
                }
            }
        };
        tokio::time::timeout(super::gateway::BOUND, told).await.expect("in time");
    };
    for (n, (path, body)) in [
        ("file-handles", json!({"path": "/f"})),
        ("commands/guest-file-open", json!({"arguments": {"path": "/f"}})),
        ("commands/x-guest-file-open", json!({"arguments": {"path": "/f"}})),
    ]
    .into_iter()
    .enumerate()
    {
        bed.agent.hold(true);
        let opens = bed.ask("root", "POST", &format!("/vms/vm/{path}")).json(&body);
        let opens = tokio::spawn(opens.send());
        // The question itself is one.
        in_hand(2).await;
        opens.abort();
        in_hand(1).await;
        bed.open("root", "r").await.problem(429, "too_many_file_handles");
        bed.agent.hold(false);
        let closed = || bed.agent.ran("guest-file-close") == 2 * n + 1 && bed.agent.open() == 0;
        eventually("it is closed", closed).await;
        // Its place is free once the gateway knows.
        let again = async {
            loop {
                let answer = bed.open("root", "r").await;
                if answer.status == 201 {
                    return answer.expect(201)["handle"].as_i64().unwrap();
                }
            }
        };
        let handle = tokio::time::timeout(super::gateway::BOUND, again).await.expect("in time");
        bed.does("root", "close", handle).await.expect(200);
    }
}
