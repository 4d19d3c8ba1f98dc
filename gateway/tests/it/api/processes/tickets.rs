//! Tickets: one use, one operation, thirty seconds.

use qga_proto::command::OutputStream::Stdout;
use serde_json::json;

use super::programs::Programs;
use super::{Reading, gateway, start};

#[tokio::test]
async fn a_ticket_stands_for_one_request_of_its_maker() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "").await;
    let (pid, handle) = start(&gateway, &programs, json!({})).await;
    programs.write(handle, Stdout, b"hello");
    programs.exit(handle, 0);
    let path = format!("/vms/vm/processes/{pid}/output?stream=stdout");
    let bearer = format!("Bearer {}", gateway.token);
    let make = |path: String| {
        let ask = gateway.ask_tcp("POST", "/tickets").header("authorization", &bearer);
        ask.json(&json!({"method": "GET", "path": path})).send()
    };
    let body = make(path.clone()).await.expect(201);
    let ticket = body["ticket"].as_str().unwrap().to_owned();
    assert_eq!(ticket.len(), 64);
    assert!(body["expires_at"].is_string());
    let with = format!("{path}&ticket={ticket}");
    let reading = Reading::open(gateway.ask_tcp("GET", &with)).await;
    assert_eq!(reading.all().await, b"hello");
    // Used up.
    let problem = gateway.ask_tcp("GET", &with).send().await.problem(401, "unauthenticated");
    assert!(!problem.to_string().contains(&ticket));
    // For nothing else, and an attempt uses it up.
    let other = make(path.clone()).await.expect(201)["ticket"].as_str().unwrap().to_owned();
    let wrong = format!("/vms/vm/processes/{pid}/output?stream=stderr&ticket={other}");
    gateway.ask_tcp("GET", &wrong).send().await.problem(401, "unauthenticated");
    let right = format!("{path}&ticket={other}");
    gateway.ask_tcp("GET", &right).send().await.problem(401, "unauthenticated");
    // Nowhere else.
    let third = make("/events".into()).await.expect(201)["ticket"].as_str().unwrap().to_owned();
    let problem = gateway.ask_tcp("GET", &format!("/vms?ticket={third}")).send().await;
    problem.problem(401, "unauthenticated");
    let events = gateway.ask_tcp("GET", &format!("/events?ticket={third}"));
    assert_eq!(events.open().await.status(), 200);
    // Void tickets are void on the Unix socket too.
    gateway.ask("GET", &right).send().await.problem(401, "unauthenticated");
    for bad in ["/vms", "/vms/vm/processes", "//a/events", "http://a/events", "events", ""] {
        make(bad.into()).await.problem(400, "bad_request");
    }
    make("/vms/none/processes/1/output".into()).await.problem(404, "vm_not_found");
    let ask = gateway.ask("POST", "/tickets").json(&json!({"method": "POST", "path": "/events"}));
    ask.send().await.problem(400, "bad_request");
}

#[tokio::test]
async fn tickets_are_bounded() {
    let programs = Programs::extension();
    let gateway = gateway(&programs, "[limits]\ntickets = 4\n").await;
    let make = || {
        let ask = gateway.ask("POST", "/tickets");
        ask.json(&json!({"method": "GET", "path": "/events"})).send()
    };
    make().await.expect(201);
    let ticket = make().await.expect(201)["ticket"].as_str().unwrap().to_owned();
    make().await.problem(429, "too_many_tickets");
    let events = gateway.ask_tcp("GET", &format!("/events?ticket={ticket}"));
    assert_eq!(events.open().await.status(), 200);
    make().await.expect(201);
}
