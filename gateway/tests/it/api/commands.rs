//! Any command as it is: what goes through, and what does not.

use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::client::Answer;
use super::gateway::Gateway;
use crate::scripted::OldAgent;

async fn send(gateway: &Gateway, name: &str, body: &Value) -> Answer {
    gateway.ask("POST", &format!("/vms/vm/commands/{name}")).json(body).send().await
}

#[tokio::test]
async fn arguments_and_answers_pass_as_they_are() {
    let said = json!({"a": [1, -1, 18_446_744_073_709_551_615_u64], "new": {"x": "\u{e9}\n"}});
    let agent = Agent::default().with("guest-get-osinfo", Quirk::Value(said.clone()));
    let gateway = Gateway::with(agent).await;
    let answer = send(&gateway, "guest-get-osinfo", &json!({})).await.expect(200);
    assert_eq!(answer, json!({"return": said}));
    let arguments = json!({"path": "/x", "mode": "r"});
    let answer = send(&gateway, "guest-file-open", &json!({"arguments": arguments})).await;
    assert_eq!(answer.expect(200), json!({"return": 1000}));
    assert_eq!(gateway.agent.arguments("guest-file-open"), [arguments]);
    let bare = gateway.ask("POST", "/vms/vm/commands/guest-ping").send().await.expect(200);
    assert_eq!(bare, json!({"return": {}}));
    // Not answered on success.
    assert_eq!(send(&gateway, "guest-suspend-ram", &json!({})).await.expect(200), bare);
    let seek = json!({"arguments": {"handle": 1, "offset": 0}});
    let problem = send(&gateway, "guest-file-seek", &seek).await.problem(422, "agent_error");
    assert_eq!(problem["qga_desc"], "Parameter 'whence' is missing");
    assert_eq!(problem["command"], "guest-file-seek");
}

#[tokio::test]
async fn what_others_own_is_refused_with_the_path_to_use() {
    let gateway = Gateway::start().await;
    for (name, path) in [
        ("guest-fsfreeze-freeze", "POST /vms/vm/fsfreeze"),
        ("guest-fsfreeze-freeze-list", "POST /vms/vm/fsfreeze"),
        ("guest-fsfreeze-thaw", "DELETE /vms/vm/fsfreeze"),
        ("x-guest-fsfreeze-freeze", "/vms/vm/fsfreeze"),
        ("x-guest-fsfreeze-thaw", "/vms/vm/fsfreeze"),
        ("x-guest-fsfreeze-renew", "/vms/vm/fsfreeze"),
        ("x-guest-fsfreeze-report", "/vms/vm/fsfreeze"),
        ("guest-sync", "POST /vms/vm/sync"),
        ("guest-sync-delimited", "POST /vms/vm/sync"),
    ] {
        let problem = send(&gateway, name, &json!({})).await.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains(path), "{problem}");
        assert_eq!(problem["outcome"], "not_sent");
    }
    assert!(!gateway.agent.is_frozen());
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 0);
    // However the path is written.
    for name in ["guest%2Dfsfreeze%2Dfreeze", "guest-fsfreeze-fre%65ze"] {
        send(&gateway, name, &json!({})).await.problem(403, "forbidden");
    }
    for name in ["Guest-Fsfreeze-Freeze", "guest-fsfreeze-freeze%20", "guest-ping%22%7D", "x%0A"] {
        send(&gateway, name, &json!({})).await.problem(501, "command_unsupported");
    }
    let all = gateway.ask("POST", "/vms/vm/commands/guest-fsfreeze-status").send().await;
    assert_eq!(all.expect(200), json!({"return": "thawed"}));
}

#[tokio::test]
async fn what_an_agents_parser_would_refuse_never_gets_there() {
    let gateway = Gateway::start().await;
    let deep = format!("{{\"arguments\": {{\"a\": {}{}}}}}", "[".repeat(500), "]".repeat(500));
    for body in [
        r#"{"arguments": {"id": 1, "id": 2}}"#,
        r#"{"arguments": {"x": {"a": 1, "a": 2}}}"#,
        r#"{"arguments": []}"#,
        r#"{"arguments": null}"#,
        r#"{"arguments": {}, "execute": "guest-shutdown"}"#,
        r#"{"arguments": {"a": 1e999}}"#,
        &deep,
    ] {
        let ask = gateway.ask("POST", "/vms/vm/commands/guest-ping").text(body.to_owned());
        let answer = ask.header("content-type", "application/json").send().await;
        answer.problem(400, "bad_request");
    }
    assert_eq!(gateway.agent.times("guest-ping"), 0);
}

#[tokio::test]
async fn a_command_of_the_agents_own_is_sent_if_its_list_has_it() {
    let mut agent = None;
    let listen = |path: &std::path::Path| {
        let agent = agent.insert(OldAgent::start(path));
        let listed = json!([
            {"name": "vendor-answer", "enabled": true},
            {"name": "vendor-off", "enabled": false},
        ]);
        agent.answers("guest-info", json!({"version": "99", "supported_commands": listed}));
        agent.answers("vendor-answer", json!(42));
        agent.answers("vendor-late", json!(43));
    };
    let gateway = Gateway::before(listen, "").await;
    gateway.known().await;
    let answer = send(&gateway, "vendor-answer", &json!({})).await;
    assert_eq!(answer.expect(200), json!({"return": 42}));
    let problem = send(&gateway, "vendor-off", &json!({})).await.problem(403, "command_disabled");
    assert_eq!(problem["outcome"], "not_sent");
    let problem = send(&gateway, "vendor-late", &json!({})).await;
    assert_eq!(problem.problem(501, "command_unsupported")["outcome"], "not_sent");
    let agent = agent.expect("listens");
    assert_eq!((agent.ran("vendor-off"), agent.ran("vendor-late")), (0, 0));
    // The agent was replaced behind the open socket: its new list counts.
    let listed = json!([{"name": "vendor-late", "enabled": true}]);
    agent.answers("guest-info", json!({"version": "100", "supported_commands": listed}));
    let answers = async { while send(&gateway, "vendor-late", &json!({})).await.status != 200 {} };
    tokio::time::timeout(super::gateway::BOUND, answers).await.expect("asked anew");
}

#[tokio::test]
async fn without_a_list_only_known_commands_are_sent() {
    let gateway = Gateway::before(|path| drop(OldAgent::start(path)), "").await;
    gateway.known().await;
    let problem = send(&gateway, "vendor-answer", &json!({})).await;
    problem.problem(501, "command_unsupported");
    send(&gateway, "guest-ping", &json!({})).await.expect(200);
}
