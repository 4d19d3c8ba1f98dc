//! Freezing over HTTP: leases, their headers, and what stands in the way.

use qga_gateway::vm::LinkState;
use qga_proto::QgaError;
use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::gateway::Gateway;

async fn freeze(gateway: &Gateway, body: Value) -> Value {
    gateway.ask("POST", "/vms/vm/fsfreeze").json(&body).send().await.expect(201)
}

#[tokio::test]
async fn a_freeze_is_answered_with_its_lease_and_thawed_by_it() {
    let gateway = Gateway::start().await;
    let ask = gateway.ask("POST", "/vms/vm/fsfreeze");
    let answer = ask.json(&json!({"ttl_seconds": 120, "label": "nightly"})).send().await;
    let lease = answer.expect(201);
    assert!(gateway.agent.is_frozen());
    let id = lease["id"].as_str().unwrap();
    let at = format!("/freezes/{id}");
    assert_eq!(answer.header("location"), at);
    assert_eq!(answer.header("etag"), format!("\"{id}\""));
    for (member, value) in [
        ("vm_id", json!("vm")),
        ("state", json!("frozen")),
        ("filesystems", json!(3)),
        ("skipped", json!([])),
        ("ttl_seconds", json!(120)),
        ("label", json!("nightly")),
        ("policy", json!("required")),
        ("guard", json!("gateway")),
        ("max_hold_seconds", json!(null)),
        ("verdict", json!(null)),
    ] {
        assert_eq!(lease[member], value, "{member}");
    }
    assert!(lease["owner"].as_str().unwrap().starts_with("unix:uid="));
    assert!(lease["expires_at"].as_str() > lease["frozen_at"].as_str());
    let status = gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    assert_eq!((&status["status"], &status["lease"]["id"]), (&json!("frozen"), &json!(id)));
    assert_eq!(gateway.ask("GET", &at).send().await.expect(200)["state"], "frozen");
    let list = gateway.ask("GET", "/freezes").send().await.expect(200);
    assert_eq!(list["freezes"].as_array().unwrap().len(), 1);
    let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
    assert_eq!(vm["freeze"]["id"], id);
    let thawed = gateway.ask("DELETE", &at).send().await.expect(200);
    assert!(!gateway.agent.is_frozen());
    assert_eq!(thawed["state"], "thawed");
    assert_eq!(thawed["thaw_cause"], "requested");
    assert_eq!(thawed["verdict"], "counts_agree");
    assert!(thawed["thawed_at"].is_string());
    let again = gateway.ask("DELETE", &at).send().await.expect(200);
    assert_eq!(again, thawed, "late: the same verdict");
    let by_vm = gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    assert_eq!(by_vm, thawed, "late, by the VM");
    let late = gateway.ask("PATCH", &at).send().await.problem(409, "lease_conflict");
    assert_eq!(late["lease_id"], id);
    assert_eq!(gateway.agent.times("guest-fsfreeze-thaw"), 1);
}

