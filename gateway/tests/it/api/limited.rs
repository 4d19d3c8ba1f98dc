//! Grants that are limited to some files or programs: what they open, by every way there is, and
//! what not.

use qga_gateway::rights::Rules;
use serde_json::{Value, json};

use super::agent::{Agent, Quirk};
use super::client::{Answer, Ask};
use super::downloads;
use super::file_agent::FileAgent;
use super::gateway::Gateway;
use super::rights::{Operation, grant, lacks_right, operations, token, with};

const FILES: &[&str] = &["observe", "files_read", "files_write", "raw"];
const PROGRAMS: &[&str] = &["observe", "exec", "raw"];
const TRUE: &str = "programs = [{ path = \"/bin/true\", args = [\"-v\", \"*\"] }]";

fn files(name: &str, more: &str) -> String {
    token(name) + &grant(name, FILES, more)
}

fn programs(name: &str, more: &str) -> String {
    token(name) + &grant(name, PROGRAMS, more)
}

fn refused(answer: &Answer, why: &str) {
    let problem = answer.problem(403, "forbidden");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(why), "{detail}");
    assert_eq!(problem["outcome"], "not_sent", "{problem}");
}

/// Every way to files, as somebody with the token: each with a path of its own.
fn ways(gateway: &Gateway, name: &str, path: &str) -> Vec<(String, Ask)> {
    let ask = |method: &str, at: &str| {
        let ask = with(gateway.ask_tcp(method, &format!("/vms/vm/{at}path={path}")), name);
        (format!("{method} {at}{path}"), ask)
    };
    vec![
        ask("GET", "files?"),
        ask("GET", "files/content?"),
        ask("PUT", "files/content?"),
        ask("PUT", "files/content?in_place=true&offset=1&"),
        ask("PUT", "files?kind=directory&parents=true&"),
        ask("PATCH", "files?to=/dir/x&"),
        ask("PATCH", "files?to=/dir/x&replace=true&"),
        ask("DELETE", "files?"),
        ask("DELETE", "files/content?"),
    ]
}

#[tokio::test]
async fn paths_outside_are_refused_before_anything_is_sent() {
    let agent = FileAgent::new(true);
    agent.put("/etc/shadow", b"secret");
    let gateway = downloads::gateway(&agent, &files("a", "files = [\"/dir\", \"/srv/\"]")).await;
    for path in ["/etc/shadow", "/dir/../etc/shadow", "/dirs/x", "dir/x", "/", "/DIR/x", "%5Cdir"] {
        for (way, ask) in ways(&gateway, "a", path) {
            let answer = ask.send().await;
            assert_eq!(answer.status, 403, "{way}: {:?}", answer.body);
            refused(&answer, "only below /dir, /srv");
        }
    }
    let to = with(gateway.ask_tcp("PATCH", "/vms/vm/files?path=/dir/a&to=/etc/a"), "a");
    refused(&to.send().await, "only below /dir, /srv");
    assert_eq!(agent.disk().beneath, []);
    assert_eq!(agent.ran("guest-file-open"), 0);
    assert_eq!(agent.content("/etc/shadow").unwrap(), b"secret");
}

