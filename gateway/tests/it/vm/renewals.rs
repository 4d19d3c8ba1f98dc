//! A guest's own deadline goes with its lease's, whenever that is moved and whatever fails meanwhile.

use std::time::Duration;

use qga_gateway::vm::FreezeError;
use qga_proto::{Outcome, QgaError};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use super::fake::{Act, Guest};
use super::groups::Three;
use super::leased::Named;
use super::restarts::{Gateway, pair};
use super::{QUICK, request};
use crate::api::client::{Answer, Ask, Target};
use crate::api::events::Stream;

const RENEW: &str = "x-guest-fsfreeze-renew";

/// What the guest has in hand until its own deadline, as it was told last.
fn deadline(guest: &Guest) -> Duration {
    let deadline = guest.truth().named.and_then(|named| named.deadline_ms).expect("one");
    Duration::from_millis(u64::try_from(deadline).expect("a time"))
}

fn ask(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Ask {
    let target = Target::Unix(gateway.dir.path().join("api.sock"));
    Ask::new(target, method, path).json(body)
}

async fn patch(gateway: &Gateway, ttl: u64) -> Answer {
    ask(gateway, "PATCH", "/vms/a/fsfreeze", &json!({ "ttl_seconds": ttl })).send().await
}

#[tokio::test]
async fn one_that_comes_during_the_freeze_is_done_once_that_holds() {
    for named in [true, false] {
        let (gateway, guest) = pair(named).await;
        gateway.link("ready").await;
        let mut events =
            Stream::open(ask(&gateway, "GET", "/events?kind=freeze.*", &json!({}))).await;
        let (sent, mut seen) = tokio::sync::mpsc::channel(8);
        guest.rule(move |name| {
            if !name.ends_with("-freeze") {
                return Act::Normal;
            }
            let _ = sent.try_send(());
            Act::Hold
        });
        let freeze = ask(&gateway, "POST", "/vms/a/fsfreeze", &json!({ "ttl_seconds": 60 }));
        let (told, begun) = tokio::sync::oneshot::channel();
        let (frozen, renewed, ()) = tokio::join!(
            freeze.send(),
            async {
                seen.recv().await.expect("sent");
                told.send(()).expect("waits");
                patch(&gateway, 600).await
            },
            async {
                begun.await.expect("told");
                // It answers others meanwhile, and so has taken that up.
                for _ in 0..50 {
                    ask(&gateway, "GET", "/vms", &json!({})).send().await.expect(200);
                }
                guest.release();
            }
        );
        assert_eq!(frozen.expect(201)["ttl_seconds"], 60);
        let lease = renewed.expect(200);
        assert_eq!((&lease["ttl_seconds"], &lease["state"]), (&json!(600), &json!("frozen")));
        assert_eq!(events.event().await["kind"], "freeze.frozen");
        assert_eq!(events.event().await["kind"], "freeze.renewed");
        if named {
            assert!(deadline(&guest) >= Duration::from_secs(600), "{:?}", deadline(&guest));
        }
    }
}

#[tokio::test]
async fn one_to_an_earlier_time_that_is_not_on_disk_reaches_no_guest() {
    let (gateway, guest) = pair(true).await;
    gateway.link("ready").await;
    let freeze = ask(&gateway, "POST", "/vms/a/fsfreeze", &json!({ "ttl_seconds": 600 }));
    freeze.send().await.expect(201);
    let before = deadline(&guest);
    assert!(before >= Duration::from_secs(600));
    let pid = Pid::from_child(&gateway.child);
    let room = |most| {
        let limit = Rlimit { current: most, maximum: None };
        prlimit(Some(pid), Resource::Fsize, limit).expect("limits");
    };
    room(Some(0));
    patch(&gateway, 5).await.problem(503, "state_unwritable");
    assert_eq!(deadline(&guest), before);
    let shown = ask(&gateway, "GET", "/freezes?state=frozen", &json!({})).send().await.expect(200);
    assert_eq!(shown["freezes"][0]["ttl_seconds"], 600, "{shown}");
    room(None);
    let renewed = async { while patch(&gateway, 30).await.status != 200 {} };
    tokio::time::timeout(super::BOUND, renewed).await.expect("the disk is back");
    let now = deadline(&guest);
    assert!(now >= Duration::from_secs(30) && now < Duration::from_secs(600), "{now:?}");
}

#[tokio::test]
async fn one_that_a_member_refuses_leaves_no_guest_a_time_before_the_leases() {
    let three = Three::with(QUICK.into(), Some(Named::default())).await;
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let mut request = request();
    request.ttl = minutes(5);
    let lease = three.freeze(request).await.expect("freezes").id;
    three.guests[2].rule(|name| match name {
        RENEW => Act::Answer(Outcome::Error(QgaError::generic("no"))),
        _ => Act::Normal,
    });
    let later = three.leases.renew(&lease, minutes(10)).await;
    assert!(matches!(later, Err(FreezeError::Group { .. })), "{later:?}");
    let ttl = || three.leases.get(&lease).expect("readable").ttl;
    assert_eq!(ttl(), minutes(5));
    let least = || three.guests.iter().map(deadline).min().expect("three");
    assert!(least() >= minutes(5), "{:?}", least());
    // An earlier one holds all the same: it is the gateway that thaws then.
    let earlier = three.leases.renew(&lease, minutes(2)).await.expect("renews");
    assert_eq!((earlier.ttl, ttl()), (minutes(2), minutes(2)));
    assert!(least() >= minutes(2), "{:?}", least());
    assert!(deadline(&three.guests[0]) < minutes(5), "who can learns of it");
}
