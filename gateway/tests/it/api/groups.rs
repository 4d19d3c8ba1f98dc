//! Several VMs under one lease, over HTTP.

use serde_json::json;

use super::gateway::Gateway;

#[tokio::test]
async fn a_group_is_frozen_renewed_and_thawed_as_one() {
    let gateway = Gateway::start().await;
    let ask = gateway.ask("POST", "/freezes").json(&json!({"vms": ["vm"], "order": "sequential"}));
    let answer = ask.send().await;
    let lease = answer.expect(201);
    assert_eq!((&lease["vm_id"], &lease["order"]), (&json!("vm"), &json!("sequential")));
    assert_eq!(lease["members"][0]["state"], "frozen");
    assert_eq!(lease["spread_ms"], 0);
    let at = answer.header("location").to_owned();
    gateway.ask("PATCH", &at).send().await.expect(200);
    let ended = gateway.ask("DELETE", &at).send().await.expect(200);
    assert_eq!(ended["members"][0]["verdict"], "counts_agree");
    let ask = gateway.ask("POST", "/freezes").header("prefer", "respond-async");
    let begun = ask.json(&json!({"vms": ["vm"]})).send().await;
    begun.expect(202);
    gateway.ask("DELETE", begun.header("location")).send().await.expect(200);
    assert!(!gateway.agent.is_frozen());
}

#[tokio::test]
async fn a_group_with_one_that_cannot_freeze_freezes_nothing() {
    let gateway = Gateway::start().await;
    let ask = gateway.ask("POST", "/freezes").json(&json!({"vms": ["vm", "absent"]}));
    let problem = ask.send().await.problem(503, "agent_unavailable");
    assert_eq!(problem["vm_id"], "absent");
    assert!(!gateway.agent.is_frozen());
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 0);
    let body = json!({"vms": ["vm", "absent"], "all_or_nothing": false});
    let answer = gateway.ask("POST", "/freezes").json(&body).send().await;
    let lease = answer.expect(201);
    assert_eq!((&lease["vm_id"], &lease["state"]), (&json!(null), &json!("frozen")));
    assert_eq!(lease["members"][1]["state"], "failed");
    // One VM's path does not mean the others.
    let by_vm = gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await;
    assert_eq!(by_vm.problem(409, "lease_conflict")["lease_id"], lease["id"]);
    let ended = gateway.ask("DELETE", answer.header("location")).send().await.expect(200);
    assert_eq!(ended["verdict"], "partial", "the worst of them");
}

#[tokio::test]
async fn a_group_is_refused_whole() {
    let gateway = Gateway::start().await;
    for body in [
        json!({}),
        json!({"vms": []}),
        json!({"vms": ["vm", "vm"]}),
        json!({"vms": ["vm"], "selector": {"labels": {"a": "b"}}}),
        json!({"selector": {"labels": {}}}),
        json!({"selector": {"labels": {"a": "b"}}}),
    ] {
        let ask = gateway.ask("POST", "/freezes").json(&body);
        ask.send().await.problem(400, "bad_request");
    }
    let ask = gateway.ask("POST", "/freezes").json(&json!({"vms": ["vm", "nobody"]}));
    ask.send().await.problem(404, "vm_not_found");
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 0);
}

#[tokio::test]
async fn somebody_elses_lease_is_left_alone_unless_forced() {
    let gateway = Gateway::start().await;
    let lease = gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    let at = format!("/freezes/{}", lease["id"].as_str().unwrap());
    let bearer = format!("Bearer {}", gateway.token);
    for (method, path) in [
        ("DELETE", &*at),
        ("PATCH", &*at),
        ("DELETE", "/vms/vm/fsfreeze"),
        ("PATCH", "/vms/vm/fsfreeze"),
    ] {
        let ask = gateway.ask_tcp(method, path).header("authorization", &bearer);
        ask.send().await.problem(403, "forbidden");
    }
    assert!(gateway.agent.is_frozen());
    let ask = gateway.ask_tcp("DELETE", &format!("{at}?force=true"));
    ask.header("authorization", &bearer).send().await.expect(200);
    assert!(!gateway.agent.is_frozen());
}