#[tokio::test]
async fn inside_the_guest_is_told_what_to_hold_a_path_beneath() {
    let agent = FileAgent::new(true);
    agent.put("/dir/f", b"12345");
    let gateway = downloads::gateway(&agent, &files("a", "files = [\"/dir\", \"/srv//\"]")).await;
    for (way, ask) in ways(&gateway, "a", "/dir/f") {
        let answer = ask.send().await;
        assert!(!lacks_right(&answer) && answer.status != 403, "{way}: {:?}", answer.body);
    }
    let told = agent.disk().beneath.clone();
    let names: std::collections::BTreeSet<_> = told.iter().map(|(name, _)| *name).collect();
    let all = ["stat", "open", "create", "commit", "mkdir", "rename", "remove"];
    for name in all {
        assert!(names.contains(&*format!("x-guest-file-{name}")), "{name}: {names:?}");
    }
    for (name, beneath) in told {
        let expected = match name {
            // By its handle.
            "x-guest-file-commit" | "x-guest-file-sync" => Value::Null,
            _ => json!(["/dir", "/srv"]),
        };
        assert_eq!(beneath, expected, "{name}");
    }
    let list =
        with(gateway.ask_tcp("GET", "/vms/vm/files?path=/dir"), "a").send().await.expect(200);
    assert_eq!(list["stat"]["kind"], "directory");
    assert_eq!(agent.disk().beneath.last().unwrap().1, json!(["/dir", "/srv"]));
    assert_eq!(agent.ran("guest-file-open"), 0, "which could not be told");
    // Whoever has no limits holds nobody.
    gateway.ask("GET", "/vms/vm/files?path=/dir").send().await.expect(200);
    assert_eq!(agent.disk().beneath.last().unwrap().1, Value::Null);
}

#[tokio::test]
async fn an_agent_that_cannot_hold_a_path_serves_nobody_with_limits_unless_that_is_allowed() {
    for (extended, older) in [(false, false), (true, true)] {
        let agent = FileAgent::new(extended);
        agent.disk().older = older;
        agent.put("/dir/f", b"12345");
        let more = "files = [\"/dir\"]\nallow_unenforced = true";
        let config = files("a", "files = [\"/dir\"]") + &files("b", more);
        let gateway = downloads::gateway(&agent, &config).await;
        for (way, ask) in ways(&gateway, "a", "/dir/f") {
            let answer = ask.send().await;
            assert_eq!(answer.status, 403, "{way}: {:?}", answer.body);
            refused(&answer, "the guest's agent cannot hold a path there");
        }
        assert_eq!(agent.open(), 0);
        let at = |path: &str| format!("/vms/vm/files/content?path={path}");
        let as_b = |method: &str, path: &str| with(gateway.ask_tcp(method, &at(path)), "b");
        assert_eq!(&*as_b("GET", "/dir/f").send().await.body, b"12345");
        assert!(as_b("PUT", "/dir/f").text("new").send().await.status.is_success());
        assert_eq!(agent.content("/dir/f").unwrap(), b"new");
        refused(&as_b("GET", "/dir/../etc/f").send().await, "only below /dir");
        // On Windows that would lead up.
        refused(&as_b("GET", "/dir/..%5C..%5Cf").send().await, "cannot hold a path there");
    }
}

#[tokio::test]
async fn neither_bare_handles_nor_raw_commands_lead_round_limits() {
    let agent = FileAgent::new(true);
    agent.put("/dir/f", b"12345");
    let gateway = downloads::gateway(&agent, &files("a", "files = [\"/\"]")).await;
    let open = json!({"path": "/dir/f"});
    let opened = gateway.ask("POST", "/vms/vm/file-handles").json(&open).send().await.expect(201);
    let handle = opened["handle"].as_i64().unwrap();
    let before = agent.disk().ran.len();
    let ask = |method: &str, path: &str| with(gateway.ask_tcp(method, path), "a");
    let at = |what: &str| format!("/vms/vm/file-handles/{handle}{what}");
    for (method, path, body) in [
        ("POST", "/vms/vm/file-handles".to_owned(), open),
        ("POST", at("/read"), json!({})),
        ("POST", at("/write"), json!({"buf-b64": "QUJD"})),
        ("POST", at("/seek"), json!({"offset": 0, "whence": "set"})),
        ("POST", at("/flush"), Value::Null),
        ("DELETE", at(""), Value::Null),
    ] {
        let ask = ask(method, &path);
        let answer = if body.is_null() { ask } else { ask.json(&body) }.send().await;
        refused(&answer, "without limits, only below /");
    }
    let commands = qga_proto::command::COMMANDS.iter().map(|info| info.name);
    let commands: Vec<_> = commands.filter(|name| name.contains("guest-file-")).collect();
    assert!(commands.len() > 14, "{commands:?}");
    for command in commands {
        let arguments = json!({"path": "/dir/f", "handle": handle, "beneath": ["/"]});
        let ask = ask("POST", &format!("/vms/vm/commands/{command}"));
        let answer = ask.json(&json!({"arguments": arguments})).send().await;
        refused(&answer, "without limits, only below /");
    }
    let ask = ask("POST", "/vms/vm/commands/guest-get-osinfo").json(&json!({}));
    assert!(!lacks_right(&ask.send().await));
    let ran = agent.disk().ran[before..].to_vec();
    assert!(!ran.iter().any(|name| name.contains("-file-")), "{ran:?}");
}

