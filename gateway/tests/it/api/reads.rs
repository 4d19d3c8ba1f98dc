//! What a guest says of itself: every read, with each agent that may be there.

use qga_gateway::api::openapi_json;
use qga_gateway::vm::LinkState;
use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::gateway::Gateway;
use crate::scripted::OldAgent;
use crate::vm::qemu_ga;

/// Path, command and example of each read, from the document.
fn reads() -> Vec<(String, &'static str, Value)> {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut reads = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let command = item["get"]["x-qga-command"].as_str().unwrap_or_default();
        let of_guest =
            command.starts_with("guest-get-") || command.starts_with("guest-network-get-");
        if of_guest && !command.contains(' ') || command == "guest-info" {
            let content = &item["get"]["responses"]["200"]["content"]["application/json"];
            let command: &'static str = command.to_owned().leak();
            reads.push((path.replace("{id}", "vm"), command, content["example"].clone()));
        }
    }
    assert_eq!(reads.len(), 17);
    reads
}

/// The same without what only Windows has, and what a gateway asks by itself.
fn linux_reads() -> impl Iterator<Item = (String, &'static str, Value)> {
    let foreign = ["guest-get-devices", "guest-info"];
    reads().into_iter().filter(move |(_, command, _)| !foreign.contains(command))
}

/// What the agent says for the API to answer with this.
fn said(command: &str, answer: &Value) -> Value {
    if command == "guest-get-time" { answer["time"].clone() } else { answer.clone() }
}

#[tokio::test]
async fn each_read_is_one_command_and_its_example_is_true() {
    let mut agent = Agent::default();
    for (_, command, example) in linux_reads() {
        agent = agent.with(command, Quirk::Value(said(command, &example)));
    }
    let gateway = Gateway::with(agent).await;
    gateway.known().await;
    for (path, command, example) in linux_reads() {
        let before = gateway.agent.times(command);
        let answer = gateway.ask("GET", &path).send().await.expect(200);
        assert_eq!(answer, example, "{path}");
        assert_eq!(gateway.agent.times(command), before + 1, "{path}");
    }
}

#[tokio::test]
async fn what_no_type_knows_is_left_out_and_breaks_nothing() {
    let disk = json!({
        "pci-controller": {"domain": -1, "bus": -1, "slot": -1, "function": -1, "new": 1},
        "bus-type": "warp", "bus": 0, "target": 0, "unit": 0, "new": {}
    });
    let known = json!({
        "pci-controller": {"domain": -1, "bus": -1, "slot": -1, "function": -1},
        "bus-type": "unknown", "bus": 0, "target": 0, "unit": 0
    });
    let agent = Agent::default()
        .with(
            "guest-get-fsinfo",
            Quirk::Value(json!([{
                "name": "\\\\?\\Volume{1}\\", "mountpoint": "C:\\", "type": "NTFS", "disk": [disk],
                "free-bytes": 1
            }])),
        )
        .with(
            "guest-get-disks",
            Quirk::Value(json!([{
                "name": "x", "partition": false, "smart": {"type": "ufs", "wear": 3}
            }])),
        )
        .with("guest-get-cpustats", Quirk::Value(json!([{"type": "windows", "cpu": 0}])))
        .with("guest-get-users", Quirk::Value(json!([{"user": "u", "login-time": 1}])))
        .with("guest-get-load", Quirk::Value(json!({"load1m": 1, "load5m": 0, "load15m": 2.5})))
        .with(
            "guest-network-get-route",
            Quirk::Value(json!([{
                "iface": "lo", "destination": "::", "metric": -1, "version": 6,
                "flags": 18_446_744_071_564_165_121_u64
            }])),
        );
    let gateway = Gateway::with(agent).await;
    let get =
        async |path: &str| gateway.ask("GET", &format!("/vms/vm/{path}")).send().await.expect(200);
    assert_eq!(
        get("filesystems").await,
        json!([{"name": "\\\\?\\Volume{1}\\", "mountpoint": "C:\\", "type": "NTFS", "disk": [known]}])
    );
    assert_eq!(
        get("disks").await,
        json!([{"name": "x", "partition": false, "smart": {"type": "other"}}])
    );
    assert_eq!(get("cpu-stats").await, json!([{"type": "other"}]));
    assert_eq!(get("users").await, json!([{"user": "u", "login-time": 1.0}]));
    assert_eq!(get("load").await, json!({"load1m": 1.0, "load5m": 0.0, "load15m": 2.5}));
    assert_eq!(get("routes").await[0]["flags"], 18_446_744_071_564_165_121_u64);
}

