//! Requests that are wrong before any guest is involved: each a clear problem, and nothing sent.

use serde_json::json;

use super::client::raw;
use super::gateway::Gateway;

#[tokio::test]
async fn unknown_path_vm_and_lease_are_not_found_each_by_its_code() {
    let gateway = Gateway::start().await;
    for path in ["/", "/nope", "/vms/vm/nope", "/vms/", "/freezes/x/y", "/docs/nope.js"] {
        gateway.ask("GET", path).send().await.problem(404, "route_not_found");
    }
    let problem = gateway.ask("GET", "/vms/none").send().await.problem(404, "vm_not_found");
    assert_eq!(problem["vm_id"], "none");
    for id in ["a%20b", "%1b%5b2J", "..", "%2e%2e", "%C3%A4"] {
        let answer = gateway.ask("GET", &format!("/vms/{id}")).send().await;
        let problem = answer.problem(404, "vm_not_found");
        assert!(!problem["detail"].as_str().unwrap().contains('\u{1b}'));
    }
    gateway.ask("GET", "/vms/%ff").send().await.problem(400, "bad_request");
    for id in ["x", "frz_00000000000000000000000000000000"] {
        let path = format!("/freezes/{id}");
        for method in ["GET", "DELETE", "PATCH"] {
            gateway.ask(method, &path).send().await.problem(404, "lease_not_found");
        }
    }
    for (method, path) in [
        ("POST", "/vms/none/ping"),
        ("POST", "/vms/none/fsfreeze"),
        ("DELETE", "/vms/none/fsfreeze"),
        ("POST", "/vms/none/shutdown"),
        ("DELETE", "/vms/none/file-handles/1"),
    ] {
        gateway.ask(method, path).send().await.problem(404, "vm_not_found");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let gateway = Gateway::start().await;
    for (method, path, allowed) in [
        ("GET", "/vms/vm/ping", "POST"),
        ("DELETE", "/vms", "GET,HEAD"),
        ("PUT", "/vms/vm/fsfreeze", "GET,HEAD,POST,PATCH,DELETE"),
        ("OPTIONS", "/vms/vm/shutdown", "POST"),
        ("BREW", "/livez", "GET,HEAD"),
    ] {
        let answer = gateway.ask(method, path).send().await;
        answer.problem(405, "method_not_allowed");
        let sorted = |list: &str| {
            let mut list: Vec<String> = list.split(',').map(|m| m.trim().to_owned()).collect();
            list.sort_unstable();
            list
        };
        assert_eq!(sorted(answer.header("allow")), sorted(allowed), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_must_be_json_by_name_and_by_nature() {
    let gateway = Gateway::start().await;
    let post = |kind: &str, body: &str| {
        let ask = gateway.ask("POST", "/vms/vm/file-handles").text(body.to_owned());
        if kind.is_empty() { ask } else { ask.header("content-type", kind) }
    };
    let good = r#"{"path": "/x"}"#;
    for kind in ["application/json", "Application/JSON; charset=UTF-8", "application/x+json"] {
        post(kind, good).send().await.expect(201);
    }
    for kind in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
        "application/json; charset=latin1",
    ] {
        let problem = post(kind, good).send().await.problem(415, "unsupported_media_type");
        assert!(problem["detail"].as_str().unwrap().contains("application/json"));
    }
    let zipped = post("application/json", good).header("content-encoding", "gzip");
    zipped.send().await.problem(415, "unsupported_media_type");
    for (body, says) in [
        (r#"{"path": "/x""#, "EOF while parsing an object at line 1 column 13"),
        ("nonsense", "line 1 column 2"),
        ("{\n \"path\": }", "line 2 column 10"),
        (r#"{"path": "/x"} {}"#, "trailing characters"),
        (r#"{"path": 5}"#, "invalid type: integer `5`, expected a string at line 1 column 10"),
        (r#"["/x", "r"]"#, "must be a JSON object"),
        ("null", "invalid type: null"),
        (r#"{"path": null}"#, "invalid type: null, expected a string"),
        (r#"{"mode": "r"}"#, "missing field `path`"),
        (r#"{"path": "/x", "count": 1}"#, "unknown field `count`, expected `path` or `mode`"),
        (r#"{"path": "/x", "path": "/y"}"#, "duplicate field `path`"),
        ("{\"path\": \"\\ud800\"}", "hex escape"),
        ("{\"path\": \"\u{7}\"}", "control character"),
        (r#"{"path": ""}"#, "Member \"path\""),
        (r#"{"path": "a\u0000b"}"#, "NUL"),
        (r#"{"path": "/x", "mode": "q"}"#, "Member \"mode\": must be one of r, rb, w"),
    ] {
        let problem = post("application/json", body).send().await.problem(400, "bad_request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{body}: {detail}");
    }
    let broken = post("application/json", good).text(b"{\"path\": \"\xff\"}".to_vec());
    broken.send().await.problem(400, "bad_request");
    assert_eq!(gateway.agent.times("guest-file-open"), 3, "only the good ones");
}

#[tokio::test]
async fn depth_and_size_are_bounded() {
    let gateway = Gateway::start().await;
    let deep = "[".repeat(100_000);
    for body in [deep.clone(), format!("{{\"path\": {deep}"), format!("{{\"nope\": {deep}")] {
        let ask = gateway.ask("POST", "/vms/vm/file-handles").text(body);
        let answer = ask.header("content-type", "application/json").send().await;
        answer.problem(400, "bad_request");
    }
    let large = format!("{{\"path\": \"{}\"}}", "x".repeat(2 << 20));
    let ask = gateway.ask("POST", "/vms/vm/file-handles").text(large);
    let problem = ask.header("content-type", "application/json").send().await;
    problem.problem(413, "body_too_large");
    // Without a length: found out on the way, and not buffered beyond the limit.
    let mut chunked = b"POST /vms/vm/file-handles HTTP/1.1\r\nhost: localhost\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..17 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b' '; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    let answer = raw(&gateway.unix, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    // A lie about the length: refused before anything is read.
    let lie = b"POST /vms/vm/ping HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n";
    assert!(raw(&gateway.unix, lie).await.contains("body_too_large"));
    gateway.ask("GET", "/livez").send().await.expect(200);
}

#[tokio::test]
async fn where_no_body_is_needed_an_empty_one_will_do() {
    let gateway = Gateway::start().await;
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
    gateway.ask("POST", "/vms/vm/ping").json(&json!({})).send().await.expect(200);
    let form = gateway.ask("POST", "/vms/vm/ping").header("content-type", "text/plain");
    form.send().await.expect(200);
    let problem = gateway.ask("POST", "/vms/vm/ping").json(&json!({"x": 1})).send().await;
    let problem = problem.problem(400, "bad_request");
    assert!(problem["detail"].as_str().unwrap().contains("unknown field `x`"), "{problem}");
    assert_eq!(gateway.agent.times("guest-ping"), 3);
}

#[tokio::test]
async fn path_and_query_are_checked() {
    let gateway = Gateway::start().await;
    for handle in ["x", "1.5", "99999999999999999999", "%20"] {
        let path = format!("/vms/vm/file-handles/{handle}/read");
        let problem = gateway.ask("POST", &path).send().await.problem(400, "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains("handle"), "{problem}");
    }
    let problem = gateway.ask("POST", "/vms/vm/fsfreeze?dry_runs=true").send().await;
    let problem = problem.problem(400, "bad_request");
    assert!(problem["detail"].as_str().unwrap().contains("`dry_runs`"), "{problem}");
    assert!(!gateway.agent.is_frozen());
    gateway.ask("GET", "/vms?").send().await.expect(200);
}

#[tokio::test]
async fn an_accept_header_that_rules_json_out_is_refused() {
    let gateway = Gateway::start().await;
    for (accept, ok) in [
        ("text/html", false),
        ("application/xml, text/*;q=0.5", false),
        ("application/json;q=0", false),
        ("text/html, */*;q=0.1", true),
        ("application/problem+json", true),
    ] {
        let answer = gateway.ask("GET", "/vms").header("accept", accept).send().await;
        if ok {
            answer.expect(200);
        } else {
            answer.problem(406, "not_acceptable");
        }
    }
    let page = gateway.ask("GET", "/docs/").header("accept", "text/html").send().await;
    assert_eq!(page.status, 200);
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let gateway = Gateway::start().await;
    let answer = gateway.ask("GET", "/livez").header("x-request-id", "job-7").send().await;
    assert_eq!(answer.header("x-request-id"), "job-7");
    let answer = gateway.ask("GET", "/nope").header("x-request-id", "bad id").send().await;
    assert_ne!(answer.header("x-request-id"), "bad id");
    answer.problem(404, "route_not_found");
}

#[tokio::test]
async fn connections_are_kept_and_head_is_answered() {
    let gateway = Gateway::start().await;
    let two = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nHEAD /vms HTTP/1.1\r\nhost: a\r\n\
                connection: close\r\n\r\n";
    let answers = raw(&gateway.unix, two).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(answers.ends_with("\r\n\r\n"), "{answers}");
}

#[tokio::test]
async fn what_is_no_request_is_a_problem_too() {
    let gateway = Gateway::start().await;
    let get = |head: &str| format!("GET /livez HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n").into_bytes();
    let long = "x".repeat(200_000);
    let many: Vec<String> = (0..100).map(|n| format!("x-{n}: 1")).collect();
    for (request, status, code) in [
        (b"rubbish\r\n\r\n".to_vec(), 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400, "bad_request"),
        (b"GET  HTTP/1.1\r\n\r\n".to_vec(), 400, "bad_request"),
        (b"GET /livez HTTP/9.9\r\nhost: a\r\n\r\n".to_vec(), 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400, "bad_request"),
        (get("no colon"), 400, "bad_request"),
        (get("x: \u{0}"), 400, "bad_request"),
        (get("content-length: x"), 400, "bad_request"),
        (get(&format!("x: {long}")), 431, "head_too_large"),
        (get(&many.join("\r\n")), 431, "head_too_large"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n").into_bytes(), 431, "head_too_large"),
    ] {
        for target in [&gateway.unix, &gateway.tcp] {
            check_refusal(&raw(target, &request).await, status, code);
        }
    }
    // What was answered before is answered as ever, however the bytes arrive.
    let both = [get("x: 1"), get("x: 2"), b"rubbish\r\n\r\n".to_vec()].concat();
    let answers = raw(&gateway.unix, &both).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    let (_, last) = answers.rsplit_once("{\"status\":\"ok\"}").unwrap();
    check_refusal(last, 400, "bad_request");
    gateway.ask("GET", "/livez").send().await.expect(200);
}

#[track_caller]
fn check_refusal(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let lines: Vec<&str> = head.lines().collect();
    for line in [
        "content-type: application/problem+json",
        "connection: close",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        &format!("content-length: {}", body.len()),
    ] {
        assert!(lines.contains(&line), "{line}: {answer}");
    }
    for name in ["x-request-id: ", "date: "] {
        assert!(lines.iter().any(|l| l.strip_prefix(name).is_some_and(|v| v.len() > 8)), "{head}");
    }
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)));
    assert_eq!(problem["type"], format!("urn:qga:problem:{code}"));
}
