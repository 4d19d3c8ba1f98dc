//! `Idempotency-Key`: what is sent twice takes place once.

use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::client::Ask;
use super::gateway::Gateway;

const TRIM: &str = "guest-fstrim";

fn freeze(gateway: &Gateway, key: &str, body: &Value) -> Ask {
    gateway.ask("POST", "/vms/vm/fsfreeze").header("idempotency-key", key).json(body)
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_nothing_is_sent() {
    let gateway = Gateway::start().await;
    let first = freeze(&gateway, "job-1", &json!({})).send().await;
    let lease = first.expect(201);
    assert!(!first.headers.contains_key("idempotency-replayed"));
    for _ in 0..2 {
        let again = freeze(&gateway, "job-1", &json!({})).send().await;
        assert_eq!(again.expect(201), lease);
        assert_eq!(again.header("idempotency-replayed"), "true");
        for name in ["location", "etag"] {
            assert_eq!(again.header(name), first.header(name));
        }
    }
    // Without the key, or under another, it is another request.
    let other = freeze(&gateway, "job-2", &json!({})).send().await;
    other.problem(409, "already_frozen");
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    // Nothing was sent then, so the key is still free.
    freeze(&gateway, "job-2", &json!({})).send().await.expect(201);
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 2);
}

#[tokio::test]
async fn a_failure_of_the_guest_is_an_answer_too() {
    let error = qga_proto::QgaError::generic("no");
    let gateway = Gateway::with(Agent::default().with(TRIM, Quirk::Error(error))).await;
    let trim = || gateway.ask("POST", "/vms/vm/fstrim").header("idempotency-key", "k");
    let first = trim().send().await.problem(422, "agent_error");
    gateway.agent.mend(TRIM);
    let again = trim().send().await;
    assert_eq!(again.problem(422, "agent_error"), first);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(gateway.agent.times(TRIM), 1);
}

#[tokio::test]
async fn one_that_comes_meanwhile_waits_also_for_a_caller_that_hung_up() {
    let agent = Agent::default().with("guest-fsfreeze-freeze", Quirk::Held);
    let gateway = Gateway::with(agent).await;
    let ask = || freeze(&gateway, "k", &json!({"ttl_seconds": 600}));
    let sent = async {
        while gateway.agent.times("guest-fsfreeze-freeze") == 0 {
            tokio::task::yield_now().await;
        }
    };
    // The first hangs up once its freeze is at the guest.
    tokio::select! {
        answer = ask().send() => panic!("{answer:?}"),
        () = sent => {}
    }
    let other = freeze(&gateway, "k", &json!({"ttl_seconds": 601})).send().await;
    other.problem(422, "idempotency_mismatch");
    let (one, two, ()) = tokio::join!(ask().send(), ask().send(), async {
        gateway.agent.release();
    });
    assert_eq!(one.expect(201), two.expect(201));
    assert_eq!(one.header("idempotency-replayed"), "true");
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 1);
}

#[tokio::test]
async fn a_key_goes_to_disk_in_the_write_of_the_lease_that_it_protects() {
    let held = || Agent::default().with("guest-fsfreeze-freeze", Quirk::Held);
    for key in [None, Some("k")] {
        let gateway = Gateway::with(held()).await;
        let ask = gateway.ask("POST", "/vms/vm/fsfreeze");
        let ask = match key {
            Some(key) => ask.header("idempotency-key", key),
            None => ask,
        };
        let sent = async {
            while gateway.agent.times("guest-fsfreeze-freeze") == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(gateway.store.commits(), 1, "{key:?}: before the freeze leaves");
            gateway.agent.release();
        };
        let (answer, ()) = tokio::join!(ask.send(), sent);
        answer.expect(201);
        // When it is frozen, and the answer itself.
        let all = 2 + u64::from(key.is_some());
        assert_eq!(gateway.store.commits(), all, "{key:?}");
    }
}

