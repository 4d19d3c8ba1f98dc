//! Calls to a guest: its answers as they came, and its failures as problems.

use std::time::Duration;

use qga_gateway::vm::LinkState;
use qga_proto::{ErrorClass, QgaError};
use serde_json::json;

use super::agent::{Agent, Quirk};
use super::gateway::Gateway;

#[tokio::test]
async fn vms_are_listed_and_shown_from_what_is_known() {
    let gateway = Gateway::start().await;
    let list = gateway.ask("GET", "/vms").send().await.expect(200);
    let ids: Vec<_> = list["vms"].as_array().unwrap().iter().map(|vm| &vm["id"]).collect();
    assert_eq!(ids, ["absent", "vm"]);
    assert_eq!(list["vms"][0]["link"]["state"], "absent");
    let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
    assert_eq!(vm["labels"], json!({"tier": "test"}));
    assert_eq!(vm["link"]["state"], "ready");
    let since = vm["link"]["since"].as_str().unwrap();
    assert!(since.ends_with('Z') && since.len() == "2026-11-22T09:15:04.250Z".len(), "{since}");
    assert_eq!(vm["agent"]["version"], "11.1.3");
    assert!(vm["freeze"].is_null());
    assert_eq!(vm["capabilities"]["delimited_sync"], true);
    let commands = vm["capabilities"]["commands"].as_array().unwrap();
    assert!(commands.iter().any(|c| c["name"] == "guest-ping" && c["enabled"] == true));
    assert!(!vm.to_string().contains(".sock"), "no host path: {vm}");
}

