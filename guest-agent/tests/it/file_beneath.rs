//! `beneath` holds every extension that takes a path, whatever the way out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::bed::{Agent, Bed, Client};
use crate::namespace::namespace_or_skip;
use crate::uploads::names;

const FILE: &str = "x-guest-file";

/// Directories `in` and `out` with a file each, and links between them.
fn start() -> (Bed, Agent) {
    let bed = Bed::new();
    for name in ["in", "in/sub", "out", "out/sub"] {
        fs::create_dir(bed.path(name)).unwrap();
    }
    for name in ["in/f", "in/sub/f", "out/f", "out/sub/f"] {
        fs::write(bed.path(name), name).unwrap();
    }
    symlink("../out", bed.path("in/dir-link")).unwrap();
    symlink("../out/f", bed.path("in/link")).unwrap();
    symlink("f", bed.path("in/near")).unwrap();
    symlink("../out/none", bed.path("in/dangling")).unwrap();
    symlink("in", bed.path("prefix-link")).unwrap();
    let agent = bed.start();
    (bed, agent)
}

/// Where the bed is, without links in its name.
fn at(bed: &Bed, name: &str) -> String {
    let root: PathBuf = bed.dir.path().canonicalize().unwrap();
    // Not `join`, which would take a slash at the beginning for the root.
    format!("{}/{name}", root.display())
}

fn refused(client: &mut Client, command: &str, arguments: &Value) {
    let (errno, text) = client.extension(&format!("{FILE}-{command}"), arguments).unwrap_err();
    assert_eq!(errno, "EACCES", "{command} {arguments}: {text}");
    assert!(text.contains("it does not lie beneath what the request allows"), "{text}");
}

#[test]
fn no_command_gets_out() {
    let (bed, agent) = start();
    let mut client = agent.connect();
    let beneath = json!([at(&bed, "in")]);
    for way in [
        "out/f",
        "out/none",
        "in/../out/f",
        "in/sub/../f",
        "in/sub/../../out/f",
        "in/dir-link/f",
        "in/dir-link/none",
        "in/link",
        "in/near",
        "in/dangling",
        "in/link/x",
        "prefix-link/f",
        "out",
        "in-other",
        "inx/f",
    ] {
        let path = json!({"path": at(&bed, way), "beneath": beneath});
        let with = |member: &str, value: Value| {
            let mut path = path.clone();
            path[member] = value;
            path
        };
        // What becomes of the link itself is inside.
        let is_link = ["in/link", "in/near", "in/dangling"].contains(&way);
        for command in ["stat", "list", "open", "create"] {
            refused(&mut client, command, &path);
        }
        refused(&mut client, "open", &with("write", json!(true)));
        if is_link {
            continue;
        }
        for command in ["remove", "mkdir", "beneath"] {
            refused(&mut client, command, &path);
        }
        refused(&mut client, "stat", &with("follow", json!(false)));
        refused(&mut client, "mkdir", &with("parents", json!(true)));
        refused(&mut client, "rename", &with("to", json!(at(&bed, "in/new"))));
        let to = json!({"path": at(&bed, "in/f"), "to": path["path"], "beneath": beneath});
        refused(&mut client, "rename", &to);
    }
    // The directory itself is its owner's, and may not be gone round by a link in its own name.
    for command in ["remove", "mkdir"] {
        refused(&mut client, command, &json!({"path": at(&bed, "in"), "beneath": beneath}));
    }
    let linked = json!([at(&bed, "prefix-link")]);
    refused(&mut client, "stat", &json!({"path": at(&bed, "prefix-link/f"), "beneath": linked}));
    refused(&mut client, "stat", &json!({"path": "in/f", "beneath": beneath}));
    let odd = json!({"path-b64": "L/8=", "beneath": beneath});
    refused(&mut client, "stat", &odd);
    let magic = format!("/proc/self/root{}", at(&bed, "in/f"));
    refused(&mut client, "open", &json!({"path": magic, "beneath": ["/"]}));
    assert_eq!(names(&bed.path("out")), ["f", "sub"]);
    assert_eq!(fs::read(bed.path("out/f")).unwrap(), b"out/f");
    for wrong in [json!([]), json!(["in"]), json!([at(&bed, "in/../out")]), json!(["/a\0"])] {
        let asked = json!({"path": at(&bed, "in/f"), "beneath": wrong});
        let (errno, _) = client.extension("x-guest-file-stat", &asked).unwrap_err();
        assert_eq!(errno, "EINVAL", "{wrong}");
    }
}

