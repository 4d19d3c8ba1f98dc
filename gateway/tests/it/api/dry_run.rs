//! `?dry_run=true`: what would freeze, and nothing frozen.

use qga_proto::QgaError;
use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::gateway::Gateway;

const AT: &str = "/vms/vm/fsfreeze?dry_run=true";

fn mounted() -> Agent {
    let mounts = [("/", "ext4"), ("/srv", "xfs"), ("/boot/efi", "vfat"), ("/media", "iso9660")];
    let mounts: Vec<Value> = mounts
        .iter()
        .map(|(at, kind)| json!({"name": "vda", "mountpoint": at, "type": kind, "disk": []}))
        .collect();
    Agent::default().with("guest-get-fsinfo", Quirk::Value(mounts.into()))
}

async fn would(gateway: &Gateway, body: Value) -> Vec<(String, Value)> {
    let preview = gateway.ask("POST", AT).json(&body).send().await.expect(200);
    assert_eq!(preview["vm_id"], "vm");
    let all = preview["filesystems"].as_array().unwrap().iter();
    let all = all.map(|f| {
        assert_eq!(f["would_freeze"], f["reason"].is_null(), "{f}");
        (f["mountpoint"].as_str().unwrap().to_owned(), f["reason"].clone())
    });
    all.collect()
}

#[tokio::test]
async fn a_dry_run_lists_what_would_freeze_and_freezes_nothing() {
    let gateway = Gateway::with(mounted()).await;
    let all = would(&gateway, json!({})).await;
    let cannot = |kind| json!(format!("filesystems of type {kind} cannot freeze"));
    let expected = [
        ("/", Value::Null),
        ("/srv", Value::Null),
        ("/boot/efi", cannot("vfat")),
        ("/media", cannot("iso9660")),
    ];
    assert_eq!(all, expected.map(|(at, why)| (at.to_owned(), why)));
    let some = would(&gateway, json!({"mountpoints": ["/srv/", "/media"]})).await;
    let not_named = json!("\"mountpoints\" does not name it");
    let reasons: Vec<Value> = some.into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, [not_named.clone(), Value::Null, not_named, cannot("iso9660")]);

    let ask = gateway.ask("POST", AT).json(&json!({"mountpoints": ["/srv", "/mnt"]}));
    let problem = ask.send().await.problem(422, "no_such_mountpoint");
    assert!(problem["detail"].as_str().unwrap().contains("/mnt"), "{problem}");
    let body = json!({"mountpoints": ["/srv", "/mnt"], "policy": "best_effort"});
    let preview = gateway.ask("POST", AT).json(&body).send().await.expect(200);
    assert_eq!(
        (&preview["skipped"], &preview["policy"]),
        (&json!(["/mnt"]), &json!("best_effort"))
    );

    assert!(gateway.leases.list().is_empty());
    for never in ["guest-fsfreeze-freeze", "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw"] {
        assert_eq!(gateway.agent.times(never), 0, "{never}");
    }
    let ask = gateway.ask("POST", AT).json(&json!({"ttl_seconds": 0}));
    ask.send().await.problem(400, "bad_request");
    gateway.ask("POST", "/vms/vm/fsfreeze?dry_run=false").send().await.expect(201);
}

#[tokio::test]
async fn a_dry_run_of_several_lists_each_vm_and_what_stands_in_its_way() {
    let gateway = Gateway::configured(mounted(), "[limits]\nfrozen_vms_max = 2\n").await;
    gateway.wait_for(qga_gateway::vm::LinkState::Ready).await;
    let ask = |body: Value| gateway.ask("POST", "/freezes?dry_run=true").json(&body).send();
    let preview = ask(json!({"vms": ["vm", "absent"], "order": "sequential"})).await.expect(200);
    assert_eq!(
        (&preview["would_freeze"], &preview["order"], &preview["all_or_nothing"]),
        (&json!(false), &json!("sequential"), &json!(true))
    );
    let [vm, absent] = preview["members"].as_array().unwrap().as_slice() else {
        panic!("{preview}")
    };
    assert_eq!((&vm["vm_id"], &vm["problem"]), (&json!("vm"), &json!(null)));
    let alone = gateway.ask("POST", AT).send().await.expect(200);
    assert_eq!(vm["filesystems"], alone["filesystems"]);
    assert_eq!((&absent["vm_id"], &absent["filesystems"]), (&json!("absent"), &json!([])));
    assert_eq!(absent["problem"]["code"], "agent_unavailable");
    assert_eq!(absent["problem"]["outcome"], "not_sent");

    let body = json!({"vms": ["absent", "vm"], "all_or_nothing": false, "mountpoints": ["/srv"]});
    let preview = ask(body).await.expect(200);
    assert_eq!(preview["would_freeze"], true, "one of them is enough");
    assert_eq!(preview["members"][1]["filesystems"][1]["would_freeze"], true);
    let preview = ask(json!({"selector": {"labels": {"tier": "test"}}})).await.expect(200);
    assert_eq!((&preview["would_freeze"], &preview["policy"]), (&json!(true), &json!("required")));
    let preview = ask(json!({"vms": ["vm"], "mountpoints": ["/mnt"]})).await.expect(200);
    assert_eq!(preview["members"][0]["problem"]["code"], "no_such_mountpoint");

    // What a freeze of them is refused for as a whole.
    for bad in [json!({"vms": []}), json!({"vms": ["vm"], "ttl_seconds": 999_999})] {
        ask(bad).await.problem(400, "bad_request");
    }
    ask(json!({"vms": ["vm", "nobody"]})).await.problem(404, "vm_not_found");
    let lease = gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    let preview = ask(json!({"vms": ["vm"]})).await.expect(200);
    let problem = &preview["members"][0]["problem"];
    assert_eq!((&problem["code"], &problem["lease_id"]), (&json!("already_frozen"), &lease["id"]));
    ask(json!({"vms": ["vm", "absent"]})).await.problem(429, "too_many_frozen");
    assert_eq!(gateway.leases.list().len(), 1);
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 1);
}

#[tokio::test]
async fn a_dry_run_meets_what_a_freeze_would() {
    let gateway = Gateway::with(mounted()).await;
    let lease = gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    let problem = gateway.ask("POST", AT).send().await.problem(409, "already_frozen");
    assert_eq!(problem["lease_id"], lease["id"]);
    // Frozen by somebody else.
    let frozen = mounted().with("guest-fsfreeze-status", Quirk::Value(json!("frozen")));
    let gateway = Gateway::configured(frozen, "").await;
    gateway.wait_for(qga_gateway::vm::LinkState::Frozen).await;
    gateway.ask("POST", AT).send().await.problem(409, "already_frozen");
    assert_eq!(gateway.agent.times("guest-get-fsinfo"), 0);
    // An agent that lists no filesystems cannot say.
    let error = QgaError::not_found("guest-get-fsinfo");
    let gateway =
        Gateway::with(Agent::default().with("guest-get-fsinfo", Quirk::Error(error))).await;
    let problem = gateway.ask("POST", AT).send().await.problem(501, "command_unsupported");
    assert_eq!(problem["command"], "guest-get-fsinfo");
}
