//! Reads that share a call, answers that are kept, and what makes them old.

use std::time::Duration;

use qga_gateway::vm::LinkState;
use serde_json::json;
use tokio::time::timeout;

use super::agent::{Agent, Quirk};
use super::client::{Answer, Ask};
use super::gateway::{BOUND, Gateway};

const OS: &str = "guest-get-osinfo";

/// A gateway whose guest says each time something else: `{"id": "0"}`, `{"id": "1"}`, …
async fn counting() -> Gateway {
    let values = (0..100).map(|n| json!({"id": n.to_string()}));
    let gateway = Gateway::with(Agent::default().with(OS, Quirk::values(values))).await;
    gateway.known().await;
    gateway
}

fn get(gateway: &Gateway) -> Ask {
    gateway.ask("GET", "/vms/vm/os")
}

fn older(gateway: &Gateway) -> Ask {
    get(gateway).header("cache-control", "max-age=60")
}

fn says(answer: &Answer) -> String {
    answer.expect(200)["id"].as_str().expect("an id").to_owned()
}

async fn asked(gateway: &Gateway, command: &str, times: usize) {
    let asked = async {
        while gateway.agent.times(command) < times {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, asked).await.expect("asked");
}

#[tokio::test]
async fn reads_that_are_alike_share_one_call_even_if_the_first_caller_hangs_up() {
    let gateway = Gateway::with(Agent::default().with(OS, Quirk::Held)).await;
    gateway.known().await;
    let first = tokio::spawn(get(&gateway).send());
    asked(&gateway, OS, 1).await;
    let others: Vec<_> = (0..20).map(|_| tokio::spawn(get(&gateway).send())).collect();
    // They are there once their log lines could be: each has passed the front.
    let ping = gateway.ask("GET", "/vms/vm").send();
    ping.await.expect(200);
    first.abort();
    let impatient = gateway.ask("GET", "/vms/vm/os?timeout_seconds=0.1").send().await;
    impatient.problem(504, "agent_timeout");
    gateway.agent.release();
    for other in others {
        timeout(BOUND, other).await.expect("in time").expect("whole").expect(200);
    }
    assert_eq!(gateway.agent.times(OS), 1);
    // What is over is not shared: the next one asks.
    gateway.agent.mend(OS);
    get(&gateway).send().await.expect(200);
    assert_eq!(gateway.agent.times(OS), 2);
}

#[tokio::test]
async fn pings_syncs_and_changes_are_never_shared() {
    let gateway = Gateway::start().await;
    let ping = |_| gateway.ask("POST", "/vms/vm/ping").send();
    let trim = |_| gateway.ask("POST", "/vms/vm/fstrim").send();
    for answer in futures_util::future::join_all((0..10).map(ping)).await {
        answer.expect(200);
    }
    for answer in futures_util::future::join_all((0..10).map(trim)).await {
        answer.expect(200);
    }
    assert_eq!(gateway.agent.times("guest-ping"), 10);
    assert_eq!(gateway.agent.times("guest-fstrim"), 10);
}

#[tokio::test]
async fn an_older_answer_is_given_to_those_who_take_it() {
    let gateway = counting().await;
    let fresh = get(&gateway).send().await;
    assert_eq!((says(&fresh).as_str(), fresh.header("age")), ("0", "0"));
    assert_eq!(fresh.header("cache-control"), "private, no-cache");
    assert_eq!(says(&older(&gateway).send().await), "0");
    assert_eq!(gateway.agent.times(OS), 1);
    for fresh in ["max-age=0", "no-cache", "private"] {
        get(&gateway).header("cache-control", fresh).send().await.expect(200);
    }
    assert_eq!(gateway.agent.times(OS), 4);
    assert_eq!(says(&older(&gateway).send().await), "3", "the last one is kept");
    let bad = get(&gateway).header("cache-control", "max-age=soon").send().await;
    bad.problem(400, "bad_request");
    // Another command, and another VM, have answers of their own.
    gateway
        .ask("GET", "/vms/absent/os")
        .header("cache-control", "max-age=60")
        .send()
        .await
        .problem(503, "agent_unavailable");
}

#[tokio::test]
async fn a_tag_stands_for_an_answer() {
    let gateway = counting().await;
    let first = get(&gateway).send().await;
    let tag = first.header("etag").to_owned();
    assert!(tag.len() > 10 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let same = older(&gateway).header("if-none-match", &tag).send().await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    assert_eq!((same.header("etag"), same.header("age")), (tag.as_str(), "0"));
    let other = get(&gateway).header("if-none-match", &tag).send().await;
    assert_eq!(says(&other), "1");
    assert_ne!(other.header("etag"), tag);
}

#[tokio::test]
async fn what_is_changed_through_the_gateway_makes_answers_old() {
    let gateway = counting().await;
    assert_eq!(says(&get(&gateway).send().await), "0");
    gateway.ask("PUT", "/vms/vm/time").send().await.expect(200);
    assert_eq!(says(&older(&gateway).send().await), "1");
    gateway.ask("POST", "/vms/vm/commands/guest-exec").send().await.expect(200);
    assert_eq!(says(&older(&gateway).send().await), "2");
    // What changes nothing does not.
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
    gateway.ask("POST", "/vms/vm/commands/guest-get-users").send().await.expect(200);
    assert_eq!(says(&older(&gateway).send().await), "2");
}

#[tokio::test]
async fn a_read_from_before_a_change_is_not_joined_after_it() {
    let turns = vec![Quirk::Held, Quirk::Value(json!({"id": "after"}))];
    let gateway = Gateway::with(Agent::default().with(OS, Quirk::Turns(turns))).await;
    gateway.known().await;
    let before = tokio::spawn(get(&gateway).send());
    asked(&gateway, OS, 1).await;
    let change = tokio::spawn(gateway.ask("PUT", "/vms/vm/time").send());
    let changes = async {
        while gateway.vm().counters().calls < 1 || !change.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    // The change waits behind the read; a read that is asked for now must see the change.
    let _ = timeout(Duration::from_millis(50), changes).await;
    let after = tokio::spawn(get(&gateway).send());
    let _ = timeout(Duration::from_millis(50), std::future::pending::<()>()).await;
    gateway.agent.release();
    timeout(BOUND, before).await.expect("in time").expect("whole").expect(200);
    let after = timeout(BOUND, after).await.expect("in time").expect("whole");
    assert_eq!(says(&after), "after");
    assert_eq!(gateway.agent.times(OS), 2);
}

#[tokio::test]
async fn a_link_that_breaks_makes_answers_old() {
    let gateway = counting().await;
    assert_eq!(says(&get(&gateway).send().await), "0");
    gateway.agent.clone().with("guest-get-users", Quirk::HangUp);
    gateway.ask("GET", "/vms/vm/users").send().await.problem(503, "agent_unavailable");
    gateway.wait_for(LinkState::Ready).await;
    let answered = async {
        loop {
            let answer = older(&gateway).send().await;
            if answer.status == 200 {
                return says(&answer);
            }
        }
    };
    assert_eq!(timeout(BOUND, answered).await.expect("recovers"), "1");
}

#[tokio::test]
async fn a_frozen_guest_is_answered_for_from_before_with_a_sign_or_not_at_all() {
    let gateway = counting().await;
    let before = get(&gateway).send().await;
    let lease = gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    let frozen = get(&gateway).send().await;
    assert_eq!(says(&frozen), says(&before));
    assert_eq!(frozen.header("x-qga-stale"), "frozen");
    assert!(frozen.header("age").parse::<u64>().is_ok());
    assert_eq!(gateway.agent.times(OS), 1, "it was not asked");
    let same = get(&gateway).header("if-none-match", frozen.header("etag")).send().await;
    assert_eq!((same.status.as_u16(), same.header("x-qga-stale")), (304, "frozen"));
    let problem = gateway.ask("GET", "/vms/vm/hostname").send().await.problem(409, "vm_frozen");
    assert_eq!((&problem["lease_id"], &problem["outcome"]), (&lease["id"], &json!("not_sent")));
    // What an agent answers while frozen, it is asked.
    let info = gateway.ask("GET", "/vms/vm/agent").send().await;
    assert_eq!((info.status.as_u16(), info.header("x-qga-stale")), (200, ""));
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    let after = get(&gateway).send().await;
    assert_eq!((says(&after).as_str(), after.header("x-qga-stale")), ("1", ""));
}

#[tokio::test]
async fn failures_are_not_kept_and_large_answers_neither() {
    let large = json!({"name": "x".repeat(20_000)});
    let turns = vec![
        Quirk::Value(json!("nonsense")),
        Quirk::Value(large),
        Quirk::Value(json!({"id": "small"})),
    ];
    let agent = Agent::default().with(OS, Quirk::Turns(turns));
    let gateway = Gateway::configured(agent, "[limits]\nanswers_vm_bytes = 10000\n").await;
    gateway.wait_for(LinkState::Ready).await;
    older(&gateway).send().await.problem(502, "agent_bad_reply");
    assert_eq!(older(&gateway).send().await.expect(200)["name"].as_str().unwrap().len(), 20_000);
    assert_eq!(says(&older(&gateway).send().await), "small");
    assert_eq!(says(&older(&gateway).send().await), "small");
    assert_eq!(gateway.agent.times(OS), 3);
}