#[tokio::test]
async fn commands_that_only_the_agent_knows_are_not_for_those_with_limits() {
    let info = json!({"version": "99", "supported_commands": [
        {"name": "guest-read-everything", "enabled": true, "success-response": true},
        {"name": "guest-info", "enabled": true, "success-response": true},
    ]});
    let agent = Agent::default().with("guest-info", Quirk::Value(info));
    let config = files("a", "files = [\"/\"]") + &programs("b", TRUE) + &files("c", "");
    let gateway = Gateway::configured(agent, &config).await;
    gateway.known().await;
    for name in ["a", "b"] {
        let ask = gateway.ask_tcp("POST", "/vms/vm/commands/guest-read-everything");
        refused(&with(ask, name).json(&json!({})).send().await, "the gateway does not know");
    }
    let ask = gateway.ask_tcp("POST", "/vms/vm/commands/guest-read-everything");
    assert!(with(ask, "c").json(&json!({})).send().await.status != 403);
}

#[tokio::test]
async fn only_programs_that_a_rule_names_are_run_by_whatever_way() {
    let grants = programs("a", TRUE) + &programs("b", "") + &programs("c", TRUE);
    let gateway = Gateway::configured(Agent::default(), &grants).await;
    gateway.known().await;
    let start = |name: &str, body: Value| {
        with(gateway.ask_tcp("POST", "/vms/vm/processes"), name).json(&body)
    };
    let raw = |arguments: Value| {
        let ask = with(gateway.ask_tcp("POST", "/vms/vm/commands/guest-exec"), "a");
        ask.json(&json!({"arguments": arguments}))
    };
    for (body, why) in [
        (json!({"argv": ["/bin/sh", "-c", "id"]}), "those that there are name /bin/true"),
        (json!({"argv": ["true", "-v", "x"]}), "those that there are name /bin/true"),
        (json!({"argv": ["/bin/true", "-v"]}), "it wants more than 1 arguments"),
        (json!({"argv": ["/bin/true", "-v", "-x"]}), "argument 2 is another"),
        (json!({"argv": ["/bin/true", "-v", "x", "y"]}), "it allows 2 arguments"),
        (json!({"argv": ["/bin/true", "-v", "x"], "env": {"LD_PRELOAD": "/x"}}), "an environment"),
        (json!({"argv": ["/bin/true", "-v", "x"], "env": {}}), "an environment"),
        (json!({"argv": ["/bin/true", "-v", "x"], "cwd": "/tmp"}), "this directory"),
        (json!({"argv": ["/bin/true", "-v", "x"], "user": "www"}), "this user"),
        (json!({"argv": ["/bin/true", "-v", "x"], "stdin": ""}), "input"),
        (json!({"argv": ["/bin/true", "-v", "x"], "stdin_open": true}), "input"),
        (json!({"argv": ["/bin/true", "-v", "x"], "pty": {"rows": 1, "cols": 1}}), "a terminal"),
    ] {
        refused(&start("a", body).send().await, why);
    }
    for (arguments, why) in [
        (json!({"path": "/bin/sh", "arg": ["-c", "id"]}), "those that there are name /bin/true"),
        (json!({"path": "/bin/true", "arg": ["-v", "x"], "env": ["A=b"]}), "an environment"),
        (json!({"path": "/bin/true", "arg": ["-v", "x"], "input-data": "QQ=="}), "input"),
        (json!({"path": "/bin/true", "arg": "-v"}), "only for some programs"),
        (json!({}), "only for some programs"),
    ] {
        refused(&raw(arguments).send().await, why);
    }
    assert_eq!(gateway.agent.times("guest-exec"), 0);
    let good = json!({"argv": ["/bin/true", "-v", "x"]});
    let started = start("a", good).send().await.expect(201);
    let own = started["pid"].to_string();
    let at = |name: &str, method: &str, path: &str| {
        with(gateway.ask_tcp(method, &format!("/vms/vm/processes{path}")), name)
    };
    // Its own program is there for it, for whoever has no limits, and for nobody else with some.
    for (name, sees) in [("a", true), ("b", true), ("c", false)] {
        let list = at(name, "GET", "").send().await.expect(200);
        assert_eq!(list["processes"].as_array().unwrap().len(), usize::from(sees), "{name}");
        let shown = at(name, "GET", &format!("/{own}")).send().await;
        assert_eq!(shown.status.as_u16(), if sees { 200 } else { 404 }, "{name}");
    }
    at("c", "DELETE", &format!("/{own}")).send().await.problem(404, "process_not_found");
    let signal = at("c", "POST", &format!("/{own}/signal")).json(&json!({"signal": "TERM"}));
    signal.send().await.problem(404, "process_not_found");
    let status = |name: &str| {
        let ask = with(gateway.ask_tcp("POST", "/vms/vm/commands/guest-exec-status"), name);
        ask.json(&json!({"arguments": {"pid": started["pid"]}}))
    };
    assert!(!lacks_right(&status("a").send().await));
    refused(&status("c").send().await, "only for some programs");
    let list = with(gateway.ask_tcp("POST", "/vms/vm/commands/x-guest-exec-list"), "a");
    refused(&list.json(&json!({})).send().await, "only for some programs");
    // With the rule goes the program.
    gateway.authority.replace(Rules::default());
    at("a", "GET", &format!("/{own}")).send().await.problem(401, "unauthenticated");
}

