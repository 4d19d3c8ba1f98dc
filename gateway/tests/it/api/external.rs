//! VMs that somebody else has frozen.

use qga_gateway::vm::{Delivery, EventId, EventKind, LinkState, Subscription};
use serde_json::{Value, json};

use super::agent::Agent;
use super::gateway::{BOUND, Gateway};

/// A gateway with a VM `own`, which is frozen when the gateway first sees it.
async fn frozen(setting: &str) -> (Gateway, Agent, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("own.sock");
    let agent = Agent::default();
    agent.set_frozen(true);
    agent.listen(&socket);
    let vm =
        format!("[[vm]]\nid = \"own\"\nsocket = {socket:?}\nexternal_freeze = \"{setting}\"\n");
    (Gateway::configured(Agent::default(), &vm).await, agent, dir)
}

fn all_events(gateway: &Gateway) -> Subscription {
    let first: EventId = "0-0".parse().unwrap();
    gateway.registry.events().subscribe(Some(first)).unwrap()
}

/// The next event of these kinds, with its VM and data.
async fn next(events: &mut Subscription, kinds: &[EventKind]) -> (EventKind, String, Value) {
    let one = async {
        loop {
            if let Delivery::Event(event) = events.next(|event| kinds.contains(&event.kind)).await {
                let data = serde_json::from_str(event.data.get()).unwrap();
                break (event.kind, event.vm.clone().unwrap().to_string(), data);
            }
        }
    };
    tokio::time::timeout(BOUND, one).await.expect("in time")
}

#[tokio::test]
async fn a_foreign_freeze_is_told_once_and_left_alone() {
    let (gateway, agent, _dir) = frozen("report").await;
    let mut events = all_events(&gateway);
    let (_, vm, data) = next(&mut events, &[EventKind::FreezeExternal]).await;
    assert_eq!((vm.as_str(), &data["thaw_after_seconds"]), ("own", &Value::Null));
    // Whatever comes after it: a freeze of ours is not told so, and the foreign one not again.
    gateway.wait_for(LinkState::Ready).await;
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    gateway.ask("DELETE", "/vms/own/fsfreeze?force=true").send().await.expect(200);
    let kinds = [EventKind::FreezeExternal, EventKind::LinkChanged];
    loop {
        let (kind, vm, data) = next(&mut events, &kinds).await;
        assert_eq!(kind, EventKind::LinkChanged, "{vm}");
        if vm == "own" && data["state"] == "ready" {
            break;
        }
    }
    assert_eq!(agent.times("guest-fsfreeze-thaw"), 1, "the one that was asked for");
}

#[tokio::test]
async fn a_foreign_freeze_is_thawed_after_its_time_for_the_record() {
    let (gateway, agent, _dir) = frozen("thaw-after=0.3").await;
    let mut events = all_events(&gateway);
    let (_, _, data) = next(&mut events, &[EventKind::FreezeExternal]).await;
    assert_eq!(data["thaw_after_seconds"], 0.3);
    loop {
        let (_, vm, data) = next(&mut events, &[EventKind::LinkChanged]).await;
        if vm == "own" && data["state"] == "ready" {
            break;
        }
    }
    assert!(!agent.is_frozen());
    let list = gateway.ask("GET", "/freezes?vm=own&owner=gateway").send().await.expect(200);
    assert_eq!(list["freezes"][0]["thaw_cause"], json!("forced"), "{list}");
}

#[tokio::test]
async fn a_freeze_of_ours_is_no_foreign_one() {
    let (gateway, agent, _dir) = frozen("thaw-after=0.1").await;
    let mut events = all_events(&gateway);
    loop {
        let (_, vm, data) = next(&mut events, &[EventKind::LinkChanged]).await;
        if vm == "own" && data["state"] == "ready" {
            break;
        }
    }
    // The forced lease ends a moment after its thaw.
    let frozen = async {
        let mut often = tokio::time::interval(std::time::Duration::from_millis(5));
        while gateway.ask("POST", "/vms/own/fsfreeze").send().await.status != 201 {
            often.tick().await;
        }
    };
    tokio::time::timeout(BOUND, frozen).await.expect("in time");
    let thaws = agent.times("guest-fsfreeze-thaw");
    // Several times as long as a foreign one would last.
    let told = next(&mut events, &[EventKind::FreezeExternal]);
    let told = tokio::time::timeout(std::time::Duration::from_millis(500), told).await;
    assert!(told.is_err(), "{told:?}");
    assert!(agent.is_frozen());
    assert_eq!(agent.times("guest-fsfreeze-thaw"), thaws);
    gateway.ask("DELETE", "/vms/own/fsfreeze").send().await.expect(200);
}
