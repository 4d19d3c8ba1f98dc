//! What all callers share: nobody uses up what another needs.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::agent::{Agent, Quirk};
use super::client::Target;
use super::downloads::{self, eventually};
use super::events::Stream;
use super::file_agent::FileAgent;
use super::gateway::{BOUND, Gateway};
use super::rights::{grant, lacks_right, token, with};
use super::shut_out::{VM, rules};
use super::uploads::begin;

const PING: &str = "/vms/vm/commands/guest-ping";

async fn gateway(config: &str) -> Gateway {
    let gateway = Gateway::configured(Agent::default(), config).await;
    gateway.wait_for(qga_gateway::vm::LinkState::Ready).await;
    gateway
}

/// The connection of a request of this size whose body is being read, and stops.
async fn half_sent(gateway: &Gateway, name: &str, size: usize) -> TcpStream {
    let Target::Tcp(address) = gateway.tcp else { panic!("no TCP") };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {PING} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {name}\r\n\
         content-type: application/json\r\ncontent-length: {size}\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = stream.read_exact(&mut answer);
    tokio::time::timeout(BOUND, read).await.expect("in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream
}

#[tokio::test]
async fn bodies_that_are_kept_in_memory_are_bounded_together_and_leave_room_for_others() {
    let config =
        ["greedy", "other"].map(|name| token(name) + &grant(name, &["raw", "freeze"], VM)).concat();
    let gateway = gateway(&(config + "[limits]\nrequest_bodies_bytes = 200000\n")).await;
    let held = half_sent(&gateway, "greedy", 100_000).await;
    let ask = |name: &str, size: usize| {
        let body = format!("{{}}{}", " ".repeat(size - 2));
        let ask = with(gateway.ask_tcp("POST", PING), name).text(body);
        ask.header("content-type", "application/json").send()
    };
    let waits = tokio::spawn(ask("greedy", 50_000));
    ask("other", 50_000).await.expect(200);
    // A freeze is small, and so is what it costs.
    let freeze = with(gateway.ask_tcp("POST", "/vms/vm/fsfreeze"), "greedy").json(&json!({}));
    freeze.send().await.expect(201);
    with(gateway.ask_tcp("DELETE", "/vms/vm/fsfreeze"), "greedy").send().await.expect(200);
    assert!(!waits.is_finished(), "it has all that it gets");
    drop(held);
    waits.await.unwrap().expect(200);
    // With a key the body is read in front of the operation, and takes its room once.
    let body = format!("{{}}{}", " ".repeat(90_000));
    let keyed = with(gateway.ask_tcp("POST", PING), "greedy").text(body);
    let keyed = keyed.header("content-type", "application/json").header("idempotency-key", "k");
    keyed.send().await.expect(200);
}

#[tokio::test]
async fn tickets_and_places_among_followers_are_shared_out() {
    let config = token("other") + &grant("other", &["observe"], VM) + &token("none");
    let limits = "[limits]\ntickets = 4\nevent_subscribers = 4\n";
    let gateway = gateway(&(config + limits)).await;
    let ticket = || {
        let body = json!({"method": "GET", "path": "/events"});
        gateway.ask_tcp("POST", "/tickets").json(&body)
    };
    let mine = gateway.token.clone();
    for _ in 0..2 {
        with(ticket(), &mine).send().await.expect(201);
    }
    with(ticket(), &mine).send().await.problem(429, "too_many_tickets");
    with(ticket(), "other").send().await.expect(201);

    let events = || gateway.ask_tcp("GET", "/events");
    let first = Stream::open(with(events(), &mine)).await;
    let _second = Stream::open(with(events(), &mine)).await;
    with(events(), &mine).send().await.problem(429, "too_many_subscribers");
    let mut other = Stream::open(with(events(), "other")).await;
    drop(first);
    let again = async {
        while with(events(), &mine).open().await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, again).await.expect("a place that is given back");

    // Events are for who may observe something, as long as they may.
    assert!(lacks_right(&with(ticket(), "none").send().await));
    assert!(lacks_right(&with(events(), "none").send().await));
    gateway.authority.replace(rules(&token("other")));
    assert!(other.ends().await);
}

#[tokio::test]
async fn nobodys_young_answers_go_for_what_somebody_else_sends_without_end() {
    let config = token("other") + &grant("other", &["freeze"], VM);
    let gateway = gateway(&(config + "[limits]\nidempotency_keys = 4\n")).await;
    let trim = |name: &str, key: &str| {
        let ask = with(gateway.ask_tcp("POST", "/vms/vm/fstrim"), name);
        ask.header("idempotency-key", key).send()
    };
    for key in ["a", "b"] {
        trim("other", key).await.expect(200);
    }
    for n in 0..20 {
        trim(&gateway.token, &n.to_string()).await.expect(200);
    }
    for key in ["a", "b"] {
        assert_eq!(trim("other", key).await.header("idempotency-replayed"), "true");
    }
    assert_eq!(gateway.agent.times("guest-fstrim"), 22);
}

#[tokio::test]
async fn who_has_not_the_right_writes_nothing_down_with_a_key() {
    let config = token("none") + &token("sees") + &grant("sees", &["observe"], VM);
    let gateway = gateway(&config).await;
    let commits = gateway.store.commits();
    let ask = |name: &str, path: &str| {
        with(gateway.ask_tcp("POST", path), name).header("idempotency-key", "k")
    };
    let group = json!({"vms": ["vm"]});
    for name in ["none", "sees"] {
        assert!(lacks_right(&ask(name, "/freezes").json(&group).send().await));
    }
    for path in ["/vms/vm/fstrim", "/vms/vm/fsfreeze", "/vms/vm/file-handles", PING] {
        assert!(lacks_right(&ask("sees", path).json(&json!({})).send().await), "{path}");
    }
    assert_eq!(gateway.store.commits(), commits);
}

#[tokio::test]
async fn a_key_whose_caller_has_gone_before_anything_was_sent_is_free_again() {
    let gateway = gateway("[limits]\nconnect_wait_seconds = 0.2\n").await;
    let Target::Tcp(address) = gateway.tcp else { panic!("no TCP") };
    let send = async |body: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /vms/absent/fstrim HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             idempotency-key: k\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{body}",
            gateway.token
        );
        stream.write_all(request.as_bytes()).await.unwrap();
    };
    // Gone within its body, and behind it.
    send("{").await;
    send("{}").await;
    let free = async {
        loop {
            let ask = with(gateway.ask_tcp("POST", "/vms/absent/fstrim"), &gateway.token);
            let ask = ask.header("idempotency-key", "k").json(&json!({"minimum": 4096}));
            let answer = ask.send().await;
            if answer.status == 503 {
                return answer.problem(503, "agent_unavailable");
            }
            // As long as the first is in hand, it is that one's key.
            answer.problem(422, "idempotency_mismatch");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, free).await.expect("in time");
}