/// The walk through all operations with rights that have limits: they open what can be held to
/// them, and nothing else.
#[tokio::test]
async fn limited_rights_open_exactly_the_operations_that_can_be_held_to_them() {
    let all = |name: &str, more: &str| {
        token(name) + &grant(name, &["files_read", "files_write", "exec"], more)
    };
    let wide = "files = [\"/\"]\nallow_unenforced = true\n\
                programs = [{ path = \"/usr/bin/journalctl\", args = [\"**\"] }]";
    let narrow = "files = [\"/nowhere\"]\nallow_unenforced = true\n\
                  programs = [{ path = \"/nowhere\" }]";
    let config = all("wide", wide) + &all("narrow", narrow);
    let end = json!({"count": 0, "buf-b64": "", "eof": true});
    let agent = Agent::default().with("guest-file-read", Quirk::Value(end));
    let gateway = Gateway::configured(agent, &config).await;
    gateway.known().await;
    let mut seen = [0, 0];
    for Operation { method, path, right, body } in
        operations("frz_00000000000000000000000000000000")
    {
        if path == "/tickets" || !["files_read", "files_write", "exec"].contains(&&*right) {
            continue;
        }
        let held = |name: &str| {
            let ask = with(gateway.ask_tcp(&method, &path), name);
            match &body {
                Some(body) => ask.json(body),
                None => ask,
            }
        };
        let name = format!("{method} {path}");
        let handles = path.contains("/file-handles");
        let before = sent(&gateway.agent);
        let answer = held("narrow").send().await;
        match () {
            // There is nothing of its own to be seen.
            () if path.ends_with("/processes") && method == "GET" => {
                assert_eq!(answer.expect(200)["processes"], json!([]), "{name}");
            }
            () if path.contains("/processes/") => {
                assert!([400, 404].contains(&answer.status.as_u16()), "{name} {:?}", answer.body);
            }
            () => assert!(answer.status == 403, "{name}: {} {:?}", answer.status, answer.body),
        }
        assert_eq!(sent(&gateway.agent), before, "{name}");
        let answer = held("wide").send().await;
        if handles {
            assert!(lacks_right(&answer), "{name}");
        } else {
            assert!(answer.status != 403 && answer.status != 401, "{name}: {:?}", answer.body);
        }
        seen[usize::from(handles)] += 1;
    }
    assert!(seen[0] > 12 && seen[1] == 6, "{seen:?}");
}

