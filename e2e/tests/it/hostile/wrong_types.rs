//! An agent that answers a command with what that command never answers: every command, every
//! kind of wrong answer, every operation that sends it.
//!
//! The lie is told about one command at a time, so that an operation that asks several questions
//! comes to each. What must come of it: an answer that the document has, never a 500, a guest that
//! is not frozen once the lie is over, and no lease that promises what was not so.

use std::path::Path;
use std::process::Command as Program;
use std::thread;

use qga_e2e::sim::{Act, Attack, Blueprint, Commands, Machine, Mode, Moment, Rule};
use qga_e2e::{Reply, Rest, until};
use qga_proto::command::{COMMANDS, CommandInfo, FOREIGN_COMMANDS};
use serde_json::{Value, json};

use super::schema::Schemas;
use super::{MEMORY, resident, start};
use crate::fleet::{Host, SOON, gateway_program, id};

const CONFIG: &str = "[limits]\nsync_seconds = 1\nconnect_wait_seconds = 1\n\
    backoff_max_seconds = 1\norphan_seconds = 4\n[timeouts]\nsession_seconds = 1\n\
    freeze_seconds = 1\nthaw_seconds = 1\nother_seconds = 1\n";

/// For most commands nearly all of these are of the wrong type.
const WRONG: [&str; 16] = [
    "null",
    "true",
    "7",
    "-1",
    "0.5",
    "18446744073709551616",
    "1e400",
    "\"text\"",
    "\"\"",
    r#""\uD800""#,
    "[]",
    "[null]",
    "[[[7]]]",
    "{}",
    r#"{"name": {"a": [{}]}, "count": "many", "return": 1}"#,
    r#"[{"name": null, "online": "yes", "phys-index": -1, "stats": [], "type": 5}]"#,
];

#[test]
fn a_stock_agents() {
    walk(Mode::Stock);
}

#[test]
fn our_agents() {
    walk(Mode::Qga);
}

fn walk(mode: Mode) {
    let Some(program) = gateway_program() else { return };
    let document = document(&program);
    let neighbour = WRONG.len();
    let (host, machines) = Host::start(&program, CONFIG, |fleet| {
        let count = neighbour + 1;
        fleet.machines(0, count, &Blueprint::new(mode)).unwrap()
    });
    let bed = Bed { document: &document, rest: host.rest(), machines: &machines, mode };
    for machine in &machines {
        machine.rule(always(Commands::Named("guest-info"), &info(mode)));
        machine.hang_up();
    }
    bed.wait_known();
    let before = resident(&host.gateway);
    for info in COMMANDS.iter().filter(|info| has(mode, info)) {
        let told = thread::scope(|scope| {
            let told = (0..neighbour).map(|at| {
                let bed = &bed;
                scope.spawn(move || bed.lie(at, info))
            });
            let told: Vec<_> = told.collect();
            told.into_iter().map(|told| told.join().unwrap()).collect::<Vec<_>>()
        });
        let (wrong, caught): (Vec<_>, Vec<_>) = told.into_iter().unzip();
        let (wrong, caught) = (wrong.concat(), caught.iter().sum::<usize>());
        println!("{}: seen through {caught} times", info.name);
        assert!(caught > 0 || unseen(mode, info), "{} has lied to nobody", info.name);
        let log = host.gateway.log();
        assert!(!log.contains("panicked"), "{}: {log}", info.name);
        assert!(wrong.is_empty(), "{}; the log:\n{log}", wrong.join("\n"));
        let path = format!("/vms/{}/ping", id(&machines[neighbour]));
        host.rest().post(&path, &json!({})).unwrap().expect(200).unwrap();
    }
    assert_eq!(machines[neighbour].truth().connections, 2, "the VM beside them was disconnected");
    let grown = resident(&host.gateway).saturating_sub(before);
    println!("grown by {} KiB", grown >> 10);
    assert!(grown < MEMORY, "grown by {} KiB", grown >> 10);
}

