//! What is on record of requests, and what must never be.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qga_gateway::vm::LinkState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::agent::Agent;
use super::file_agent::FileAgent;
use super::gateway::{BOUND, Gateway};
use super::processes::programs::Programs;

struct Audited {
    gateway: Gateway,
    file: PathBuf,
    _dir: TempDir,
}

impl Audited {
    async fn with(agent: Agent, more: &str) -> Self {
        let (dir, file, config) = Self::config(more);
        let gateway = Gateway::configured(agent, &config).await;
        gateway.wait_for(LinkState::Ready).await;
        Self { gateway, file, _dir: dir }
    }

    async fn before(listen: impl Fn(&Path)) -> Self {
        let (dir, file, config) = Self::config("");
        let gateway = Gateway::before(listen, &config).await;
        gateway.wait_for(LinkState::Ready).await;
        gateway.known().await;
        Self { gateway, file, _dir: dir }
    }

    fn config(more: &str) -> (TempDir, PathBuf, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let config = format!("[audit]\nfile = {file:?}\n{more}\n");
        (dir, file, config)
    }

    async fn start() -> Self {
        Self::with(Agent::default(), "").await
    }

    fn text(&self) -> String {
        // Between two files there may be none.
        fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// The first record that is wanted, once it is there.
    async fn record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let records = self.text();
            let whole = records.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut records = whole.lines().map(|line| serde_json::from_str(line).unwrap());
            if let Some(found) = records.find(&wanted) {
                return found;
            }
            assert!(start.elapsed() < BOUND, "{}", self.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn of_path(&self, path: &str) -> Value {
        self.record(|record| record["path"] == path).await
    }
}

#[tokio::test]
async fn a_request_is_on_record_with_who_what_and_what_came_of_it() {
    let audited = Audited::start().await;
    let ask = audited.gateway.ask("POST", "/vms/vm/file-handles").header("x-request-id", "job-7");
    ask.json(&json!({"path": "/etc/motd"})).send().await.expect(201);
    let record = audited.of_path("/vms/vm/file-handles").await;
    let own = rustix::process::getuid().as_raw();
    assert_eq!(record["principal"], format!("unix:uid={own}"));
    for (key, value) in [
        ("kind", json!("request")),
        ("request_id", json!("job-7")),
        ("method", json!("POST")),
        ("vms", json!(["vm"])),
        ("command", json!("guest-file-open")),
        ("object", json!("/etc/motd")),
        ("result", json!("ok")),
        ("status", json!(201)),
    ] {
        assert_eq!(record[key], value, "{record}");
    }
    assert!(record["arguments"].as_str().unwrap().starts_with("hmac-sha256:"), "{record}");
    assert!(record["micros"].is_u64() && record["time"].is_string(), "{record}");
    // The same arguments have the same digest.
    let again = audited.gateway.ask("POST", "/vms/absent/file-handles");
    again.json(&json!({"path": "/etc/motd"})).send().await.problem(503, "agent_unavailable");
    let other = audited.of_path("/vms/absent/file-handles").await;
    assert_eq!(other["arguments"], record["arguments"]);
    assert_eq!((&other["result"], &other["code"]), (&"failed".into(), &"agent_unavailable".into()));
}

#[tokio::test]
async fn who_is_refused_is_on_record_too_and_public_pages_are_not() {
    let audited = Audited::start().await;
    audited.gateway.ask_tcp("GET", "/vms/vm").send().await.problem(401, "unauthenticated");
    let record = audited.of_path("/vms/vm").await;
    assert_eq!((&record["principal"], &record["result"]), (&Value::Null, &"refused".into()));
    audited.gateway.ask("GET", "/livez").send().await.expect(200);
    audited.gateway.ask("GET", "/vms").send().await.expect(200);
    audited.of_path("/vms").await;
    assert!(!audited.text().contains("/livez"));
}

#[tokio::test]
async fn a_freeze_its_lease_and_a_thaw_that_nobody_asked_for_are_on_record() {
    let audited = Audited::start().await;
    let ask = audited.gateway.ask("POST", "/vms/vm/fsfreeze");
    let lease = ask.json(&json!({"ttl_seconds": 1})).send().await.expect(201);
    let record = audited.of_path("/vms/vm/fsfreeze").await;
    assert_eq!(record["lease_id"], lease["id"]);
    for event in ["freeze.frozen", "freeze.expired", "freeze.thawed"] {
        let record = audited.record(|record| record["event"] == event).await;
        assert_eq!((&record["vms"][0], &record["lease_id"]), (&"vm".into(), &lease["id"]));
    }
}

#[tokio::test]
async fn reads_can_be_left_out() {
    let audited = Audited::with(Agent::default(), "reads = false").await;
    audited.gateway.ask("GET", "/vms/vm/hostname").send().await;
    audited.gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
    audited.of_path("/vms/vm/ping").await;
    assert!(!audited.text().contains("hostname"));
    // A terminal is no read, though it is opened with GET.
    audited.gateway.ask("GET", "/vms/vm/processes/1/attach").send().await;
    audited.of_path("/vms/vm/processes/1/attach").await;
}

#[tokio::test]
async fn files_and_programs_are_on_record_by_their_names_and_nothing_else_of_them() {
    let secret = "cAnArY";
    let agent = FileAgent::new(true);
    let guest = agent.clone();
    let audited = Audited::before(move |path| guest.listen(path)).await;
    let at = |method: &str, path: &str| audited.gateway.ask(method, path);
    let content = "/vms/vm/files/content";
    at("PUT", &format!("{content}?path=/a%20b%1b")).text(secret).send().await.expect(201);
    at("GET", &format!("{content}?path=/a%20b%1b")).send().await;
    at("DELETE", &format!("{content}?path=/gone")).send().await;
    let files = "/vms/vm/files";
    at("GET", &format!("{files}?path=/shown")).send().await;
    at("PUT", &format!("{files}?path=/new&kind=directory")).send().await;
    at("PATCH", &format!("{files}?path=/new&to=/newer")).send().await;
    at("DELETE", &format!("{files}?path=/newer")).send().await;
    for (method, path, object) in [
        ("PUT", content, "/a b\\u{1b}"),
        ("GET", content, "/a b\\u{1b}"),
        ("DELETE", content, "/gone"),
        ("GET", files, "/shown"),
        ("PUT", files, "/new"),
        ("PATCH", files, "/new -> /newer"),
        ("DELETE", files, "/newer"),
    ] {
        let of = |record: &Value| record["path"] == path && record["method"] == method;
        assert_eq!(audited.record(of).await["object"], object, "{method} {path}");
    }
    assert!(!audited.text().contains(secret), "{}", audited.text());

    let programs = Programs::extension();
    let guest = programs.clone();
    let audited = Audited::before(move |path| guest.listen(path)).await;
    let body = json!({"argv": ["/bin/program", secret], "env": {"A": secret}, "stdin": secret,
        "stdin_open": true});
    let start = audited.gateway.ask("POST", "/vms/vm/processes").json(&body).send().await;
    let pid = start.expect(201)["pid"].as_i64().unwrap();
    programs.write(
        programs.handle_of(pid),
        qga_proto::command::OutputStream::Stdout,
        secret.as_bytes(),
    );
    let of_it = format!("/vms/vm/processes/{pid}");
    for (method, rest) in [("PUT", "/stdin"), ("POST", "/signal"), ("DELETE", "")] {
        let ask = audited.gateway.ask(method, &format!("{of_it}{rest}"));
        match rest {
            "/stdin" => ask.text(secret).send().await,
            "/signal" => ask.json(&json!({"signal": "TERM"})).send().await,
            _ => ask.send().await,
        };
    }
    for path in ["/vms/vm/processes", &format!("{of_it}/stdin"), &format!("{of_it}/signal"), &of_it]
    {
        assert_eq!(audited.of_path(path).await["object"], "/bin/program", "{path}");
    }
    assert!(!audited.text().contains(secret), "{}", audited.text());
}

#[tokio::test]
async fn where_records_are_required_nothing_changes_without_them() {
    let audited = Audited::with(Agent::default(), "required = true").await;
    audited.gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
    audited.of_path("/vms/vm/ping").await;
    // It was moved away, and a directory put in its place: like a disk that is full.
    fs::remove_file(&audited.file).unwrap();
    fs::create_dir(&audited.file).unwrap();
    audited.gateway.audit.reopen();
    let start = Instant::now();
    loop {
        let answer = audited.gateway.ask("POST", "/vms/vm/ping").send().await;
        if answer.status == 503 {
            answer.problem(503, "audit_unwritable");
            break;
        }
        assert!(start.elapsed() < BOUND);
    }
    let pings = audited.gateway.agent.times("guest-ping");
    audited.gateway.ask("POST", "/vms/vm/ping").send().await.problem(503, "audit_unwritable");
    assert_eq!(audited.gateway.agent.times("guest-ping"), pings);
    // A terminal takes input, so it does more than read.
    let attach = audited.gateway.ask("GET", "/vms/vm/processes/1/attach").send().await;
    attach.problem(503, "audit_unwritable");
    audited.gateway.ask("GET", "/vms/attach").send().await.problem(404, "vm_not_found");
    // What only reads goes on, and so does everything once there is room.
    audited.gateway.ask("GET", "/vms/vm").send().await.expect(200);
    fs::remove_dir(&audited.file).unwrap();
    audited.gateway.audit.reopen();
    let start = Instant::now();
    while audited.gateway.ask("POST", "/vms/vm/ping").send().await.status != 200 {
        assert!(start.elapsed() < BOUND);
    }
    audited.of_path("/vms/vm/ping").await;
}

#[tokio::test]
async fn no_secret_is_on_record_or_in_a_problem() {
    let audited = Audited::start().await;
    let gateway = &audited.gateway;
    let secret = "cAnArY";
    // In base64 at each of the three places that it can begin at.
    let spellings = ["cAnArY", "Y0FuQXJZ", "NBbkFyW", "jQW5BclZ"];
    let bodies = [
        ("PUT", "/vms/vm/users/root/password", json!({"password": secret})),
        ("PUT", "/vms/vm/users/root/password", json!({"password": [secret]})),
        ("PUT", "/vms/vm/users/root/ssh-keys", json!({"keys": [secret]})),
        ("PATCH", "/vms/vm/users/root/ssh-keys", json!({"add": [secret]})),
        ("POST", "/vms/vm/file-handles/1000/write", json!({"buf-b64": "Y0FuQXJZ"})),
        ("POST", "/vms/vm/file-handles/1000/write", json!({"buf-b64": secret})),
        (
            "POST",
            "/vms/vm/commands/guest-exec",
            json!({"arguments": {"path": "/bin/true", "arg": [secret], "env": [secret],
                   "input-data": "Y0FuQXJZ"}}),
        ),
        (
            "POST",
            "/vms/vm/commands/guest-set-user-password",
            json!({"arguments": {"username": "root", "password": "Y0FuQXJZ", "crypted": false}}),
        ),
    ];
    let mut problems = String::new();
    for (method, path, body) in &bodies {
        let ask = gateway.ask(method, path).json(body).header("idempotency-key", "k-1");
        let answer = ask.send().await;
        problems += &format!("{method} {path}: {}\n", String::from_utf8_lossy(&answer.body));
    }
    for credentials in ["Bearer cAnArY", "cAnArY", "Basic cAnArY"] {
        let ask = gateway.ask_tcp("GET", "/vms").header("authorization", credentials);
        problems += &format!("{:?}", ask.send().await.body);
        let ask = gateway.ask("GET", "/vms").header("authorization", credentials);
        problems += &format!("{:?}", ask.send().await.body);
    }
    gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
    audited.of_path("/vms/vm/ping").await;
    let records = audited.text();
    assert!(records.lines().count() > bodies.len());
    for spelling in spellings {
        assert!(!records.contains(spelling), "{records}");
        assert!(!problems.contains(spelling), "{problems}");
    }
}