#[tokio::test]
async fn a_call_whose_caller_has_gone_takes_no_memory_behind_another_that_hangs() {
    let agent = Agent::default().with("guest-fstrim", Quirk::Held);
    let gateway = Gateway::with(agent).await;
    let trim = tokio::spawn(gateway.ask("POST", "/vms/vm/fstrim").send());
    let sent = async {
        while gateway.agent.times("guest-fstrim") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, sent).await.expect("it hangs");
    let waits = async |calls: usize| {
        let line = format!("qga_vm_queue_depth{{vm=\"vm\"}} {calls}\n");
        let wait = async {
            loop {
                let figures = gateway.ask("GET", "/metrics").send().await.body;
                if String::from_utf8_lossy(&figures).contains(&line) {
                    return;
                }
            }
        };
        tokio::time::timeout(BOUND, wait).await.expect("in time");
    };
    let path = "/vms/vm/commands/guest-set-time";
    let behind = tokio::spawn(gateway.ask("POST", path).json(&json!({"arguments": {}})).send());
    waits(1).await;
    behind.abort();
    waits(0).await;
    gateway.agent.release();
    trim.await.unwrap().expect(200);
    assert_eq!(gateway.agent.times("guest-set-time"), 0);
}

#[tokio::test]
async fn who_transfers_as_much_as_it_may_leaves_room_for_others() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"content");
    let config = token("other") + &grant("other", &["files_read"], VM);
    let gateway = downloads::gateway(&agent, &(config + "[limits]\ntransfers = 4\n")).await;
    // It goes on for as long as its sender likes.
    let upload = begin(&gateway, "/up", 10, b"half").await;
    eventually("it begins", || agent.ran("x-guest-file-create") > 0).await;
    let problem = downloads::get(&gateway, "/f").send().await.problem(429, "too_many_transfers");
    assert!(problem["detail"].as_str().unwrap().contains("its share of the 4 files"), "{problem}");
    let ask = gateway.ask_tcp("GET", &downloads::content("/f"));
    assert_eq!(&*with(ask, "other").send().await.body, b"content");
    drop(upload);
    let again = async {
        while downloads::get(&gateway, "/f").send().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, again).await.expect("a place that is given back");
}

#[tokio::test]
async fn who_leaves_uploads_behind_as_many_as_it_may_leaves_room_for_others() {
    let agent = FileAgent::new(true);
    let paths = ["/1", "/2", "/3", "/4"];
    paths.iter().for_each(|path| agent.put(path, b"before"));
    let rights = ["observe", "files_read", "files_write"];
    let config = ["greedy", "other"].map(|name| token(name) + &grant(name, &rights, VM)).concat();
    // Half of it for one VM, half for one of two, and half of that on one VM.
    let gateway = downloads::gateway(&agent, &(config + "[limits]\nuploads_kept = 8\n")).await;
    let partial = async |name: &str, path: &str| {
        let ask = with(gateway.ask_tcp("GET", &format!("/vms/vm/files?path={path}")), name);
        ask.send().await.expect(200)["partial"].clone()
    };
    let Target::Tcp(address) = gateway.tcp else { panic!("no TCP") };
    let break_off = async |name: &str, path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PUT {} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {name}\r\n\
             content-length: {}\r\n\r\n",
            downloads::content(path),
            2 * downloads::CHUNK
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'a'; downloads::CHUNK]).await.unwrap();
        let begins = async {
            while partial(name, path).await["received"] != downloads::CHUNK {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, begins).await.expect("it begins");
        drop(stream);
        let ends = async {
            loop {
                let left = partial(name, path).await;
                // Either it is kept for a while, or it is not there.
                if left.is_null() || left["expires_at"].is_string() {
                    return !left.is_null();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, ends).await.expect("it ends")
    };
    assert!(break_off("greedy", "/1").await && break_off("greedy", "/2").await);
    assert!(!break_off("greedy", "/3").await);
    assert!(break_off("other", "/4").await);
    assert_eq!(partial("greedy", "/1").await["received"], downloads::CHUNK);
}