#[tokio::test]
async fn the_gateway_says_which_it_is() {
    let gateway = Gateway::start().await;
    let version = gateway.ask("GET", "/version").send().await.expect(200);
    assert_eq!(version, json!({"name": "qga-gateway", "version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(gateway.ask("GET", "/livez").send().await.expect(200), json!({"status": "ok"}));
}

#[tokio::test]
async fn the_agent_answers_info_ping_and_sync() {
    let gateway = Gateway::start().await;
    let info = gateway.ask("GET", "/vms/vm/agent").send().await.expect(200);
    assert_eq!(info["version"], "11.1.3");
    let ping = info["supported_commands"].as_array().unwrap().iter();
    assert!(ping.clone().any(|c| c["name"] == "guest-shutdown" && c["success-response"] == false));
    assert_eq!(gateway.ask("POST", "/vms/vm/ping").send().await.expect(200), json!({}));
    let link = gateway.ask("POST", "/vms/vm/sync").send().await.expect(200);
    assert_eq!(link["state"], "ready");
}

#[tokio::test]
async fn an_absent_agent_is_unavailable_with_its_link() {
    let gateway = Gateway::start().await;
    for (method, path) in [
        ("POST", "/vms/absent/ping"),
        ("POST", "/vms/absent/sync"),
        ("GET", "/vms/absent/agent"),
        ("GET", "/vms/absent/fsfreeze"),
        ("POST", "/vms/absent/fsfreeze"),
        ("POST", "/vms/absent/shutdown"),
    ] {
        let problem = gateway.ask(method, path).send().await.problem(503, "agent_unavailable");
        assert_eq!(problem["vm_id"], "absent", "{path}");
        assert!(problem["command"].as_str().unwrap().starts_with("guest-"), "{path}");
        assert_eq!(problem["link"]["state"], "absent", "{path}");
        assert_eq!(
            (&problem["outcome"], &problem["retryable"]),
            (&json!("not_sent"), &json!(true))
        );
    }
}

#[tokio::test]
async fn what_the_guest_says_decides_the_code() {
    let generic = |desc: &str| QgaError::generic(desc);
    let not_found = |desc: &str| QgaError {
        class: ErrorClass::CommandNotFound,
        desc: desc.into(),
        errno: None,
    };
    for (error, status, code) in [
        (generic("failed to open file '/x': \x1b[31mNo such file\n"), 422, "agent_error"),
        (generic("Parameter 'mode' is unexpected"), 501, "command_unsupported"),
        (not_found("The command guest-file-open has not been found"), 501, "command_unsupported"),
        (not_found("Command guest-file-open has been disabled"), 403, "command_disabled"),
        (
            not_found("Command guest-file-open has been disabled: the command is not allowed"),
            403,
            "command_disabled",
        ),
        (
            not_found("Command guest-file-open has been disabled: the agent is in frozen state"),
            409,
            "vm_frozen",
        ),
        (
            QgaError { class: ErrorClass::Other("NewClass".into()), desc: "x".into(), errno: None },
            422,
            "agent_error",
        ),
    ] {
        let agent = Agent::default().with("guest-file-open", Quirk::Error(error.clone()));
        let gateway = Gateway::with(agent).await;
        let ask = gateway.ask("POST", "/vms/vm/file-handles").json(&json!({"path": "/x"}));
        let problem = ask.send().await.problem(status, code);
        assert_eq!(problem["vm_id"], "vm");
        assert_eq!(problem["command"], "guest-file-open");
        assert_eq!(problem["outcome"], "failed");
        if error.is_not_found() {
            continue; // The agent's words would add nothing.
        }
        assert_eq!(problem["qga_class"], error.class.as_str());
        let desc = problem["qga_desc"].as_str().unwrap();
        assert!(!desc.chars().any(char::is_control), "{desc:?}");
    }
}

#[tokio::test]
async fn a_disabled_command_on_a_frozen_vm_is_vm_frozen() {
    let gateway = Gateway::start().await;
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    let ask = gateway.ask("POST", "/vms/vm/file-handles").json(&json!({"path": "/x"}));
    let problem = ask.send().await.problem(409, "vm_frozen");
    assert_eq!(problem["retryable"], true);
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
}

#[tokio::test]
async fn no_answer_is_a_timeout_of_unknown_outcome_and_the_link_recovers() {
    let agent =
        Agent::default().with("guest-file-flush", Quirk::Never).with("guest-ping", Quirk::Never);
    let gateway =
        Gateway::configured(agent, "[timeouts]\nfile_seconds = 0.3\nsession_seconds = 0.3\n").await;
    gateway.wait_for(LinkState::Ready).await;
    let flush = gateway.ask("POST", "/vms/vm/file-handles/1/flush");
    let problem = flush.send().await.problem(504, "agent_timeout");
    assert_eq!((&problem["outcome"], &problem["retryable"]), (&json!("unknown"), &json!(false)));
    assert!(problem["link"]["state"].is_string());
    let ping = gateway.ask("POST", "/vms/vm/ping").send().await;
    assert!([503, 504].contains(&ping.status.as_u16()), "{:?}", ping.body);
    gateway.agent.mend("guest-ping");
    let healed = async {
        while gateway.ask("POST", "/vms/vm/ping").send().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::gateway::BOUND, healed).await.expect("recovers by itself");
}

#[tokio::test]
async fn a_lost_connection_and_a_senseless_reply_are_told_apart() {
    let agent = Agent::default()
        .with("guest-ping", Quirk::Value(json!("not an object")))
        .with("guest-file-close", Quirk::HangUp);
    let gateway = Gateway::with(agent).await;
    let problem = gateway.ask("POST", "/vms/vm/ping").send().await.problem(502, "agent_bad_reply");
    assert_eq!(problem["outcome"], "unknown");
    let problem = gateway.ask("DELETE", "/vms/vm/file-handles/1").send().await;
    let problem = problem.problem(503, "agent_unavailable");
    assert_eq!((&problem["outcome"], &problem["retryable"]), (&json!("unknown"), &json!(false)));
    gateway.wait_for(LinkState::Ready).await;
    gateway.ask("GET", "/vms/vm/agent").send().await.expect(200);
}

#[tokio::test]
async fn garbage_is_never_an_answer() {
    let agent =
        Agent::default().with("guest-file-flush", Quirk::Bytes(b"{\"return\": nonsense}\n"));
    let gateway = Gateway::configured(agent, "[timeouts]\nfile_seconds = 0.5\n").await;
    gateway.wait_for(LinkState::Ready).await;
    let flush = gateway.ask("POST", "/vms/vm/file-handles/1/flush").send().await;
    assert!([502, 503, 504].contains(&flush.status.as_u16()), "{:?}", flush.body);
    assert_eq!(flush.value()["outcome"], "unknown");
}

#[tokio::test]
async fn shutdown_is_accepted_though_no_agent_answers_it() {
    let config = "[timeouts]\nshutdown_seconds = 0.3\n";
    for (quirk, outcomes) in [
        (None, ["accepted", "unknown"]),
        (Some(Quirk::Never), ["accepted", "unknown"]),
        (Some(Quirk::HangUp), ["accepted", "unknown"]),
    ] {
        let agent = match quirk {
            Some(quirk) => Agent::default().with("guest-shutdown", quirk),
            None => Agent::default(),
        };
        let gateway = Gateway::configured(agent, config).await;
        gateway.wait_for(LinkState::Ready).await;
        let ask = gateway.ask("POST", "/vms/vm/shutdown").json(&json!({"mode": "reboot"}));
        let answer = ask.send().await.expect(202);
        assert_eq!(answer["mode"], "reboot");
        assert!(outcomes.contains(&answer["outcome"].as_str().unwrap()), "{answer}");
        assert_eq!(gateway.agent.times("guest-shutdown"), 1);
    }
}

#[tokio::test]
async fn a_refused_shutdown_is_a_problem() {
    let refusal = QgaError::generic("child process has failed to shutdown: exit status 1");
    let agent = Agent::default().with("guest-shutdown", Quirk::Error(refusal));
    let gateway = Gateway::with(agent).await;
    let problem = gateway.ask("POST", "/vms/vm/shutdown").send().await.problem(422, "agent_error");
    assert_eq!(problem["qga_desc"], "child process has failed to shutdown: exit status 1");
    let ask = gateway.ask("POST", "/vms/vm/shutdown").json(&json!({"mode": "off"}));
    let problem = ask.send().await.problem(400, "bad_request");
    assert!(problem["detail"].as_str().unwrap().contains("`powerdown`, `halt`, `reboot`"));
}
