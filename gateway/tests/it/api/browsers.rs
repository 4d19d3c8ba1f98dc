//! Pages in browsers: those of other hosts change nothing, and read nothing unless they are let in.
//! And callers who ask too often.

use serde_json::json;

use super::agent::Agent;
use super::client::Ask;
use super::gateway::Gateway;
use super::rights::{grant, token, with};

const DASH: &str = "https://dash.example";
const CORS: &str = "[cors]\norigins = [\"https://dash.example\"]\n";

fn from(ask: Ask, origin: &str) -> Ask {
    ask.header("origin", origin)
}

#[tokio::test]
async fn a_page_of_another_host_changes_nothing_and_is_told_nothing() {
    let gateway = Gateway::start().await;
    for origin in [DASH, "null", "http://localhost.evil.example", "https://localhost:1"] {
        for (method, path) in
            [("POST", "/vms/vm/ping"), ("POST", "/vms/vm/fsfreeze"), ("DELETE", "/vms/vm/fsfreeze")]
        {
            let answer = from(gateway.ask(method, path), origin).send().await;
            let problem = answer.problem(403, "forbidden");
            assert!(problem["detail"].as_str().unwrap().contains("cors.origins"), "{problem}");
        }
        let read = from(gateway.ask("GET", "/vms"), origin).send().await;
        read.expect(200);
        assert!(!read.headers.keys().any(|name| name.as_str().starts_with("access-control")));
        let ask = from(gateway.ask("OPTIONS", "/vms/vm/fsfreeze"), origin);
        let asked = ask.header("access-control-request-method", "POST").send().await;
        asked.problem(405, "method_not_allowed");
        assert!(!asked.headers.keys().any(|name| name.as_str().starts_with("access-control")));
    }
    assert_eq!(gateway.agent.times("guest-fsfreeze-freeze"), 0);
    // The gateway's own page, and what is no browser.
    let own = from(gateway.ask("POST", "/vms/vm/ping"), "http://localhost");
    own.send().await.expect(200);
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
}

#[tokio::test]
async fn a_page_that_is_let_in_is_answered_once_it_proves_who_its_user_is() {
    let gateway = Gateway::configured(Agent::default(), CORS).await;
    gateway.known().await;
    let ask = from(gateway.ask_tcp("OPTIONS", "/vms/vm/fsfreeze"), DASH);
    let ask = ask.header("access-control-request-method", "POST");
    let asked = ask.header("access-control-request-headers", "authorization").send().await;
    assert_eq!(asked.status, 204);
    assert_eq!(asked.header("access-control-allow-origin"), DASH);
    assert_eq!(asked.header("access-control-allow-credentials"), "");
    for (name, has) in [
        ("access-control-allow-methods", "DELETE"),
        ("access-control-allow-headers", "authorization"),
        ("access-control-allow-headers", "idempotency-key"),
        ("access-control-max-age", "600"),
        ("vary", "origin"),
    ] {
        assert!(asked.header(name).contains(has), "{name}: {}", asked.header(name));
    }
    // Asking is no way in, and neither is being let in.
    let bare = from(gateway.ask_tcp("POST", "/vms/vm/ping"), DASH).send().await;
    bare.problem(401, "unauthenticated");
    assert_eq!(bare.header("access-control-allow-origin"), DASH, "the page may read why");
    let ask = with(from(gateway.ask_tcp("POST", "/vms/vm/ping"), DASH), &gateway.token);
    let pinged = ask.send().await;
    pinged.expect(200);
    assert_eq!(pinged.header("access-control-allow-origin"), DASH);
    assert!(pinged.header("access-control-expose-headers").contains("x-request-id"));
    // Another page still is not, nor is a Host that is none of the gateway's.
    let ask = with(from(gateway.ask_tcp("POST", "/vms/vm/ping"), "https://evil.example"), "x");
    let evil = ask.send().await;
    evil.problem(403, "forbidden");
    assert_eq!((evil.header("access-control-allow-origin"), evil.header("vary")), ("", "origin"));
    let ask = from(gateway.ask_tcp("OPTIONS", "/vms"), DASH).header("host", "evil.example");
    let rebound = ask.header("access-control-request-method", "GET").send().await;
    assert_ne!(rebound.status, 204);
}

#[tokio::test]
async fn certificates_are_asked_for_only_where_that_is_configured() {
    let config = format!("{CORS}credentials = true\n");
    let gateway = Gateway::configured(Agent::default(), &config).await;
    let ask = from(gateway.ask("OPTIONS", "/vms"), DASH);
    let asked = ask.header("access-control-request-method", "GET").send().await;
    assert_eq!(asked.header("access-control-allow-credentials"), "true");
    let read = from(gateway.ask("GET", "/vms"), DASH).send().await;
    assert_eq!(read.header("access-control-allow-credentials"), "true");
}

#[tokio::test]
async fn whoever_asks_too_often_waits_and_nobody_else_does() {
    let config = token("a") + &grant("a", &["observe", "freeze"], "") + &token("b");
    let limits = "[limits]\nrequests_per_second = 1\nrequests_burst = 5\n";
    let gateway = Gateway::configured(Agent::default(), &(config + limits)).await;
    gateway.known().await;
    let ask = |name: &str, method: &str, path: &str| with(gateway.ask_tcp(method, path), name);
    ask("a", "POST", "/vms/vm/fsfreeze").json(&json!({})).send().await.expect(201);
    let mut refused = None;
    // More than five in the time that they take, on any machine.
    for _ in 0..1000 {
        let answer = ask("a", "GET", "/vms").send().await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        answer.expect(200);
    }
    let refused = refused.expect("a limit");
    let problem = refused.problem(429, "too_many_requests");
    assert_eq!((&problem["outcome"], &problem["retryable"]), (&json!("not_sent"), &json!(true)));
    assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
    ask("b", "GET", "/vms").send().await.expect(200);
    gateway.ask_tcp("GET", "/livez").send().await.expect(200);
    // A thaw always comes through.
    ask("a", "DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    assert!(!gateway.agent.is_frozen());
}