/// The simulator knows no commands that only others have; this guest answers any.
#[test]
fn of_commands_that_only_others_have() {
    let Some(program) = gateway_program() else { return };
    let mut hostile = Vec::new();
    let (host, _good) = start(&program, 1, &[Attack::WrongTypes], &mut hostile);
    host.wait_link("hostile-0", "ready");
    assert_eq!(FOREIGN_COMMANDS.len(), 1);
    let reply = host.rest().get("/vms/hostile-0/devices").unwrap();
    assert_eq!((reply.status, reply.code()), (502, "agent_bad_reply"), "{reply:?}");
}

/// Whether nobody is told that its answer was bad: what is never sent, or has a way round it, or
/// is not looked at.
fn unseen(mode: Mode, info: &CommandInfo) -> bool {
    let ours = mode == Mode::Qga;
    match info.name {
        "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" | "guest-fsfreeze-thaw" => ours,
        _ => info.is_sync() || info.is_extension(),
    }
}

fn document(program: &Path) -> Value {
    let printed = Program::new(program).arg("openapi").output().unwrap().stdout;
    serde_json::from_slice(&printed).unwrap()
}

fn has(mode: Mode, info: &CommandInfo) -> bool {
    mode == Mode::Qga || !info.is_extension()
}

/// An honest `guest-info` that lists everything, so that everything is sent.
fn info(mode: Mode) -> String {
    let all = COMMANDS.iter().filter(|info| has(mode, info));
    let all = all.map(|info| {
        json!({ "name": info.name, "enabled": true, "success-response": info.success_response })
    });
    json!({ "version": "0.0.1", "supported_commands": all.collect::<Vec<_>>() }).to_string()
}

fn always(commands: Commands, answer: &str) -> Rule {
    let act = Act::Answer(answer.as_bytes().to_vec());
    Rule { commands, moment: Moment::Received, times: None, act }
}

/// What the lies are told to.
struct Bed<'a> {
    document: &'a Value,
    rest: Rest,
    machines: &'a [Machine],
    mode: Mode,
}

/// One lie, while it is told.
struct Lie<'a> {
    bed: &'a Bed<'a>,
    machine: &'a Machine,
    about: &'a CommandInfo,
    wrong: Vec<String>,
    /// Answers that were called bad.
    caught: usize,
}

impl Bed<'_> {
    fn wait_known(&self) {
        for machine in self.machines {
            let path = format!("/vms/{}", id(machine));
            until(format_args!("{path} to be known"), SOON, || {
                let vm = self.rest.get(&path)?.expect(200)?;
                let ready = vm["link"]["state"] == "ready" && !vm["agent"].is_null();
                Ok((ready && machine.truth().connections == 2).then_some(()))
            })
            .unwrap();
        }
    }

    /// All that is wrong with what comes of that lie, and how often it was seen through.
    fn lie(&self, at: usize, about: &'static CommandInfo) -> (Vec<String>, usize) {
        let machine = &self.machines[at];
        let mut lie = Lie { bed: self, machine, about, wrong: Vec::new(), caught: 0 };
        machine.clear_rules();
        machine.rule(always(Commands::Named(about.name), WRONG[at]));
        machine.rule(always(Commands::Named("guest-info"), &info(self.mode)));
        // Each asks for something that ends when a sync is not answered in time.
        if !about.is_sync() || at.is_multiple_of(4) {
            lie.operations();
        }
        if ["fsfreeze", "fsinfo", "guest-info"].iter().any(|part| about.name.contains(part)) {
            for moment in [Moment::Received, Moment::Executed] {
                lie.freezes(moment, at.is_multiple_of(2));
            }
        }
        let told = format!("{} says {}", about.name, WRONG[at]);
        let wrong = lie.wrong.into_iter().map(|wrong| format!("{told}: {wrong}")).collect();
        (wrong, lie.caught)
    }
}

