//! Who may speak: tokens on TCP, the Host header, and what needs no credentials.

use serde_json::Value;

use super::client::raw;
use super::gateway::Gateway;

/// Every operation of the document: method, path with its parameters filled in, and whether it is
/// public.
pub(crate) fn operations() -> Vec<(String, String, bool)> {
    let document: Value = serde_json::from_str(&qga_gateway::api::openapi_json()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{id}", "vm")
            .replace("{lease}", "frz_00000000000000000000000000000000")
            .replace("{handle}", "1000")
            .replace("{pid}", "1000")
            .replace("{name}", "guest-ping");
        // A problem that answers a HEAD has no body to be looked at; see the tests of downloads.
        for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "head") {
            let public = operation.get("security").is_some();
            operations.push((method.to_uppercase(), path.clone(), public));
        }
    }
    assert!(operations.len() >= 24, "{operations:?}");
    operations
}

#[tokio::test]
async fn over_tcp_every_operation_needs_the_token_save_the_public_ones() {
    let gateway = Gateway::start().await;
    let long = format!("Bearer {}", "0".repeat(10_000));
    let almost = format!("Bearer {}", &gateway.token[..63]);
    for (method, path, public) in operations() {
        let bare = gateway.ask_tcp(&method, &path).send().await;
        if public {
            assert!(bare.status.is_success() || bare.status == 308, "{method} {path}");
            continue;
        }
        bare.problem(401, "unauthenticated");
        assert!(bare.header("www-authenticate").starts_with("Bearer"));
        for wrong in ["Bearer", "Bearer ", "Basic Zm9v", "Bearer wrong", &long, &almost] {
            let ask = gateway.ask_tcp(&method, &path).header("authorization", wrong);
            let answer = ask.send().await;
            // After so many wrong ones, those that follow are told to wait.
            let problem = match answer.status.as_u16() {
                429 => answer.problem(429, "too_many_failures"),
                _ => answer.problem(401, "unauthenticated"),
            };
            assert!(!problem.to_string().contains(&gateway.token[..63]));
        }
    }
    for command in ["guest-ping", "guest-fsfreeze-freeze", "guest-shutdown", "guest-file-open"] {
        assert_eq!(gateway.agent.times(command), 0, "{command}");
    }
    // What does not exist says no more than what does.
    gateway.ask_tcp("GET", "/nope").send().await.problem(401, "unauthenticated");
    gateway.ask_tcp("GET", "/vms/none").send().await.problem(401, "unauthenticated");
    gateway.ask_tcp("GET", "/docsx").send().await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn whoever_fails_often_waits_and_keeps_nobody_out() {
    let gateway = Gateway::start().await;
    let ask = |token: &str| {
        let ask = gateway.ask_tcp("GET", "/vms");
        ask.header("authorization", &format!("Bearer {token}"))
    };
    let mut refused = 0;
    for _ in 0..30 {
        refused += usize::from(ask("wrong").send().await.status == 429);
        ask(&gateway.token).send().await.expect(200);
        gateway.ask_tcp("GET", "/vms").send().await.problem(401, "unauthenticated");
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn the_token_opens_tcp_and_the_socket_needs_none() {
    let gateway = Gateway::start().await;
    for scheme in ["Bearer", "bearer"] {
        let value = format!("{scheme} {}", gateway.token);
        let ask = gateway.ask_tcp("POST", "/vms/vm/ping").header("authorization", &value);
        ask.send().await.expect(200);
    }
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
}

#[tokio::test]
async fn on_tcp_the_host_header_must_be_loopback() {
    let gateway = Gateway::start().await;
    let bearer = format!("Bearer {}", gateway.token);
    for (host, ok) in [
        ("localhost", true),
        ("LocalHost:8642", true),
        ("127.0.0.1", true),
        ("127.0.0.1:1", true),
        ("[::1]:80", true),
        ("evil.example", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.nip.io:80", false),
        ("127.0.0.2", false),
        ("", false),
    ] {
        for path in ["/vms", "/livez", "/docs/"] {
            let ask = gateway.ask_tcp("GET", path).header("authorization", &bearer);
            let answer = ask.header("host", host).send().await;
            if ok {
                assert_eq!(answer.status, 200, "{host}");
            } else {
                let problem = answer.problem(403, "forbidden");
                assert!(problem["detail"].as_str().unwrap().contains("localhost"), "{problem}");
            }
        }
    }
    let absolute = b"GET http://evil.example/livez HTTP/1.1\r\nhost: localhost\r\n\
                     connection: close\r\n\r\n";
    assert!(raw(&gateway.tcp, absolute).await.contains("\"code\":\"forbidden\""));
}

#[tokio::test]
async fn one_host_header_is_needed_everywhere() {
    let gateway = Gateway::start().await;
    for target in [&gateway.unix, &gateway.tcp] {
        for hosts in ["", "host: localhost\r\nhost: localhost\r\n", "host: a/b\r\n"] {
            let request = format!("GET /livez HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
            let answer = raw(target, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{hosts:?}: {answer}");
            assert!(answer.contains("\"code\":\"bad_request\""), "{answer}");
        }
    }
    gateway.ask("GET", "/livez").header("host", "qga").send().await.expect(200);
}
