//! `/vms/{id}/wait`: at once, as soon as it is so, or not in time.

use std::time::Duration;

use qga_gateway::vm::LinkState;
use qga_proto::QgaError;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::agent::{Agent, Quirk};
use super::client::{Answer, Ask};
use super::gateway::{BOUND, Gateway};

fn wait(gateway: &Gateway, what: &str) -> Ask {
    gateway.ask("GET", &format!("/vms/vm/wait?timeout_seconds=20&for={what}"))
}

async fn met(gateway: &Gateway, what: &str) -> Value {
    let answer = wait(gateway, what).send().await.expect(200);
    assert_eq!((&answer["for"], &answer["met"]), (&json!(what), &json!(true)), "{answer}");
    answer
}

/// Whether it is still waiting while this is done, and then not for long.
async fn until(gateway: &Gateway, what: &str, change: impl AsyncFnOnce()) -> Answer {
    let mut waiting = tokio::spawn(wait(gateway, what).send());
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "{what}: too early");
    change().await;
    timeout(BOUND, waiting).await.expect("in time").unwrap()
}

#[tokio::test]
async fn what_is_so_already_is_answered_at_once() {
    let gateway = Gateway::start().await;
    assert_eq!(met(&gateway, "agent").await["link"]["state"], "ready");
    met(&gateway, "thawed").await;
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    met(&gateway, "frozen").await;
    met(&gateway, "agent").await;
    let gone = gateway.ask("GET", "/vms/absent/wait?for=gone").send().await.expect(200);
    assert_eq!(gone["met"], true);
}

#[tokio::test]
async fn a_thaw_and_a_freeze_end_a_wait() {
    let gateway = Gateway::start().await;
    let answer = until(&gateway, "frozen", async || {
        gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    });
    assert_eq!(answer.await.expect(200)["met"], true);
    let answer = until(&gateway, "thawed", async || {
        gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    });
    assert_eq!(answer.await.expect(200)["met"], true);
    assert!(gateway.vm().link().state == LinkState::Ready);
}

#[tokio::test]
async fn a_thaw_behind_the_gateways_back_is_noticed() {
    let gateway = Gateway::start().await;
    gateway.agent.set_frozen(true);
    gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    gateway.wait_for(LinkState::Frozen).await;
    let answer = until(&gateway, "thawed", async || gateway.agent.set_frozen(false));
    assert_eq!(answer.await.expect(200)["met"], true);
}

#[tokio::test]
async fn an_address_is_one_that_others_can_reach() {
    let interface = |ip: &str| {
        json!([
            {"name": "lo", "ip-addresses": [
                {"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]},
            {"name": "down"},
            {"name": "eth0", "ip-addresses": [
                {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": ip, "ip-address-type": "ipv4", "prefix": 24}]},
        ])
    };
    let values = [interface("169.254.0.9"), interface("192.0.2.7")];
    let agent = Agent::default().with("guest-network-get-interfaces", Quirk::values(values));
    let gateway = Gateway::with(agent).await;
    assert_eq!(met(&gateway, "address").await["addresses"], json!(["192.0.2.7"]));
    assert_eq!(gateway.agent.times("guest-network-get-interfaces"), 2);
    // A change makes the answer old that the next one could share.
    gateway.ask("PUT", "/vms/vm/time").send().await.expect(200);
    let refusal = QgaError::disabled("guest-network-get-interfaces");
    gateway.agent.clone().with("guest-network-get-interfaces", Quirk::Error(refusal));
    wait(&gateway, "address").send().await.problem(403, "command_disabled");
}

#[tokio::test]
async fn when_the_time_is_over_it_is_not_so_and_nothing_is_wrong() {
    let gateway = Gateway::start().await;
    for what in ["gone", "frozen"] {
        let path = format!("/vms/vm/wait?for={what}&timeout_seconds=0.1");
        let answer = gateway.ask("GET", &path).send().await.expect(200);
        assert_eq!((&answer["met"], &answer["link"]["state"]), (&json!(false), &json!("ready")));
    }
    let answer = gateway.ask("GET", "/vms/absent/wait?for=agent&timeout_seconds=0.1").send().await;
    assert_eq!(answer.expect(200)["met"], false);
    gateway.ask("GET", "/vms/none/wait?for=agent").send().await.problem(404, "vm_not_found");
    for bad in ["", "?for=x", "?for=agent&timeout_seconds=0", "?for=agent&timeout=1"] {
        let path = format!("/vms/vm/wait{bad}");
        gateway.ask("GET", &path).send().await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_stop_ends_a_wait() {
    let gateway = Gateway::start().await;
    let answer = until(&gateway, "gone", async || gateway.stopping.cancel());
    answer.await.problem(503, "shutting_down");
}
