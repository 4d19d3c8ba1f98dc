//! Shutting down and suspending: what is answered at once, and the event that tells the outcome.

use qga_proto::QgaError;
use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::events::Stream;
use super::gateway::Gateway;

async fn follow(gateway: &Gateway) -> Stream {
    Stream::open(gateway.ask("GET", "/events?kind=power.*")).await
}

async fn order(gateway: &Gateway, operation: &str, mode: &str) -> super::client::Answer {
    let body = json!({ "mode": mode });
    gateway.ask("POST", &format!("/vms/vm/{operation}")).json(&body).send().await
}

fn check(event: &Value, kind: &str, operation: &str, mode: &str) {
    assert_eq!((&event["kind"], &event["vm_id"]), (&json!(kind), &json!("vm")), "{event}");
    assert_eq!(event["data"]["operation"], operation);
    assert_eq!(event["data"]["mode"], mode);
}

#[tokio::test]
async fn a_guest_that_goes_is_done() {
    for (operation, mode, command) in [
        ("shutdown", "powerdown", "guest-shutdown"),
        ("shutdown", "reboot", "guest-shutdown"),
        ("suspend", "disk", "guest-suspend-disk"),
        ("suspend", "ram", "guest-suspend-ram"),
        ("suspend", "hybrid", "guest-suspend-hybrid"),
    ] {
        let gateway = Gateway::with(Agent::default().with(command, Quirk::HangUp)).await;
        let mut events = follow(&gateway).await;
        let answer = order(&gateway, operation, mode).await.expect(202);
        assert_eq!(answer["mode"], mode);
        let event = events.event().await;
        check(&event, "power.done", operation, mode);
        assert!(event["data"]["evidence"].as_str().unwrap().len() > 5, "{event}");
        assert_eq!(gateway.agent.times(command), 1);
    }
}

#[tokio::test]
async fn one_that_stops_answering_is_done_too() {
    let agent = Agent::default().with("guest-ping", Quirk::Never);
    let gateway = Gateway::with(agent).await;
    let mut events = follow(&gateway).await;
    order(&gateway, "shutdown", "reboot").await.expect(202);
    check(&events.event().await, "power.done", "shutdown", "reboot");
}

#[tokio::test]
async fn one_that_is_back_before_anybody_misses_it_is_known_by_its_boot() {
    let cpu = |idle: u64| {
        let times = json!({"type": "linux", "cpu": 0, "user": 5, "nice": 0, "system": 5});
        let mut times = times;
        times["idle"] = json!(idle);
        json!([times])
    };
    let agent = Agent::default()
        .with("guest-get-cpustats", Quirk::values([cpu(900_000), cpu(900_100), cpu(700)]));
    let gateway = Gateway::with(agent).await;
    gateway.known().await;
    let mut events = follow(&gateway).await;
    order(&gateway, "shutdown", "reboot").await.expect(202);
    let event = events.event().await;
    check(&event, "power.done", "shutdown", "reboot");
    assert!(event["data"]["evidence"].as_str().unwrap().contains("from nought"), "{event}");
    assert_eq!(gateway.agent.times("guest-get-cpustats"), 3);
}

#[tokio::test]
async fn one_that_stays_has_failed_and_so_has_one_that_refuses() {
    let more = "[limits]\npower_watch_seconds = 0.2\n";
    let gateway = Gateway::configured(Agent::default(), more).await;
    gateway.wait_for(qga_gateway::vm::LinkState::Ready).await;
    let mut events = follow(&gateway).await;
    order(&gateway, "suspend", "ram").await.expect(202);
    let event = events.event().await;
    check(&event, "power.failed", "suspend", "ram");
    assert!(event["data"]["reason"].as_str().unwrap().contains("still answers after 0.2 s"));

    let refusal = QgaError::generic("the requested suspend mode is not supported by the guest");
    gateway.agent.clone().with("guest-suspend-hybrid", Quirk::Error(refusal));
    order(&gateway, "suspend", "hybrid").await.problem(422, "agent_error");
    let event = events.event().await;
    check(&event, "power.failed", "suspend", "hybrid");
    assert!(event["data"]["reason"].as_str().unwrap().contains("not supported by the guest"));
    order(&gateway, "suspend", "off").await.problem(400, "bad_request");
    gateway.ask("POST", "/vms/vm/suspend").send().await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_later_order_takes_the_place_of_an_earlier_one() {
    let gateway = Gateway::start().await;
    let mut events = follow(&gateway).await;
    order(&gateway, "suspend", "ram").await.expect(202);
    gateway.agent.clone().with("guest-shutdown", Quirk::HangUp);
    order(&gateway, "shutdown", "halt").await.expect(202);
    check(&events.event().await, "power.done", "shutdown", "halt");
}
