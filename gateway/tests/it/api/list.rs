//! `GET /vms` in pages, and of some VMs only.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::gateway::Gateway;

const SYSTEM: &str = "Debian GNU/Linux 13 (trixie)";

/// Besides `vm` and `absent`: `x-00` to `x-19`, without sockets.
async fn many() -> Gateway {
    let mut more = String::new();
    for n in 0..20 {
        let tier = if n % 2 == 0 { "web" } else { "db & more" };
        let _ = writeln!(
            more,
            "[[vm]]\nid = \"x-{n:02}\"\nsocket = \"/nowhere/{n}\"\n\
             labels = {{ tier = \"{tier}\", \"rack\" = \"{}\" }}",
            n % 3
        );
    }
    let gateway = Gateway::configured(Agent::default(), &more).await;
    gateway.wait_for(qga_gateway::vm::LinkState::Ready).await;
    gateway
}

async fn ids(gateway: &Gateway, query: &str) -> (Vec<String>, Value, String) {
    let answer = gateway.ask("GET", &format!("/vms?{query}")).send().await;
    let list = answer.expect(200);
    let ids = list["vms"].as_array().unwrap().iter();
    let ids = ids.map(|vm| vm["id"].as_str().unwrap().to_owned()).collect();
    (ids, list["next"].clone(), answer.header("link").to_owned())
}

#[tokio::test]
async fn pages_lead_from_one_to_the_next_and_miss_nothing() {
    let gateway = many().await;
    let (all, next, link) = ids(&gateway, "").await;
    assert_eq!((all.len(), next.is_null(), link.as_str()), (22, true, ""));
    assert!(all.is_sorted());
    let (mut seen, mut query) = (Vec::new(), "limit=5".to_owned());
    loop {
        let (page, next, link) = ids(&gateway, &query).await;
        assert!(page.len() <= 5);
        seen.extend(page);
        assert_eq!(next.is_null(), link.is_empty());
        if next.is_null() {
            break;
        }
        assert_eq!(next.as_str(), seen.last().map(String::as_str));
        let target = link.strip_prefix("</vms?").and_then(|l| l.strip_suffix(">; rel=\"next\""));
        target.unwrap().clone_into(&mut query);
    }
    assert_eq!(seen, all);
    // A page that ends with the last VM is the last page.
    let (page, next, _) = ids(&gateway, "limit=22").await;
    assert_eq!((page.len(), next.is_null()), (22, true));
    let (page, ..) = ids(&gateway, "after=x-17a").await;
    assert_eq!(page, ["x-18", "x-19"], "the id named need not exist");
    assert!(ids(&gateway, "after=zzz").await.0.is_empty());
}

#[tokio::test]
async fn filters_are_by_state_and_by_all_labels_named() {
    let gateway = many().await;
    assert_eq!(ids(&gateway, "state=ready").await.0, ["vm"]);
    assert_eq!(ids(&gateway, "state=ready&state=absent&limit=3").await.0, ["absent", "vm", "x-00"]);
    assert_eq!(ids(&gateway, "label=tier%3Dtest").await.0, ["vm"]);
    assert_eq!(ids(&gateway, "label=tier=web&label=rack=1").await.0, ["x-04", "x-10", "x-16"]);
    let (page, _, link) = ids(&gateway, "label=tier=db%20%26%20more&limit=1&state=absent").await;
    assert_eq!(page, ["x-01"]);
    let next = link.trim_start_matches("</vms?").split('>').next().unwrap();
    assert_eq!(ids(&gateway, next).await.0, ["x-03"], "{next}");
    for bad in ["limit=0", "limit=10001", "limit=x", "state=x", "label=x", "no=1"] {
        gateway.ask("GET", &format!("/vms?{bad}")).send().await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_vm_shows_what_its_agent_can_do() {
    let gateway = Gateway::start().await;
    gateway.known().await;
    let vm = gateway.ask("GET", "/vms/vm").send().await.expect(200);
    let known = &vm["capabilities"];
    assert_eq!((&known["windows"], &known["echoes_id"]), (&false.into(), &true.into()));
    let extensions = known["extensions"].as_array().unwrap();
    assert!(extensions.contains(&"x-guest-fsfreeze-report".into()), "{known}");
}

#[tokio::test]
async fn what_a_guest_said_is_shown_with_its_age_and_never_asked_for() {
    let names = ["web-1\u{1b}[2J", &"x".repeat(4000)].map(|name| json!({"host-name": name}));
    let systems = [
        json!({"pretty-name": SYSTEM, "name": "Debian"}),
        json!({"name": "Debian"}),
        // Longer than any honest one: it is not read for a list.
        json!({"pretty-name": "Debian", "id": "x".repeat(20_000)}),
    ];
    let agent = Agent::default()
        .with("guest-get-host-name", Quirk::values(names))
        .with("guest-get-osinfo", Quirk::values(systems));
    let gateway = Gateway::with(agent).await;
    gateway.known().await;
    let guest = async || {
        let one = gateway.ask("GET", "/vms/vm").send().await.expect(200)["guest"].clone();
        let list = gateway.ask("GET", "/vms").send().await.expect(200);
        let vms = list["vms"].as_array().unwrap().iter();
        let both = vms.map(|vm| (vm["id"].as_str().unwrap(), &vm["guest"]));
        // The age may be a second more by now.
        let without_age = |guest: &Value| (guest["host_name"].clone(), guest["os"].clone());
        for (id, guest) in both {
            let wanted = if id == "vm" { without_age(&one) } else { Default::default() };
            assert_eq!(without_age(guest), wanted, "{id}");
        }
        one
    };
    let ask = async |what: &str| {
        gateway.ask("GET", &format!("/vms/vm/{what}")).send().await.expect(200);
    };
    assert_eq!(guest().await, Value::Null);
    ask("os").await;
    let said = guest().await;
    assert_eq!((&said["host_name"], &said["os"]), (&Value::Null, &SYSTEM.into()));
    assert!(said["age_seconds"].is_u64(), "{said}");
    ask("hostname").await;
    assert_eq!(guest().await["host_name"], "web-1\\u{1b}[2J");
    ask("hostname").await;
    ask("os").await;
    let said = guest().await;
    assert_eq!(said["host_name"].as_str().unwrap().chars().count(), 129, "cut, with a mark");
    assert_eq!(said["os"], "Debian");
    ask("os").await;
    assert_eq!(guest().await["os"], Value::Null);
    let asked = |command| gateway.agent.times(command);
    assert_eq!((asked("guest-get-host-name"), asked("guest-get-osinfo")), (2, 3));
    // What it said before it was changed may not be so any more.
    gateway.ask("POST", "/vms/vm/fstrim").send().await.expect(200);
    assert_eq!(guest().await, Value::Null);
}