#[tokio::test]
async fn nonsense_from_a_guest_is_a_bad_reply_to_each_read() {
    let mut agent = Agent::default();
    for (_, command, _) in linux_reads() {
        agent = agent.with(command, Quirk::Value(json!("nonsense")));
    }
    let gateway = Gateway::with(agent).await;
    for (path, command, _) in linux_reads() {
        let problem = gateway.ask("GET", &path).send().await.problem(502, "agent_bad_reply");
        assert_eq!(problem["command"], command, "{path}");
        assert_eq!(problem["retryable"], true, "{path}");
    }
}

#[tokio::test]
async fn windows_lists_its_devices_and_others_have_no_such_command() {
    let (_, command, example) =
        reads().into_iter().find(|(path, ..)| path.ends_with("devices")).unwrap();
    let mut windows = None;
    let listen = |path: &std::path::Path| {
        let agent = windows.insert(OldAgent::start(path));
        agent.answers(command, example.clone());
        let listed = json!([{"name": command, "enabled": true}]);
        let info = json!({"version": "10.2.0", "supported_commands": listed});
        agent.answers("guest-info", info);
    };
    let gateway = Gateway::before(listen, "").await;
    gateway.wait_for(LinkState::Ready).await;
    assert_eq!(gateway.ask("GET", "/vms/vm/devices").send().await.expect(200), example);
    let gateway = Gateway::start().await;
    let problem = gateway.ask("GET", "/vms/vm/devices").send().await;
    let problem = problem.problem(501, "command_unsupported");
    assert_eq!(problem["retryable"], false);
}

#[tokio::test]
async fn a_request_says_how_long_the_guest_may_take() {
    for (method, path, command) in [
        ("GET", "os", "guest-get-osinfo"),
        ("POST", "file-handles/1/flush", "guest-file-flush"),
        ("POST", "ping", "guest-ping"),
    ] {
        let gateway = Gateway::with(Agent::default().with(command, Quirk::Never)).await;
        let path = format!("/vms/vm/{path}?timeout_seconds=0.2");
        let problem = gateway.ask(method, &path).send().await.problem(504, "agent_timeout");
        assert!(problem["detail"].as_str().unwrap().contains("within 0.2 s"), "{problem}");
        for bad in ["0", "-1", "3601", "x", "1e999", "nan", ""] {
            let ask = gateway.ask(method, &path.replace("0.2", bad));
            let problem = ask.send().await.problem(400, "bad_request");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("timeout_seconds"), "{bad}: {detail}");
        }
    }
}

#[tokio::test]
async fn a_real_qemu_ga_answers_what_it_has() {
    let Some(program) = qga_testing::stock_agent() else { return };
    let state = tempfile::tempdir().unwrap();
    let mut real = None;
    let start = |socket: &std::path::Path| {
        real = Some(qemu_ga::Agent::start(&program, socket, state.path()));
    };
    let gateway = Gateway::before(start, "").await;
    gateway.wait_for(LinkState::Ready).await;
    let mut answered = Vec::new();
    for (path, command, _) in reads() {
        let answer = gateway.ask("GET", &path).send().await;
        match answer.status.as_u16() {
            200 => {
                answer.expect(200);
                answered.push(command);
            }
            // Older than the command, or on the wrong system for it.
            501 => drop(answer.problem(501, "command_unsupported")),
            // Before 9.1 that was listed, and disabled.
            403 => {
                let problem = answer.problem(403, "command_disabled");
                assert!(problem["detail"].as_str().unwrap().contains("before QEMU 9.1"));
            }
            // What this machine's kernel does not show.
            _ => drop(answer.problem(422, "agent_error")),
        }
    }
    for certain in ["guest-get-osinfo", "guest-get-time", "guest-get-vcpus", "guest-info"] {
        assert!(answered.contains(&certain), "{certain}: {answered:?}");
    }
    assert!(!answered.contains(&"guest-get-devices"), "only on Windows");
    drop(real);
}