#[tokio::test]
async fn a_lease_is_renewed_by_either_path() {
    let gateway = Gateway::start().await;
    let lease = freeze(&gateway, json!({"ttl_seconds": 30})).await;
    let at = format!("/freezes/{}", lease["id"].as_str().unwrap());
    for path in [at.as_str(), "/vms/vm/fsfreeze"] {
        let ask = gateway.ask("PATCH", path).json(&json!({"ttl_seconds": 300}));
        let renewed = ask.send().await.expect(200);
        assert_eq!(renewed["ttl_seconds"], 300);
        assert!(renewed["expires_at"].as_str() > lease["expires_at"].as_str());
        gateway.ask("PATCH", path).send().await.expect(200);
        let ask = gateway.ask("PATCH", path).json(&json!({"ttl_seconds": 3601}));
        ask.send().await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn callers_say_how_long_they_wait_for_a_guest() {
    let freeze = "/vms/vm/fsfreeze";
    for (path, body) in [(freeze, json!({})), ("/freezes", json!({"vms": ["vm"]}))] {
        let gateway = Gateway::with(Agent::default()).await;
        let bad = gateway.ask("POST", &format!("{path}?timeout_seconds=9")).json(&body);
        let problem = bad.send().await.problem(400, "bad_request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("freeze_timeout_seconds"), "{detail}");
        gateway.agent.clone().with("guest-get-fsinfo", Quirk::Never);
        let dry = format!("{path}?dry_run=true&timeout_seconds=0.1");
        let answer = gateway.ask("POST", &dry).json(&body).send().await;
        let preview = answer.value();
        let problem = if path == freeze { &preview } else { &preview["members"][0]["problem"] };
        assert_eq!(problem["code"], "agent_timeout", "{preview}");
        assert!(gateway.leases.list().is_empty());
    }
    let gateway = Gateway::with(Agent::default().with("guest-fsfreeze-thaw", Quirk::Never)).await;
    let lease = gateway.ask("POST", freeze).send().await.expect(201);
    let at = format!("/freezes/{}", lease["id"].as_str().unwrap());
    for (method, path) in [("PATCH", freeze), ("PATCH", &at), ("DELETE", freeze), ("DELETE", &at)] {
        let ask = gateway.ask(method, &format!("{path}?timeout_seconds=0"));
        ask.send().await.problem(400, "bad_request");
    }
    gateway.ask("PATCH", &format!("{at}?timeout_seconds=9")).send().await.expect(200);
    for path in [freeze, &at] {
        let ask = gateway.ask("DELETE", &format!("{path}?timeout_seconds=0.1"));
        let problem = ask.send().await.problem(504, "agent_timeout");
        assert_eq!(problem["outcome"], "unknown");
        assert!(problem["detail"].as_str().unwrap().contains(&at), "where to follow it: {problem}");
    }
    // It goes on all the same, and whoever waits longer sees the end.
    gateway.agent.mend("guest-fsfreeze-thaw");
    let ask = gateway.ask("DELETE", &format!("{at}?timeout_seconds=60"));
    assert_eq!(ask.send().await.expect(200)["state"], "thawed");
    gateway.agent.clone().with("guest-fsfreeze-status", Quirk::Never);
    let ask = gateway.ask("GET", &format!("{freeze}?timeout_seconds=0.1"));
    ask.send().await.problem(504, "agent_timeout");
}

#[tokio::test]
async fn if_match_holds_back_whoever_means_another_lease() {
    let gateway = Gateway::start().await;
    let first = freeze(&gateway, json!({})).await["id"].as_str().unwrap().to_owned();
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    let second = freeze(&gateway, json!({})).await["id"].as_str().unwrap().to_owned();
    let (old, new) = (format!("\"{first}\""), format!("\"{second}\""));
    for method in ["DELETE", "PATCH"] {
        for tag in [old.as_str(), "\"nonsense\"", "W/\"x\""] {
            let ask = gateway.ask(method, "/vms/vm/fsfreeze").header("if-match", tag);
            let problem = ask.send().await.problem(412, "lease_mismatch");
            assert_eq!(problem["lease_id"], second);
        }
        let ask = gateway.ask(method, &format!("/freezes/{second}")).header("if-match", &old);
        ask.send().await.problem(412, "lease_mismatch");
    }
    assert!(gateway.agent.is_frozen());
    let ask = gateway.ask("PATCH", "/vms/vm/fsfreeze").header("if-match", "*");
    ask.send().await.expect(200);
    let ask = gateway.ask("DELETE", "/vms/vm/fsfreeze").header("if-match", &new);
    assert_eq!(ask.send().await.expect(200)["id"], second);
    let ask = gateway.ask("DELETE", "/vms/vm/fsfreeze").header("if-match", &old);
    assert_eq!(ask.send().await.expect(200)["id"], first, "late, and by name");
}

#[tokio::test]
async fn a_frozen_vm_is_not_frozen_again_and_a_foreign_freeze_is_left_alone() {
    let gateway = Gateway::start().await;
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.problem(404, "lease_not_found");
    let lease = freeze(&gateway, json!({})).await;
    let again = gateway.ask("POST", "/vms/vm/fsfreeze").send().await;
    assert_eq!(again.problem(409, "already_frozen")["lease_id"], lease["id"]);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    // Somebody freezes past the gateway.
    gateway.agent.set_frozen(true);
    let foreign = gateway.ask("POST", "/vms/vm/fsfreeze").send().await;
    assert_eq!(foreign.status, 409, "{:?}", foreign.body);
    assert!(gateway.agent.is_frozen());
    let status = gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    assert_eq!((&status["status"], &status["lease"]), (&json!("frozen"), &json!(null)));
    // Only whoever insists thaws it.
    let plain = gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await;
    let problem = plain.problem(409, "lease_conflict");
    assert!(problem["detail"].as_str().unwrap().contains("?force=true"), "{problem}");
    gateway.ask("DELETE", "/vms/vm/fsfreeze?forced=1").send().await.problem(400, "bad_request");
    assert!(gateway.agent.is_frozen());
    let forced = gateway.ask("DELETE", "/vms/vm/fsfreeze?force=true").send().await.expect(200);
    assert!(!gateway.agent.is_frozen());
    assert_eq!((&forced["state"], &forced["thaw_cause"]), (&json!("thawed"), &json!("forced")));
    assert_eq!(forced["verdict"], "unknown", "nobody knows since when it was frozen");
}

#[tokio::test]
async fn a_freeze_of_nothing_or_by_an_error_leaves_no_lease() {
    let agent = Agent::default().with("guest-fsfreeze-freeze", Quirk::Value(json!(0)));
    let gateway = Gateway::with(agent).await;
    let answer = gateway.ask("POST", "/vms/vm/fsfreeze").send().await;
    answer.problem(422, "nothing_to_freeze");
    let error = QgaError::generic("failed to freeze /mnt: Input/output error");
    let agent = Agent::default().with("guest-fsfreeze-freeze", Quirk::Error(error));
    let gateway = Gateway::with(agent).await;
    let problem = gateway.ask("POST", "/vms/vm/fsfreeze").send().await.problem(422, "agent_error");
    assert_eq!(problem["command"], "guest-fsfreeze-freeze");
    let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
    assert!(vm["freeze"].is_null());
    // An agent of the 0.15 era reports failure as a count.
    let agent = Agent::default().with("guest-fsfreeze-freeze", Quirk::Value(json!(-1)));
    let gateway = Gateway::with(agent).await;
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.problem(422, "agent_error");
}

#[tokio::test]
async fn a_lost_freeze_names_the_lease_to_follow() {
    let agent = Agent::default().with("guest-fsfreeze-freeze", Quirk::Never);
    let gateway = Gateway::configured(agent, "").await;
    gateway.wait_for(LinkState::Ready).await;
    let ask = gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({"freeze_timeout_seconds": 1}));
    let problem = ask.send().await.problem(504, "agent_timeout");
    assert_eq!((&problem["outcome"], &problem["retryable"]), (&json!("unknown"), &json!(false)));
    let id = problem["lease_id"].as_str().unwrap();
    assert!(problem["detail"].as_str().unwrap().contains(id), "{problem}");
    gateway.ask("GET", &format!("/freezes/{id}")).send().await.expect(200);
}

#[tokio::test]
async fn the_body_is_checked_before_anything_is_frozen() {
    let gateway = Gateway::start().await;
    for (body, says) in [
        (json!({"ttl_seconds": 0}), "\"ttl_seconds\": must be from 1 to 3600"),
        (json!({"ttl_seconds": 3601}), "\"ttl_seconds\": must be from 1 to 3600"),
        (json!({"ttl_seconds": -1}), "expected u64"),
        (json!({"ttl_seconds": "60"}), "expected u64"),
        (json!({"freeze_timeout_seconds": 0}), "\"freeze_timeout_seconds\": must be from 1 to 600"),
        (json!({"ttl": 60}), "unknown field `ttl`"),
        (json!({"dry_run": true}), "unknown field `dry_run`"),
        (json!({"mountpoints": []}), "\"mountpoints\": must name at least one"),
        (json!({"mountpoints": "/"}), "expected a sequence"),
        (json!({"mountpoints": [""]}), "\"mountpoints\""),
        (json!({"mountpoints": ["/\u{0}"]}), "\"mountpoints\""),
        (json!({"policy": "maybe"}), "unknown variant `maybe`, expected `required`"),
        (json!({"label": "x".repeat(201)}), "\"label\""),
        (json!({"label": "a\nb"}), "\"label\""),
    ] {
        let answer = gateway.ask("POST", "/vms/vm/fsfreeze").json(&body).send().await;
        let problem = answer.problem(400, "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{body}: {problem}");
    }
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 0);
    let named = freeze(&gateway, json!({"mountpoints": ["/", "/a", "/b"]})).await;
    assert_eq!(named["filesystems"], 3);
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze-list"), 1);
}

#[tokio::test]
async fn fewer_than_required_is_incomplete_and_thawed_again() {
    let gateway = Gateway::start().await;
    let ask = gateway.ask("POST", "/vms/vm/fsfreeze");
    let body = json!({"mountpoints": ["/", "/a", "/b", "/c"]});
    ask.json(&body).send().await.problem(422, "freeze_incomplete");
    assert!(!gateway.agent.is_frozen());
}