impl Lie<'_> {
    /// All operations that name the command, and the one that sends any; but for freezes.
    fn operations(&mut self) {
        let bed = self.bed;
        let freezes = |path: &String| path.contains("/fsfreeze") || path.starts_with("/freezes");
        // These last as long as the program: they are lied to in the gateway's own tests.
        let streams = |path: &String| path.ends_with("/output") || path.ends_with("/attach");
        let paths = bed.document["paths"].as_object().unwrap();
        for (path, item) in paths.iter().filter(|(path, _)| !freezes(path) && !streams(path)) {
            // A HEAD is its GET, and has no body to look at.
            let item = item.as_object().unwrap().iter().filter(|(method, _)| *method != "head");
            for (method, operation) in item {
                let commands = operation["x-qga-command"].as_str().unwrap_or_default();
                let raw = path.ends_with("/commands/{name}");
                let names = commands.split([',', ';']).flat_map(|some| some.split(" or "));
                let names = names.map(str::trim).any(|name| name == self.about.name);
                // What a process is asked about comes of its status.
                let names =
                    names || path.contains("{pid}") && self.about.name.starts_with("guest-exec");
                // The three of them share one operation.
                let names = names || path.ends_with("/suspend") && self.about.name.contains("susp");
                if raw || names {
                    self.operation(method, path, operation);
                }
            }
        }
    }

    fn operation(&mut self, method: &str, path: &str, operation: &Value) {
        let bed = self.bed;
        let schemas = Schemas(bed.document);
        let content = &operation["requestBody"]["content"]["application/json"]["schema"];
        let mut body = schemas.follow(content)["example"].clone();
        match self.about.name {
            "guest-suspend-disk" => body = json!({ "mode": "disk" }),
            "guest-suspend-hybrid" => body = json!({ "mode": "hybrid" }),
            "guest-ssh-remove-authorized-keys" => {
                body = json!({ "remove": ["ssh-ed25519 AAAA x"] });
            }
            "guest-file-write" if path.ends_with("/files/content") => body = json!("content"),
            _ => {}
        }
        let Some(pid) = self.process(path) else { return };
        let named = if path.contains("/commands/") { self.about.name } else { "ada" };
        if path.contains("/commands/") {
            body = json!({ "arguments": {} });
        }
        let path = path
            .replace("{id}", &id(self.machine))
            .replace("{handle}", "1000")
            .replace("{pid}", &pid)
            .replace("{name}", named);
        let path = path + &query(operation);
        self.ask(method, &path, &body, operation);
    }

    /// A process for an operation that is about one, if it could be started.
    fn process(&self, path: &str) -> Option<String> {
        if !path.contains("{pid}") {
            return Some(String::new());
        }
        let start = format!("/vms/{}/processes", id(self.machine));
        let started = self.bed.rest.post(&start, &json!({ "argv": ["/bin/true"] })).unwrap();
        (started.status == 201).then(|| started.json["pid"].to_string())
    }

    /// Asks, and looks whether the answer is one that the document has.
    fn ask(&mut self, method: &str, path: &str, body: &Value, operation: &Value) -> Reply {
        let method = method.to_uppercase();
        let reply = self.bed.rest.send(&method, path, (!body.is_null()).then_some(body)).unwrap();
        self.caught += usize::from(reply.status == 502);
        let schemas = Schemas(self.bed.document);
        let said = schemas.follow(&operation["responses"][reply.status.to_string()]);
        // It passes on what is JSON by its grammar, and means nothing to most who read it.
        let raw = path.contains("/commands/") && reply.json.is_null();
        let unknown = reply.status == 404;
        let wrong = if said.is_null() || reply.status == 500 {
            Some("the document has no such answer".to_owned())
        } else if [400, 405, 415].contains(&reply.status) || unknown {
            Some("the request itself is wrong".to_owned())
        } else if reply.status == 200 && raw {
            None
        } else if reply.status < 300 {
            let schema = &said["content"]["application/json"]["schema"];
            // What has another form is a file's bytes.
            if schema.is_null() { None } else { schemas.why_not(schema, &reply.json) }
        } else {
            let bad = reply.status == 502 && reply.code() != "agent_bad_reply";
            (bad || reply.code().is_empty()).then(|| "no right code".to_owned())
        };
        if let Some(wrong) = wrong {
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            self.wrong.push(format!("{method} {path}: {wrong}: {} {text}", reply.status));
        }
        reply
    }

    /// A freeze from its beginning to its end, and what is left once the lie is over.
    fn freezes(&mut self, moment: Moment, group: bool) {
        let (bed, machine) = (self.bed, self.machine);
        let vm = id(machine);
        let answer = WRONG[bed.machines.iter().position(|other| id(other) == vm).unwrap()];
        machine.clear_rules();
        machine.rule(Rule { moment, ..always(Commands::Named(self.about.name), answer) });
        let ask = |lie: &mut Self, method: &str, template: &str, path: &str, body: Value| {
            let operation = &bed.document["paths"][template][method];
            lie.ask(method, path, &body, operation)
        };
        let own = format!("/vms/{vm}/fsfreeze");
        ask(self, "get", "/vms/{id}/fsfreeze", &own, Value::Null);
        let mut limits = json!({ "ttl_seconds": 30, "freeze_timeout_seconds": 2 });
        if self.about.name.ends_with("-list") {
            limits["mountpoints"] = json!(["/"]);
        }
        let dry = format!("{own}?dry_run=true");
        ask(self, "post", "/vms/{id}/fsfreeze", &dry, limits.clone());
        let begun = machine.truth().past.len();
        let frozen = if group {
            let mut body = limits;
            body["vms"] = json!([vm]);
            ask(self, "post", "/freezes", "/freezes", body)
        } else {
            ask(self, "post", "/vms/{id}/fsfreeze", &own, limits)
        };
        if frozen.status == 201 {
            ask(self, "patch", "/vms/{id}/fsfreeze", &own, json!({ "ttl_seconds": 30 }));
            ask(self, "get", "/vms/{id}/fsfreeze", &own, Value::Null);
            let lease = frozen.json["id"].as_str().unwrap();
            ask(self, "delete", "/freezes/{lease}", &format!("/freezes/{lease}"), Value::Null);
        }
        // The truth is told from now on, and sets everything right.
        machine.clear_rules();
        let ended = until("all leases to end", SOON, || {
            // It may have been believed that the guest was thawed, or never frozen.
            if machine.truth().frozen.is_some() && !is_leased(&bed.rest, &vm)? {
                bed.rest.delete(&format!("{own}?force=true"))?;
            }
            Ok((machine.truth().frozen.is_none() && !is_leased(&bed.rest, &vm)?).then_some(()))
        });
        if let Err(e) = ended {
            self.wrong.push(format!("{moment:?}: {e}: {:?}", machine.truth().frozen));
        }
        if frozen.status == 201 {
            let lease = frozen.json["id"].as_str().unwrap();
            let ended = bed.rest.get(&format!("/freezes/{lease}")).unwrap().json;
            let held = machine.truth().past.len() > begun;
            // Whatever else it says, this is no report.
            if self.about.name.ends_with("-report") && ended["verdict"] == "held" {
                self.wrong.push(format!("{moment:?}: held, and nothing shows it: {ended}"));
            }
            if !held && ["held", "counts_agree"].iter().any(|good| ended["verdict"] == *good) {
                self.wrong.push(format!("{moment:?}: the guest was never frozen: {ended}"));
            }
        }
    }
}

/// What an operation must be told in its path.
fn query(operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let needed = parameters.filter(|it| it["in"] == "query" && it["required"] == true);
    let needed = needed.map(|it| match it["name"].as_str().expect("a name") {
        "for" => "for=address&timeout_seconds=1".to_owned(),
        name => format!("{name}={}", it["example"].as_str().expect("an example")),
    });
    let needed: Vec<String> = needed.collect();
    if needed.is_empty() { String::new() } else { format!("?{}", needed.join("&")) }
}

fn is_leased(rest: &Rest, vm: &str) -> anyhow::Result<bool> {
    let leases = rest.get(&format!("/freezes?vm={vm}"))?.expect(200)?;
    let all = leases["freezes"].as_array().cloned().unwrap_or_default();
    let active = |lease: &Value| {
        lease["verdict"].is_null() && !["thawed", "failed"].iter().any(|s| lease["state"] == *s)
    };
    Ok(all.iter().any(active))
}
