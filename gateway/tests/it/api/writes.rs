//! What changes a guest: the arguments that reach it, and what the caller is told.

use qga_proto::QgaError;
use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::client::Answer;
use super::gateway::Gateway;

async fn send(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    gateway.ask(method, &format!("/vms/vm/{path}")).json(body).send().await
}

#[tokio::test]
async fn the_clock_is_set_to_a_time_or_from_the_hardware() {
    let gateway = Gateway::start().await;
    let time = json!({"time": 1_763_803_200_250_000_000_i64});
    assert_eq!(send(&gateway, "PUT", "time", &time).await.expect(200), json!({}));
    send(&gateway, "PUT", "time", &json!({})).await.expect(200);
    assert_eq!(gateway.agent.arguments("guest-set-time"), [time, json!({})]);
    for bad in [json!({"time": -1}), json!({"time": 1.5}), json!({"now": 1})] {
        send(&gateway, "PUT", "time", &bad).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn processors_that_an_agent_leaves_over_are_set_again_until_all_are_done() {
    let agent = Agent::default().with("guest-set-vcpus", Quirk::values([json!(1), json!(2)]));
    let gateway = Gateway::with(agent).await;
    let cpu = |id: i64| json!({"logical-id": id, "online": false});
    let body = json!({"vcpus": [cpu(1), cpu(2), cpu(3)]});
    let answer = send(&gateway, "PATCH", "vcpus", &body).await.expect(200);
    assert_eq!(answer["complete"], true);
    let results: Vec<_> = answer["vcpus"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (&c["logical-id"], &c["result"]))
        .collect();
    let done = json!("done");
    assert_eq!(results, [(&json!(1), &done), (&json!(2), &done), (&json!(3), &done)]);
    let sent = gateway.agent.arguments("guest-set-vcpus");
    assert_eq!(sent, [body, json!({"vcpus": [cpu(2), cpu(3)]})]);
    for bad in [json!({"vcpus": []}), json!({}), json!({"vcpus": [{"online": true}]})] {
        send(&gateway, "PATCH", "vcpus", &bad).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_processor_that_fails_is_named_and_those_behind_it_are_not_tried() {
    let refusal = QgaError::generic("logical processor #0 can't be offlined");
    let turns = vec![Quirk::Value(json!(1)), Quirk::Error(refusal)];
    let gateway =
        Gateway::with(Agent::default().with("guest-set-vcpus", Quirk::Turns(turns))).await;
    let body = json!({"vcpus": [
        {"logical-id": 1, "online": true},
        {"logical-id": 0, "online": false},
        {"logical-id": 2, "online": true},
    ]});
    let answer = send(&gateway, "PATCH", "vcpus", &body).await.expect(200);
    let failed = json!({"complete": false, "vcpus": [
        {"logical-id": 1, "online": true, "result": "done"},
        {"logical-id": 0, "online": false, "result": "failed",
         "error": "logical processor #0 can't be offlined"},
        {"logical-id": 2, "online": true, "result": "not_tried"},
    ]});
    assert_eq!(answer, failed);
    // Nothing done at all is no success.
    let problem = send(&gateway, "PATCH", "vcpus", &body).await.problem(422, "agent_error");
    assert_eq!(problem["qga_desc"], "logical processor #0 can't be offlined");
}

#[tokio::test]
async fn blocks_of_memory_come_with_the_agents_own_results() {
    let first = json!([{"phys-index": 1, "response": "success"}]);
    let second = json!([
        {"phys-index": 2, "response": "not-found", "error-code": 2},
        {"phys-index": 3, "response": "operation-failed", "error-code": 16},
    ]);
    let agent = Agent::default().with(
        "guest-set-memory-blocks",
        Quirk::values([first, second, json!([]), json!([1, 2, 3, 4])]),
    );
    let gateway = Gateway::with(agent).await;
    let block = |index: u64| json!({"phys-index": index, "online": true});
    let body = json!({"mem-blks": [block(1), block(2), block(3)]});
    let answer = send(&gateway, "PATCH", "memory-blocks", &body).await.expect(200);
    let responses: Vec<_> =
        answer.as_array().unwrap().iter().map(|b| b["response"].as_str().unwrap()).collect();
    assert_eq!(responses, ["success", "not-found", "operation-failed"]);
    let sent = gateway.agent.arguments("guest-set-memory-blocks");
    assert_eq!(sent[1], json!({"mem-blks": [block(2), block(3)]}));
    // An agent that does nothing of the list, or says nonsense, is not asked for ever.
    let none = send(&gateway, "PATCH", "memory-blocks", &body).await;
    assert_eq!(none.problem(502, "agent_bad_reply")["command"], "guest-set-memory-blocks");
    send(&gateway, "PATCH", "memory-blocks", &body).await.problem(502, "agent_bad_reply");
    assert_eq!(gateway.agent.times("guest-set-memory-blocks"), 4);
}

#[tokio::test]
async fn a_trim_tells_of_each_filesystem_and_old_agents_of_none() {
    let report = json!({"paths": [
        {"path": "/", "trimmed": 4096, "minimum": 0}, {"path": "/boot", "error": "trim not supported"}
    ]});
    let values = vec![report.clone(), json!({})];
    let agent = Agent::default().with("guest-fstrim", Quirk::values(values));
    let gateway = Gateway::with(agent).await;
    let ask = json!({"minimum": 65536});
    assert_eq!(send(&gateway, "POST", "fstrim", &ask).await.expect(200), report);
    let bare = gateway.ask("POST", "/vms/vm/fstrim").send().await.expect(200);
    assert_eq!(bare, json!({"paths": []}));
    assert_eq!(gateway.agent.arguments("guest-fstrim"), [ask, json!({})]);
}

#[tokio::test]
async fn a_password_goes_to_the_guest_in_base64_and_nowhere_else() {
    let gateway = Gateway::start().await;
    let body = json!({"password": "s3cr3t é"});
    let answer = send(&gateway, "PUT", "users/ada/password", &body).await;
    assert_eq!(answer.expect(200), json!({}));
    let hash = json!({"password": "$6$abc", "crypted": true});
    send(&gateway, "PUT", "users/EXAMPLE%5Cada/password", &hash).await.expect(200);
    let sent = gateway.agent.arguments("guest-set-user-password");
    let clear = json!({"username": "ada", "password": "czNjcjN0IMOp", "crypted": false});
    assert_eq!(sent[0], clear);
    assert_eq!((&sent[1]["username"], &sent[1]["crypted"]), (&json!("EXAMPLE\\ada"), &json!(true)));
    for bad in ["a\nb", "a\u{0}b", &"x".repeat(65537)] {
        let answer = send(&gateway, "PUT", "users/ada/password", &json!({"password": bad})).await;
        let problem = answer.problem(400, "bad_request");
        assert!(!problem.to_string().contains(bad));
    }
    // What does not parse is not quoted either.
    let answer =
        send(&gateway, "PUT", "users/ada/password", &json!({"password": ["s3cr3t"]})).await;
    assert!(!answer.problem(400, "bad_request").to_string().contains("s3cr3t"));
    let answer = send(&gateway, "PUT", "users/a%0Ab/password", &body).await;
    answer.problem(400, "bad_request");
}

#[tokio::test]
async fn keys_are_listed_replaced_added_and_removed() {
    let keys = json!({"keys": ["ssh-ed25519 AAAA ada"]});
    let agent = Agent::default().with("guest-ssh-get-authorized-keys", Quirk::Value(keys.clone()));
    let gateway = Gateway::with(agent).await;
    let path = "users/ada/ssh-keys";
    let list = gateway.ask("GET", "/vms/vm/users/ada/ssh-keys").send().await.expect(200);
    assert_eq!(list, keys);
    send(&gateway, "PUT", path, &keys).await.expect(200);
    send(&gateway, "PUT", path, &json!({"keys": []})).await.expect(200);
    let change = json!({"add": ["a a"], "remove": ["b b"]});
    send(&gateway, "PATCH", path, &change).await.expect(200);
    send(&gateway, "PATCH", path, &json!({"remove": ["b b"]})).await.expect(200);
    assert_eq!(
        gateway.agent.arguments("guest-ssh-add-authorized-keys"),
        [
            json!({"username": "ada", "keys": ["ssh-ed25519 AAAA ada"], "reset": true}),
            json!({"username": "ada", "keys": [], "reset": true}),
            json!({"username": "ada", "keys": ["a a"]}),
        ]
    );
    let removed = json!({"username": "ada", "keys": ["b b"]});
    let times = gateway.agent.arguments("guest-ssh-remove-authorized-keys");
    assert_eq!(times, [removed.clone(), removed]);
    for bad in [
        json!({}),
        json!({"add": ["# x"]}),
        json!({"add": ["a\nb"]}),
        json!({"add": [" "]}),
        json!({"add": ["a"], "remove": ["a"]}),
    ] {
        send(&gateway, "PATCH", path, &bad).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_removal_that_fails_says_that_the_addition_was_done() {
    let refusal = QgaError::generic("failed to lookup user 'ada'");
    let agent = Agent::default().with("guest-ssh-remove-authorized-keys", Quirk::Error(refusal));
    let gateway = Gateway::with(agent).await;
    let change = json!({"add": ["a a"], "remove": ["b b"]});
    let answer = send(&gateway, "PATCH", "users/ada/ssh-keys", &change).await;
    let problem = answer.problem(422, "agent_error");
    assert!(problem["detail"].as_str().unwrap().starts_with("The keys to be added, 1,"));
}

#[tokio::test]
async fn a_frozen_guest_is_told_of_before_anything_is_sent() {
    let gateway = Gateway::start().await;
    gateway.known().await;
    let lease = gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    for (method, path, body, command) in [
        ("PUT", "time", json!({}), "guest-set-time"),
        ("POST", "fstrim", json!({}), "guest-fstrim"),
        ("POST", "shutdown", json!({}), "guest-shutdown"),
        ("POST", "commands/guest-get-osinfo", json!({}), "guest-get-osinfo"),
    ] {
        let problem = send(&gateway, method, path, &body).await.problem(409, "vm_frozen");
        assert_eq!(
            (&problem["outcome"], &problem["retryable"]),
            (&json!("not_sent"), &json!(true))
        );
        assert_eq!(problem["lease_id"], lease["id"], "{problem}");
        assert_eq!(gateway.agent.times(command), 0, "{command}");
    }
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
    // The guest thaws behind the gateway's back: nothing is refused for what is past.
    gateway.agent.set_frozen(false);
    send(&gateway, "PUT", "time", &json!({})).await.expect(200);
}
