//! Who may do what: each right opens exactly what the document says, and what somebody may not see
//! is not there for them.

use qga_gateway::rights::TokenHash;
use serde_json::{Value, json};

use super::agent::Agent;
use super::client::{Answer, Ask};
use super::events::Stream;
use super::gateway::Gateway;

const RIGHTS: [&str; 10] = [
    "observe",
    "freeze",
    "freeze_force",
    "configure",
    "power",
    "files_read",
    "files_write",
    "exec",
    "accounts",
    "raw",
];

/// A token whose text is its name.
pub(super) fn token(name: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n", TokenHash::of(name))
}

pub(super) fn grant(name: &str, rights: &[&str], more: &str) -> String {
    format!("[[grant]]\nto = [\"token:{name}\"]\nrights = {rights:?}\n{more}\n")
}

async fn gateway(config: &str) -> Gateway {
    Gateway::configured(Agent::default(), config).await
}

pub(super) fn with(ask: Ask, name: &str) -> Ask {
    ask.header("authorization", &format!("Bearer {name}"))
}

/// An operation of the document that needs a right.
pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) right: String,
    pub(super) body: Option<Value>,
}

pub(super) fn operations(lease: &str) -> Vec<Operation> {
    let document: Value = serde_json::from_str(&qga_gateway::api::openapi_json()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{id}", "vm")
            .replace("{lease}", lease)
            .replace("{handle}", "1000")
            .replace("{pid}", "1000")
            .replace("{name}", "guest-ping");
        // A problem that answers a HEAD has no body to be looked at.
        for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "head") {
            // Where it depends on the request, the example's comes first.
            let right = operation["x-qga-right"].as_str().and_then(|r| r.split(',').next());
            let Some(right) = right else { continue };
            let content = &operation["requestBody"]["content"]["application/json"];
            let body = (!content.is_null()).then(|| example(&document, content));
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone() + &query(operation),
                right: right.to_owned(),
                body,
            });
        }
    }
    operations
}

/// The parameters that an operation must have, as their examples.
fn query(operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let needed = parameters.filter(|p| p["in"] == "query" && p["required"] == true);
    let pair = |p: &Value| {
        let value = p["example"].as_str().expect("an example").replace('/', "%2F");
        format!("{}={value}", p["name"].as_str().unwrap())
    };
    let pairs: Vec<_> = needed.map(pair).collect();
    // None of them is to wait for what does not come.
    let waits = if operation["operationId"] == "wait_for_vm" { "&timeout_seconds=1" } else { "" };
    if pairs.is_empty() { String::new() } else { format!("?{}{waits}", pairs.join("&")) }
}

/// An example of the document, about the VM that there is.
fn example(document: &Value, content: &Value) -> Value {
    let schema = &content["schema"];
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    };
    let example = [&content["example"], &schema["example"], &schema["examples"][0]];
    let example = example.into_iter().find(|e| !e.is_null()).cloned().unwrap_or_else(|| json!({}));
    let mut example = example;
    if let Some(vms) = example.get_mut("vms") {
        *vms = json!(["vm"]);
    }
    example
}

pub(super) fn lacks_right(answer: &Answer) -> bool {
    answer.status == 403
        && answer.value()["detail"].as_str().unwrap().contains("does not have the right")
}

#[tokio::test]
async fn each_right_opens_exactly_the_operations_that_the_document_says() {
    let config: String =
        RIGHTS.map(|right| token(right) + &grant(right, &[right], "vms = [\"vm\"]")).concat();
    let gateway = gateway(&(config + &token("none"))).await;
    let lease = gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({})).send().await.expect(201);
    let lease = lease["id"].as_str().unwrap().to_owned();
    let mut seen = 0;
    for operation in operations(&lease) {
        let Operation { method, path, right, body } = &operation;
        // It needs no VM's name; what it lists is looked at below, and a ticket where it is used.
        let listed =
            method == "GET" && ["/vms", "/freezes", "/events", "/metrics"].contains(&path.as_str());
        if listed || path == "/tickets" {
            continue;
        }
        for held in RIGHTS.into_iter().chain(["none"]) {
            let ask = with(gateway.ask_tcp(method, path), held);
            let answer = match body {
                Some(body) => ask.json(body),
                None => ask,
            };
            let answer = answer.send().await;
            let name = format!("{method} {path} with {held}: {} {:?}", answer.status, answer.body);
            if held == "none" {
                let code =
                    if path.contains("/freezes/") { "lease_not_found" } else { "vm_not_found" };
                answer.problem(404, code);
            } else if held == right {
                assert!(!lacks_right(&answer) && answer.status != 401, "{name}");
            } else {
                assert!(lacks_right(&answer), "{name}");
            }
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen}");
}

