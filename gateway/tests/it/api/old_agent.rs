//! The whole API over an agent of QEMU 0.15.

use qga_gateway::vm::LinkState;
use serde_json::json;

use super::gateway::{BOUND, Gateway};
use crate::scripted::OldAgent;

async fn start() -> (Gateway, OldAgent) {
    found("thawed", LinkState::Ready).await
}

async fn found(status: &'static str, link: LinkState) -> (Gateway, OldAgent) {
    let mut agent = None;
    let listen = |path: &std::path::Path| {
        agent.insert(OldAgent::start(path)).truth().status = status;
    };
    let gateway = Gateway::before(listen, "").await;
    gateway.wait_for(link).await;
    (gateway, agent.expect("started"))
}

#[tokio::test]
async fn what_it_has_works_and_what_it_lacks_is_told() {
    let (gateway, agent) = start().await;
    let known = async {
        loop {
            let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
            if vm["capabilities"].is_object() {
                return vm;
            }
        }
    };
    let vm = tokio::time::timeout(BOUND, known).await.expect("known in time");
    assert_eq!(vm["agent"]["version"], "0.15.50");
    let nothing = json!({
        "commands": null, "echoes_id": false, "delimited_sync": false, "extensions": [],
        "windows": false
    });
    assert_eq!(vm["capabilities"], nothing);
    let info = gateway.ask("GET", "/vms/vm/agent").send().await.expect(200);
    assert_eq!(info, json!({"version": "0.15.50", "supported_commands": []}));
    assert_eq!(gateway.ask("POST", "/vms/vm/ping").send().await.expect(200), json!({}));

    let ask = gateway.ask("POST", "/vms/vm/file-handles/1/seek");
    let seek = ask.json(&json!({"offset": 0, "whence": "end"})).send().await.expect(200);
    assert_eq!(seek, json!({"position": 7, "eof": false}));

    let ask = gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({"mountpoints": ["/"]}));
    let problem = ask.send().await.problem(501, "command_unsupported");
    assert_eq!(problem["command"], "guest-fsfreeze-freeze-list");
    assert_eq!(problem["outcome"], "failed");
    let fsfreeze = gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    assert_eq!(fsfreeze, json!({"status": "thawed", "lease": null}));

    let answer = gateway.ask("POST", "/vms/vm/shutdown").send().await.expect(202);
    assert_eq!(answer["outcome"], "accepted");
    assert_eq!(agent.ran("guest-shutdown"), 1);
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
}

#[tokio::test]
async fn a_negative_count_is_never_a_success() {
    for count in [-1, -22] {
        let (gateway, agent) = start().await;
        agent.answers("guest-fsfreeze-freeze", json!(count));
        let refused = gateway.ask("POST", "/vms/vm/fsfreeze").send().await;
        let problem = refused.problem(422, "agent_error");
        assert!(problem["detail"].as_str().unwrap().contains(&format!("count {count}\"")));
        let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
        assert_eq!((&vm["freeze"], &vm["link"]["state"]), (&json!(null), &json!("ready")));

        agent.mend("guest-fsfreeze-freeze");
        let lease = gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
        let at = format!("/freezes/{}", lease["id"].as_str().unwrap());
        agent.answers("guest-fsfreeze-thaw", json!(count));
        for path in [at.as_str(), "/vms/vm/fsfreeze"] {
            let problem = gateway.ask("DELETE", path).send().await.problem(422, "agent_error");
            assert_eq!(problem["command"], "guest-fsfreeze-thaw");
            assert!(problem["qga_desc"].as_str().unwrap().ends_with(&count.to_string()));
            let kept = gateway.ask("GET", &at).send().await.expect(200);
            assert_eq!((&kept["state"], &kept["verdict"]), (&json!("thawing"), &json!(null)));
            assert_eq!(kept["thawed_at"], json!(null));
            let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
            assert_eq!(vm["link"]["state"], "frozen");
            assert_eq!(vm["freeze"]["id"], lease["id"]);
        }
        agent.mend("guest-fsfreeze-thaw");
        let thawed = gateway.ask("DELETE", &at).send().await.expect(200);
        assert_eq!(
            (&thawed["state"], &thawed["verdict"]),
            (&json!("thawed"), &json!("counts_agree"))
        );
        assert_eq!(agent.truth().status, "thawed");
    }
}

#[tokio::test]
async fn the_error_state_is_shown_and_thawed_by_force() {
    let (gateway, agent) = found("error", LinkState::Frozen).await;
    let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
    assert!(vm["link"]["reason"].as_str().unwrap().contains("half-way"), "{vm}");
    let fsfreeze = gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    assert_eq!(fsfreeze, json!({"status": "error", "lease": null}));
    for (method, code) in [("POST", "already_frozen"), ("DELETE", "lease_conflict")] {
        let problem = gateway.ask(method, "/vms/vm/fsfreeze").send().await.problem(409, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("half-way") && detail.contains("?force=true"), "{detail}");
        assert!(!detail.contains("whoever froze it"), "{detail}");
    }
    assert_eq!((agent.ran("guest-fsfreeze-freeze"), agent.ran("guest-fsfreeze-thaw")), (0, 0));

    let force = || gateway.ask("DELETE", "/vms/vm/fsfreeze?force=true").send();
    agent.answers("guest-fsfreeze-thaw", json!(-1));
    force().await.problem(422, "agent_error");
    let fsfreeze = gateway.ask("GET", "/vms/vm/fsfreeze").send().await.expect(200);
    assert_eq!(fsfreeze, json!({"status": "error", "lease": null}));

    agent.mend("guest-fsfreeze-thaw");
    let forced = force().await.expect(200);
    assert_eq!((&forced["state"], &forced["thaw_cause"]), (&json!("thawed"), &json!("forced")));
    let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
    assert_eq!((&vm["link"]["state"], &vm["link"]["reason"]), (&json!("ready"), &json!(null)));
}