#[test]
fn inside_everything_works() {
    let (bed, agent) = start();
    let mut client = agent.connect();
    let beneath = json!([at(&bed, "out/sub"), at(&bed, "in")]);
    let mut call = |command: &str, name: &str, mut more: Value| {
        more["path"] = json!(at(&bed, name));
        more["beneath"] = beneath.clone();
        client.extension(&format!("{FILE}-{command}"), &more).unwrap()
    };
    assert_eq!(call("stat", "in/f", json!({}))["kind"], "file");
    assert_eq!(call("stat", "in", json!({}))["kind"], "directory");
    assert_eq!(call("beneath", "in/link", json!({})), json!({}));
    let link = call("stat", "in/link", json!({"follow": false}));
    assert_eq!(link["target"], "../out/f");
    assert_eq!(call("list", "in/", json!({}))["entries"].as_array().unwrap().len(), 6);
    call("mkdir", "in/a/b/c", json!({"parents": true}));
    call("rename", "in/a/b", json!({"to": at(&bed, "in/b")}));
    call("rename", "in/f", json!({"to": at(&bed, "out/sub/new")}));
    call("remove", "in/link", json!({}));
    let handle = call("create", "in/./made", json!({}))["handle"].clone();
    let commit = json!({"handle": handle});
    client.extension("x-guest-file-commit", &commit).unwrap();
    assert_eq!(names(&bed.path("in")), ["a", "b", "dangling", "dir-link", "made", "near", "sub"]);
    assert_eq!(names(&bed.path("out/sub")), ["f", "new"]);
}

#[test]
fn a_link_that_is_swapped_in_meanwhile_leads_nowhere() {
    let (bed, agent) = start();
    let mut client = agent.connect();
    let (real, link) = (bed.path("in/sub"), bed.path("in/swap"));
    symlink("../out/sub", &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &real, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        // Enough of each, where the machine lets it come to that.
        let (mut opened, mut refused, mut made) = (0, 0, 0);
        for n in 0..20_000 {
            let arguments = json!({"path": at(&bed, "in/sub/f"), "beneath": [at(&bed, "in")]});
            match client.extension("x-guest-file-open", &arguments) {
                Ok(open) => {
                    let handle = json!({"handle": open["handle"]}).to_string();
                    let read = client.get("guest-file-read", &handle);
                    client.get("guest-file-close", &handle);
                    assert!(read.contains("aW4vc3ViL2Y="), "it is the one inside: {read}");
                    opened += 1;
                }
                Err((errno, text)) => {
                    // The kernel may give up in the end, when it was disturbed again and again.
                    assert!(errno == "EACCES" || errno == "EAGAIN", "{errno} {text}");
                    refused += 1;
                }
            }
            let path = at(&bed, &format!("in/sub/d{n}"));
            let arguments = json!({"path": path, "beneath": [at(&bed, "in")]});
            made += usize::from(client.extension("x-guest-file-mkdir", &arguments).is_ok());
            if opened.min(refused).min(made) >= 100 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(names(&bed.path("out/sub")), ["f"], "nothing was made outside");
}

#[test]
fn what_is_mounted_inside_is_inside_and_what_is_mounted_over_a_link_is_no_way_out() {
    let (bed, agent) = start();
    drop(agent);
    let (inside, outside) = (at(&bed, "in/sub"), at(&bed, "out"));
    let setup = format!("mount --bind {outside} {inside}");
    let namespace = namespace_or_skip!(&["-m", "-U", "-r"], &setup);
    let agent = namespace.start(&bed, crate::bed::AGENT);
    let mut client = agent.connect();
    let ask = |name: &str| json!({"path": at(&bed, name), "beneath": [at(&bed, "in")]});
    let stat = client.extension("x-guest-file-stat", &ask("in/sub/sub/f")).unwrap();
    assert_eq!(stat["size"], 9);
    // Up from what is mounted, and to where it comes from.
    refused(&mut client, "stat", &ask("in/sub/../f"));
    refused(&mut client, "stat", &ask("out/f"));
    refused(&mut client, "stat", &ask("in/dir-link/f"));
    let own = json!({"path": at(&bed, "in/sub/f"), "beneath": [at(&bed, "in/sub")]});
    client.extension("x-guest-file-stat", &own).unwrap();
}
