//! The API page works without any network.

use super::gateway::Gateway;

#[tokio::test]
async fn swagger_ui_is_served_from_the_binary_alone() {
    let gateway = Gateway::start().await;
    let redirect = gateway.ask("GET", "/docs").send().await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (308, "docs/"));
    let index = gateway.ask("GET", "/docs/").send().await;
    assert_eq!(index.status, 200);
    assert_eq!(index.header("content-type"), "text/html");
    index.check_headers();
    let policy = index.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    let html = String::from_utf8(index.body.to_vec()).unwrap();
    assert!(!html.contains("://"), "{html}");
    let files: Vec<&str> = html
        .split('"')
        .filter(|part| [".js", ".css", ".png"].iter().any(|end| part.ends_with(end)))
        .collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let path = format!("/docs/{}", file.trim_start_matches("./"));
        let answer = gateway.ask("GET", &path).send().await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.is_empty(), "{path}");
        answer.check_headers();
    }
    let start = gateway.ask("GET", "/docs/swagger-initializer.js").send().await;
    let script = String::from_utf8(start.body.to_vec()).unwrap();
    assert!(script.contains("\"../openapi.json\"") && !script.contains("://"), "{script}");
    assert!(start.header("content-type").contains("javascript"));
}
