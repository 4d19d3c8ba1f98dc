//! A VM that does not run, as a client sees it.

use qga_gateway::vm::{LinkState, VmHandle};
use serde_json::json;
use tokio::time::timeout;

use super::agent::Agent;
use super::events::Stream;
use super::gateway::{BOUND, Gateway};
use crate::fake_qmp::Qmp;

async fn until(vm: &VmHandle, state: LinkState) {
    let mut changes = vm.link_changes();
    let reached = changes.wait_for(|link| link.state == state);
    timeout(BOUND, reached).await.expect("in time").expect("the VM is there");
}

#[tokio::test]
async fn a_paused_vm_refuses_with_a_reason_and_tells_of_its_pauses_and_resets() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, control) = (dir.path().join("a"), dir.path().join("a.qmp"));
    let agent = Agent::default();
    agent.listen(&socket);
    let qmp = Qmp::start(&control, &socket);
    let more = format!("[[vm]]\nid = \"a\"\nsocket = {socket:?}\nqmp = {control:?}\n");
    let gateway = Gateway::configured(Agent::default(), &more).await;
    let vm = gateway.registry.get(&"a".parse().unwrap()).unwrap();
    until(&vm, LinkState::Ready).await;
    let asked = async {
        while !qmp.truth().asked.iter().any(|asked| asked == "query-chardev") {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, asked).await.expect("QMP is followed");
    let mut events = Stream::open(gateway.ask("GET", "/events?vm=a")).await;

    qmp.stop();
    let event = events.event().await;
    assert_eq!(
        (&event["kind"], &event["data"]["state"]),
        (&json!("link.changed"), &json!("paused"))
    );
    let mut changes = vm.link_changes();
    let told = changes.wait_for(|link| {
        link.reason.as_deref().is_some_and(|reason| reason == "somebody has paused it")
    });
    timeout(BOUND, told).await.expect("in time").expect("the VM is there");
    for path in ["fsfreeze", "ping"] {
        let answer = gateway.ask("POST", &format!("/vms/a/{path}")).send().await;
        let problem = answer.problem(409, "vm_paused");
        assert_eq!(
            (&problem["outcome"], &problem["retryable"]),
            (&json!("not_sent"), &json!(true))
        );
        assert_eq!(problem["link"]["state"], "paused");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("does not run (somebody has paused it)"), "{detail}");
    }
    let shown = gateway.ask("GET", "/vms/a").send().await.expect(200);
    assert_eq!(shown["link"]["state"], "paused");
    assert_eq!(agent.times("guest-fsfreeze-freeze"), 0);
    assert_eq!(gateway.ask("GET", "/freezes").send().await.expect(200)["freezes"], json!([]));

    qmp.resume();
    until(&vm, LinkState::Ready).await;
    qmp.happens("RESET", |_| {});
    for (happens, kind, reason) in [
        ("", "vm.reset", "the guest was reset"),
        ("SHUTDOWN", "vm.shutdown", "the guest was shut down"),
        ("GUEST_PANICKED", "vm.panicked", "the guest's kernel has panicked"),
    ] {
        if !happens.is_empty() {
            qmp.happens(happens, |_| {});
        }
        let told = async {
            loop {
                let event = events.event().await;
                if event["kind"] == kind {
                    return event;
                }
            }
        };
        assert_eq!(timeout(BOUND, told).await.expect("in time")["data"]["reason"], reason);
    }
    until(&vm, LinkState::Ready).await;
    gateway.ask("POST", "/vms/a/ping").send().await.expect(200);
}