#[tokio::test]
async fn what_somebody_may_not_see_is_in_no_list_group_or_event() {
    let grants = [
        token("one"),
        grant("one", &["observe", "freeze"], "vms = [\"absent\"]"),
        token("label"),
        grant("label", &["observe", "freeze"], "labels = { tier = \"test\" }"),
    ];
    let gateway = gateway(&grants.concat()).await;
    let mut hidden = Stream::open(with(gateway.ask_tcp("GET", "/events"), "one")).await;
    let mut shown = Stream::open(with(gateway.ask_tcp("GET", "/events"), "label")).await;
    let lease = gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({})).send().await.expect(201);
    let lease = format!("/freezes/{}", lease["id"].as_str().unwrap());
    while shown.event().await["kind"] != "freeze.frozen" {}
    let as_one = |method: &str, path: &str| with(gateway.ask_tcp(method, path), "one");
    let vms = as_one("GET", "/vms").send().await.expect(200);
    assert_eq!(vms["vms"].as_array().unwrap().len(), 1, "{vms}");
    assert_eq!(vms["vms"][0]["id"], "absent");
    let freezes = as_one("GET", "/freezes").send().await.expect(200);
    assert_eq!(freezes["freezes"], json!([]));
    as_one("GET", &lease).send().await.problem(404, "lease_not_found");
    as_one("GET", "/vms/vm").send().await.problem(404, "vm_not_found");
    // A VM that is not there is answered word for word like one that is hidden.
    let other = as_one("GET", "/vms/xx").send().await.problem(404, "vm_not_found");
    let same = as_one("GET", "/vms/vm").send().await.problem(404, "vm_not_found");
    let said = other["detail"].as_str().unwrap().replace("xx", "vm");
    assert_eq!(same["detail"].as_str().unwrap(), said);
    for body in [json!({"vms": ["vm"]}), json!({"vms": ["absent", "vm"]})] {
        as_one("POST", "/freezes").json(&body).send().await.problem(404, "vm_not_found");
    }
    let by_label = json!({"selector": {"labels": {"tier": "test"}}});
    as_one("POST", "/freezes").json(&by_label).send().await.problem(400, "bad_request");
    // The owner's thaw is nothing that the other hears of; the next that it does is its own VM's.
    gateway.ask("DELETE", &lease).send().await.expect(200);
    while shown.event().await["kind"] != "freeze.thawed" {}
    gateway.registry.events().publish(
        qga_gateway::vm::Event::new(qga_gateway::vm::EventKind::LinkChanged)
            .vm(&"absent".parse().unwrap()),
    );
    loop {
        let event = hidden.event().await;
        assert_eq!(event["vm_id"], "absent", "{event}");
        if event["kind"] == "link.changed" {
            break;
        }
    }
}

#[tokio::test]
async fn the_events_of_a_group_name_nobody_that_the_viewer_may_not_see() {
    let one = grant("one", &["observe", "freeze"], "vms = [\"vm\"]");
    let gateway = gateway(&(token("one") + &one)).await;
    gateway.wait_for(qga_gateway::vm::LinkState::Ready).await;
    let mut stream = Stream::open(with(gateway.ask_tcp("GET", "/events"), "one")).await;
    let body = json!({"vms": ["vm", "absent"], "all_or_nothing": false});
    let lease = gateway.ask("POST", "/freezes").json(&body).send().await.expect(201);
    let path = format!("/freezes/{}", lease["id"].as_str().unwrap());
    gateway.ask("PATCH", &path).json(&json!({})).send().await.expect(200);
    gateway.ask("DELETE", &path).send().await.expect(200);
    // Nor one that is rolled back because of the other.
    let body = json!({"vms": ["vm", "absent"], "order": "sequential"});
    gateway.ask("POST", "/freezes").json(&body).send().await.problem(503, "agent_unavailable");
    gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({})).send().await.expect(201);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    let mut thawed = 0;
    let mut seen = Vec::new();
    while thawed < 2 {
        let event = stream.event().await;
        assert_eq!(event["vm_id"], "vm", "{event}");
        assert!(!event.to_string().contains("absent"), "{event}");
        thawed += usize::from(event["kind"] == "freeze.thawed");
        seen.push(event["kind"].as_str().unwrap().to_owned());
    }
    for kind in ["freeze.frozen", "freeze.renewed"] {
        assert!(seen.iter().any(|seen| seen == kind), "{seen:?}");
    }
    with(gateway.ask_tcp("GET", &path), "one").send().await.problem(404, "lease_not_found");
}