/// Commands that reach files or programs.
fn sent(agent: &Agent) -> usize {
    ["guest-file-open", "guest-file-read", "guest-file-write", "guest-exec"]
        .map(|command| agent.times(command))
        .iter()
        .sum()
}

#[tokio::test]
async fn a_repeat_is_for_those_who_may_ask_for_it_now() {
    let rights = ["observe", "freeze", "power", "exec", "raw"];
    let config = token("a") + &grant("a", &rights, "");
    let gateway = Gateway::configured(Agent::default(), &config).await;
    gateway.known().await;
    let bodies = [
        ("/vms/vm/fstrim", json!({})),
        ("/vms/vm/processes", json!({"argv": ["/bin/true", "-v", "x"]})),
        ("/vms/vm/processes?wait=0", json!({"argv": ["/bin/sh"]})),
        ("/vms/vm/commands/guest-get-users", json!({})),
        ("/vms/vm/commands/guest-exec", json!({"arguments": {"path": "/bin/sh"}})),
        ("/vms/vm/fsfreeze", json!({})),
        ("/freezes", json!({"vms": ["vm"]})),
    ];
    let ask = |n: usize| {
        let (path, body) = &bodies[n];
        let ask = with(gateway.ask_tcp("POST", path), "a");
        ask.header("idempotency-key", &format!("key-{n}")).json(body)
    };
    let mut first = Vec::new();
    for (n, (path, _)) in bodies.iter().enumerate() {
        let answer = ask(n).send().await;
        assert!(answer.status.is_success(), "{path}: {:?}", answer.body);
        if n >= 5 {
            let thaw = with(gateway.ask_tcp("DELETE", "/vms/vm/fsfreeze"), "a");
            thaw.send().await.expect(200);
        }
        first.push(answer.body);
    }
    for (n, first) in first.iter().enumerate() {
        let again = ask(n).send().await;
        assert_eq!((&again.body, again.header("idempotency-replayed")), (first, "true"));
    }
    let replace = |more: &str| {
        let config = qga_gateway::config::Config::parse(&(token("a") + more), "c.toml".as_ref());
        let config = config.unwrap();
        gateway.authority.replace(Rules::new(&config.grants, &config.tokens));
    };
    // Programs by a rule: what it does not allow is not told again either.
    replace(&grant("a", &rights, TRUE));
    for (n, first) in first.iter().enumerate() {
        let again = ask(n).send().await;
        match n {
            2 | 4 => refused(&again, "those that there are name /bin/true"),
            _ => assert_eq!(&again.body, first),
        }
    }
    replace(&grant("a", &["observe"], ""));
    for (n, (path, _)) in bodies.iter().enumerate() {
        assert!(lacks_right(&ask(n).send().await), "{path}");
    }
    replace("");
    for (n, (path, _)) in bodies.iter().enumerate() {
        let answer = ask(n).send().await;
        match *path {
            // Of a group no VM is looked for, for who could freeze none.
            "/freezes" => assert!(lacks_right(&answer)),
            _ => drop(answer.problem(404, "vm_not_found")),
        }
    }
}
