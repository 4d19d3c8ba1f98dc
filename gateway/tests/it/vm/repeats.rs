//! Requests with an `Idempotency-Key`, by a gateway that dies or whose disk is full.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::time::timeout;

use super::BOUND;
use super::fake::Act;
use super::restarts::{Gateway, pair};
use crate::api::client::{Answer, Ask, Target};
use crate::api::events::Stream;

async fn post(gateway: &Gateway, path: &str, key: &str) -> Answer {
    let target = Target::Unix(gateway.dir.path().join("api.sock"));
    Ask::new(target, "POST", path).header("idempotency-key", key).json(&json!({})).send().await
}

#[tokio::test]
async fn the_first_answer_outlives_a_killed_gateway() {
    let (mut gateway, guest) = pair(false).await;
    gateway.link("ready").await;
    let first = post(&gateway, "/vms/a/fsfreeze", "k").await;
    let lease = first.expect(201);
    gateway.restart().await;
    let again = post(&gateway, "/vms/a/fsfreeze", "k").await;
    assert_eq!(again.expect(201), lease);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.header("location"), first.header("location"));
    assert!(guest.truth().frozen);
}

#[tokio::test]
async fn what_was_in_hand_at_a_crash_is_not_sent_again() {
    for (path, held) in
        [("/vms/a/fsfreeze", "guest-fsfreeze-freeze"), ("/vms/a/fstrim", "guest-fstrim")]
    {
        let (mut gateway, guest) = pair(false).await;
        gateway.link("ready").await;
        let mut seen = guest.loses(held);
        tokio::select! {
            answer = post(&gateway, path, "k") => panic!("{answer:?}"),
            _ = seen.recv() => {}
        }
        gateway.restart().await;
        let problem = post(&gateway, path, "k").await.problem(409, "idempotency_unknown");
        assert_eq!(problem["outcome"], "unknown");
        assert_eq!(problem["lease_id"].is_string(), path.ends_with("fsfreeze"), "{problem}");
        assert!(seen.try_recv().is_err(), "once");
    }
}

#[tokio::test]
async fn what_is_not_on_disk_is_not_told() {
    let (gateway, guest) = pair(false).await;
    gateway.link("ready").await;
    let ask = |method: &str, path: &str| {
        Ask::new(Target::Unix(gateway.dir.path().join("api.sock")), method, path)
    };
    let mut events = Stream::open(ask("GET", "/events?kind=freeze.*")).await;
    let pid = Pid::from_child(&gateway.child);
    let room = |most| {
        let limit = Rlimit { current: most, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).expect("limits");
    };
    let (sent, mut seen) = tokio::sync::mpsc::channel(8);
    guest.rule(move |name| {
        if name != "guest-fsfreeze-freeze" {
            return Act::Normal;
        }
        let _ = sent.try_send(());
        Act::Hold
    });
    let (answer, ()) = tokio::join!(ask("POST", "/vms/a/fsfreeze").send(), async {
        seen.recv().await.expect("sent");
        room(Some(0));
        guest.release();
    });
    answer.problem(503, "state_unwritable");
    assert!(!guest.truth().frozen);
    assert_eq!(events.event().await["kind"], "freeze.rollback");
    assert_eq!(events.event().await["kind"], "freeze.thawed");

    room(None);
    guest.rule(|_| Act::Normal);
    let frozen = async {
        // The state is tried again after a pause.
        while ask("POST", "/vms/a/fsfreeze").send().await.status != 201 {}
    };
    timeout(BOUND, frozen).await.expect("the disk is back");
    assert_eq!(events.event().await["kind"], "freeze.frozen");
    room(Some(0));
    ask("PATCH", "/vms/a/fsfreeze").send().await.problem(503, "state_unwritable");
    room(None);
    ask("DELETE", "/vms/a/fsfreeze").send().await.expect(200);
    assert_eq!(events.event().await["kind"], "freeze.thawed", "and no renewal before it");
}

#[tokio::test]
async fn nothing_is_sent_while_the_disk_takes_nothing() {
    let (gateway, guest) = pair(false).await;
    gateway.link("ready").await;
    let (sent, mut seen) = tokio::sync::mpsc::channel(8);
    guest.rule(move |name| {
        if name == "guest-fstrim" {
            let _ = sent.try_send(());
        }
        Act::Normal
    });
    let pid = Pid::from_child(&gateway.child);
    let limit = |most| Rlimit { current: most, maximum: None };
    prlimit(Some(pid), Resource::Fsize, limit(Some(0))).expect("limits");
    for path in ["/vms/a/fsfreeze", "/vms/a/fstrim"] {
        let problem = post(&gateway, path, "k").await.problem(503, "state_unwritable");
        assert_eq!(problem["outcome"], "not_sent");
    }
    assert!(!guest.truth().frozen && seen.try_recv().is_err());
    prlimit(Some(pid), Resource::Fsize, limit(None)).expect("limits");
    post(&gateway, "/vms/a/fsfreeze", "k").await.expect(201);
}