#[tokio::test]
async fn a_dry_run_uses_no_key_up() {
    let fsinfo = json!([{"name": "vda", "mountpoint": "/", "type": "ext4", "disk": []}]);
    let agent = Agent::default().with("guest-get-fsinfo", Quirk::Value(fsinfo));
    let gateway = Gateway::with(agent).await;
    for (path, body) in [("/vms/vm/fsfreeze", json!({})), ("/freezes", json!({"vms": ["vm"]}))] {
        let ask = |query: &str| {
            let ask = gateway.ask("POST", &format!("{path}{query}"));
            ask.header("idempotency-key", "k").json(&body)
        };
        let commits = gateway.store.commits();
        for _ in 0..2 {
            let answer = ask("?dry_run=true").send().await;
            answer.expect(200);
            assert!(!answer.headers.contains_key("idempotency-replayed"));
        }
        assert_eq!(gateway.store.commits(), commits);
        ask("").send().await.expect(201);
        gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    }
}

#[tokio::test]
async fn a_key_belongs_to_its_caller_and_path_and_means_one_request() {
    let gateway = Gateway::start().await;
    let trim = |body: &Value| {
        gateway.ask("POST", "/vms/vm/fstrim").header("idempotency-key", "k").json(body)
    };
    trim(&json!({})).send().await.expect(200);
    let other = trim(&json!({"minimum_bytes": 4096})).send().await;
    assert_eq!(other.status, 422, "{:?}", other.body);
    let query = gateway.ask("POST", "/vms/vm/fstrim?timeout_seconds=9");
    let query = query.header("idempotency-key", "k").json(&json!({})).send().await;
    query.problem(422, "idempotency_mismatch");
    assert_eq!(gateway.agent.times(TRIM), 1);
    // Another path, another caller: nobody's answer is anybody else's.
    freeze(&gateway, "k", &json!({})).send().await.expect(201);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    let other = gateway.ask_tcp("POST", "/vms/vm/fstrim").header("idempotency-key", "k");
    let other = other.header("authorization", &format!("Bearer {}", gateway.token));
    let other = other.json(&json!({"minimum_bytes": 8192})).send().await;
    assert_ne!(other.header("idempotency-replayed"), "true");
    assert_ne!(other.value()["code"], "idempotency_mismatch", "{:?}", other.body);
}

#[tokio::test]
async fn keys_are_checked_and_bad_requests_use_none_up() {
    let gateway = Gateway::start().await;
    for key in ["", "a b", "\u{e9}", &"x".repeat(256)] {
        freeze(&gateway, key, &json!({})).send().await.problem(400, "bad_request");
    }
    let key = "x".repeat(255);
    freeze(&gateway, &key, &json!({"no": 1})).send().await.problem(400, "bad_request");
    freeze(&gateway, &key, &json!({})).send().await.expect(201);
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 1);
}

#[tokio::test]
async fn the_oldest_answers_go_and_large_ones_are_kept_without_body() {
    let limits = "[limits]\nidempotency_keys = 2\n";
    let text = "x".repeat(70_000);
    let agent = Agent::default().with("guest-get-host-name", Quirk::Value(json!({"a": text})));
    let gateway = Gateway::configured(agent, limits).await;
    gateway.wait_for(qga_gateway::vm::LinkState::Ready).await;
    let send = |key: &str| {
        let ask = gateway.ask("POST", "/vms/vm/commands/guest-get-host-name");
        ask.header("idempotency-key", key).send()
    };
    send("a").await.expect(200);
    let again = send("a").await;
    assert_eq!((again.status.as_u16(), again.body.len()), (200, 0));
    assert_eq!(again.header("idempotency-replayed"), "without-body");
    send("b").await.expect(200);
    send("c").await.expect(200);
    assert_eq!(send("b").await.header("idempotency-replayed"), "without-body");
    send("a").await.expect(200);
    assert_eq!(gateway.agent.times("guest-get-host-name"), 4);
}
