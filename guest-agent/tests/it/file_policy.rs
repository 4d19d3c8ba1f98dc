//! The policy's prefixes hold every extension, whatever the way out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::bed::{AGENT, Agent, Bed, Client};
use crate::uploads::{Upload, errno, names};

/// Directories `in` and `out` with a file each, links between them, and an agent that is kept to
/// `prefixes`.
fn start(prefixes: &[&str]) -> (Bed, Agent) {
    let bed = Bed::new();
    for name in ["in", "in/sub", "out", "out/sub"] {
        fs::create_dir(bed.path(name)).unwrap();
    }
    for name in ["in/f", "in/sub/f", "out/f", "out/g"] {
        fs::write(bed.path(name), "old").unwrap();
    }
    symlink("../out", bed.path("in/dir-link")).unwrap();
    symlink("../out/f", bed.path("in/link")).unwrap();
    symlink("f", bed.path("in/near")).unwrap();
    symlink("../out/none", bed.path("in/dangling")).unwrap();
    let paths: Vec<_> = prefixes.iter().map(|name| bed.path(name).display().to_string()).collect();
    let config = format!("[policy]\nfile-paths={}\n", paths.join(","));
    fs::write(bed.path("config"), config).unwrap();
    let mut command = bed.command(AGENT);
    command.arg("-c").arg(bed.path("config"));
    let agent = Agent::spawn(&mut command, &bed.path("socket"));
    (bed, agent)
}

fn refused(client: &mut Client, command: &str, arguments: &Value) {
    let (errno, text) = client.extension(command, arguments).unwrap_err();
    assert_eq!(errno, "EACCES", "{command} {arguments}: {text}");
    assert!(text.ends_with(": the agent's policy does not allow this path"), "{text}");
}

#[test]
fn no_command_gets_out() {
    let (bed, agent) = start(&["in", "out/g"]);
    let mut client = agent.connect();
    for way in [
        "out/f",
        "out/none",
        "in/../out/f",
        "in/sub/../../out/f",
        "in/dir-link/f",
        "in/dir-link/none",
        "in/link",
        "in/near",
        "in/dangling",
        "in/link/x",
        "out",
        "in-other",
    ] {
        let path = bed.path(way).display().to_string();
        let path = json!({ "path": path });
        // What becomes of the link itself is inside.
        let is_link = ["in/link", "in/near", "in/dangling"].contains(&way);
        for command in ["stat", "list", "open", "create", "remove", "mkdir"] {
            if is_link && (command == "remove" || command == "mkdir") {
                continue;
            }
            refused(&mut client, &format!("x-guest-file-{command}"), &path);
        }
        let mut more = path.clone();
        more["write"] = json!(true);
        refused(&mut client, "x-guest-file-open", &more);
        let mut more = path.clone();
        more["parents"] = json!(true);
        if !is_link {
            refused(&mut client, "x-guest-file-mkdir", &more);
            let mut from = path.clone();
            from["to"] = json!(bed.path("in/new").to_str());
            refused(&mut client, "x-guest-file-rename", &from);
            let to = json!({"path": bed.path("in/f").to_str(), "to": path["path"]});
            refused(&mut client, "x-guest-file-rename", &to);
        }
    }
    let relative = json!({"path": "in/f"});
    refused(&mut client, "x-guest-file-stat", &relative);
    let up = json!({"path": bed.path("in/a/../../out/new").to_str(), "parents": true});
    refused(&mut client, "x-guest-file-mkdir", &up);
    assert_eq!(names(&bed.path("out")), ["f", "g", "sub"]);
    assert_eq!(fs::read(bed.path("out/f")).unwrap(), b"old");
}

#[test]
fn inside_everything_works() {
    let (bed, agent) = start(&["in", "out/g"]);
    let mut client = agent.connect();
    let path = |name: &str| bed.path(name).display().to_string();
    let mut call = |command: &str, arguments: Value| {
        client.extension(&format!("x-guest-file-{command}"), &arguments).unwrap()
    };
    assert_eq!(call("stat", json!({"path": path("in/f")}))["kind"], "file");
    let link = call("stat", json!({"path": path("in/link"), "follow": false}));
    assert_eq!(link["target"], "../out/f");
    assert_eq!(call("stat", json!({"path": path("in")}))["kind"], "directory");
    let list = call("list", json!({"path": path("in")}));
    assert_eq!(list["entries"].as_array().unwrap().len(), 6);
    call("mkdir", json!({"path": path("in/a/b/c"), "parents": true}));
    call("mkdir", json!({"path": path("in"), "parents": true}));
    call("rename", json!({"path": path("in/a/b"), "to": path("in/b")}));
    call("remove", json!({"path": path("in/link")}));
    Upload::new(&mut client, &bed.path("in/sub/../f")).written().commit(json!({})).unwrap();
    assert_eq!(fs::read(bed.path("in/f")).unwrap(), b"ABC");
    // A prefix that is one file is given other content.
    Upload::new(&mut client, &bed.path("out/g")).written().commit(json!({})).unwrap();
    assert_eq!(fs::read(bed.path("out/g")).unwrap(), b"ABC");
    assert_eq!(names(&bed.path("out")), ["f", "g", "sub"]);
}

#[test]
fn a_prefix_itself_stays_where_it_is() {
    let (bed, agent) = start(&["in/sub/deep", "in", "out/g", "out/sub"]);
    let mut client = agent.connect();
    let path = |name: &str| bed.path(name).display().to_string();
    for name in ["in", "out/g", "out/sub"] {
        refused(&mut client, "x-guest-file-remove", &json!({"path": path(name)}));
        let away = json!({"path": path(name), "to": path("in/new")});
        refused(&mut client, "x-guest-file-rename", &away);
        let over = json!({"path": path("in/link"), "to": path(name), "replace": true});
        refused(&mut client, "x-guest-file-rename", &over);
        refused(&mut client, "x-guest-file-mkdir", &json!({"path": path(name)}));
    }
    // What holds another prefix can be renamed, but that other prefix leads nowhere new.
    let mut rename = |from: &str, to: &str| {
        let arguments = json!({"path": path(from), "to": path(to)});
        client.extension("x-guest-file-rename", &arguments).unwrap();
    };
    rename("in/sub", "in/old");
    rename("in/dir-link", "in/sub");
    fs::create_dir(bed.path("out/deep")).unwrap();
    fs::write(bed.path("out/deep/f"), "secret").unwrap();
    assert!(Path::new(&path("in/sub/deep/f")).exists());
    refused(&mut client, "x-guest-file-open", &json!({"path": path("in/sub/deep/f")}));
    refused(&mut client, "x-guest-file-create", &json!({"path": path("in/sub/deep/g")}));
    let stock =
        client.error("guest-file-open", &json!({"path": path("in/sub/deep/f")}).to_string());
    assert!(stock.ends_with("the agent's policy does not allow this path"), "{stock}");
    assert_eq!(
        errno(client.extension("x-guest-file-stat", &json!({"path": path("in/x")}))),
        "ENOENT"
    );
}
