//! `GET /vms` in pages, and of some VMs only.

use std::fmt::Write as _;

use serde_json::Value;

use super::agent::Agent;
use super::gateway::Gateway;

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