#[tokio::test]
async fn a_lease_is_its_owners_and_a_freeze_of_all_wants_the_right_on_each() {
    let both = "vms = [\"vm\", \"absent\"]";
    let grants = [
        token("mine"),
        grant("mine", &["freeze"], both),
        token("other"),
        grant("other", &["freeze"], both),
        token("boss"),
        grant("boss", &["freeze", "freeze_force"], both),
    ];
    let gateway = gateway(&grants.concat()).await;
    let ask = |name: &str, method: &str, path: &str| with(gateway.ask_tcp(method, path), name);
    let lease = ask("mine", "POST", "/vms/vm/fsfreeze").json(&json!({})).send().await.expect(201);
    assert_eq!(lease["owner"], "token:mine");
    let path = format!("/freezes/{}", lease["id"].as_str().unwrap());
    ask("other", "DELETE", &path).send().await.problem(403, "forbidden");
    let forced = format!("{path}?force=true");
    ask("other", "DELETE", &forced).send().await.problem(403, "forbidden");
    ask("boss", "DELETE", &path).send().await.problem(403, "forbidden");
    ask("mine", "PATCH", &path).json(&json!({})).send().await.expect(200);
    ask("boss", "DELETE", &forced).send().await.expect(200);
}

#[tokio::test]
async fn raw_is_no_way_round_the_right_that_a_command_needs() {
    let config = token("raw") + &grant("raw", &["raw"], "");
    let gateway = gateway(&(config + &token("both") + &grant("both", &["raw", "exec"], ""))).await;
    gateway.wait_for(qga_gateway::vm::LinkState::Ready).await;
    let ask = |name: &str, command: &str| {
        let ask = gateway.ask_tcp("POST", &format!("/vms/vm/commands/{command}"));
        with(ask, name).json(&json!({"arguments": {"path": "/bin/true"}}))
    };
    for command in ["guest-exec", "guest-file-open", "guest-shutdown", "guest-set-time"] {
        assert!(lacks_right(&ask("raw", command).send().await), "{command}");
        assert_eq!(gateway.agent.times(command), 0);
    }
    assert!(!lacks_right(&ask("both", "guest-exec").send().await));
    assert!(!lacks_right(&ask("raw", "guest-get-osinfo").send().await));
}

#[tokio::test]
async fn a_reload_takes_rights_away_from_open_streams_too() {
    let gateway = gateway(&(token("a") + &grant("a", &["observe"], ""))).await;
    let mut stream = Stream::open(with(gateway.ask_tcp("GET", "/events"), "a")).await;
    with(gateway.ask_tcp("GET", "/vms/vm"), "a").send().await.expect(200);
    gateway.authority.replace(qga_gateway::rights::Rules::default());
    assert!(stream.ends().await, "a token that is withdrawn follows nothing");
    with(gateway.ask_tcp("GET", "/vms/vm"), "a").send().await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn without_a_grant_a_token_sees_nothing() {
    let gateway = gateway(&token("a")).await;
    let vms = with(gateway.ask_tcp("GET", "/vms"), "a").send().await.expect(200);
    assert_eq!(vms["vms"], json!([]));
    // On the Unix socket it counts for less than who the peer is, because the caller said so.
    let vms = with(gateway.ask("GET", "/vms"), "a").send().await.expect(200);
    assert_eq!(vms["vms"], json!([]));
    with(gateway.ask("GET", "/vms"), "b").send().await.problem(401, "unauthenticated");
}
