//! `GET /freezes` in pages, and of some leases only.

use serde_json::{Value, json};

use super::agent::Agent;
use super::gateway::Gateway;

async fn list(gateway: &Gateway, query: &str) -> (Vec<String>, Value, String) {
    let answer = gateway.ask("GET", &format!("/freezes?{query}")).send().await;
    let list = answer.expect(200);
    let labels = list["freezes"].as_array().unwrap().iter();
    let labels = labels.map(|lease| lease["label"].as_str().unwrap_or("-").to_owned()).collect();
    (labels, list["next"].clone(), answer.header("link").to_owned())
}

/// Five leases: `n0` to `n 4`, of which only the last one is active.
async fn five() -> Gateway {
    let gateway = Gateway::with(Agent::default()).await;
    for label in ["n0", "n1", "n2", "n3", "n 4"] {
        gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await;
        let ask = gateway.ask("POST", "/vms/vm/fsfreeze").json(&json!({"label": label}));
        ask.send().await.expect(201);
    }
    gateway
}

#[tokio::test]
async fn whoever_hung_up_finds_the_lease() {
    let gateway = five().await;
    let owner = gateway.leases.list()[0].owner.to_string();
    for (query, found) in [
        ("state=active", vec!["n 4"]),
        ("state=frozen&vm=vm", vec!["n 4"]),
        ("state=ended", vec!["n0", "n1", "n2", "n3"]),
        ("state=thawed&label=n1&label=n2&label=n%204", vec!["n1", "n2"]),
        ("label=n%204", vec!["n 4"]),
        ("label=n", vec![]),
        ("vm=absent", vec![]),
        ("owner=nobody", vec![]),
        ("state=failed&state=orphaned", vec![]),
    ] {
        assert_eq!(list(&gateway, query).await.0, found, "{query}");
    }
    assert_eq!(list(&gateway, &format!("owner={owner}")).await.0.len(), 5);
    for bad in ["limit=0", "limit=x", "state=x", "after=x", "after=1.frz_1", "no=1"] {
        gateway.ask("GET", &format!("/freezes?{bad}")).send().await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn pages_lead_from_one_to_the_next() {
    let gateway = five().await;
    let (all, next, link) = list(&gateway, "").await;
    assert_eq!((all.len(), next.is_null(), link.as_str()), (5, true, ""));
    for filter in ["", "&state=active&state=ended&state=frozen&vm=vm"] {
        let (mut seen, mut query) = (Vec::new(), format!("limit=2{filter}"));
        loop {
            let (page, next, link) = list(&gateway, &query).await;
            assert!(page.len() <= 2);
            seen.extend(page);
            assert_eq!(next.is_null(), link.is_empty());
            if next.is_null() {
                break;
            }
            let target = link.strip_prefix("</freezes?");
            let target = target.and_then(|l| l.strip_suffix(">; rel=\"next\""));
            target.unwrap().clone_into(&mut query);
            assert!(query.ends_with(filter), "{query}");
        }
        assert_eq!(seen.len(), 5);
        assert!(all.iter().all(|label| seen.contains(label)), "{seen:?}");
    }
}
