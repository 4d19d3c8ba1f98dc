//! The example hook of `deploy/fsfreeze-hook/`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn run(dir: &Path, action: &str) -> Output {
    Command::new(dir.join("fsfreeze-hook")).arg(action).output().unwrap()
}

fn log(dir: &Path) -> String {
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    let _ = fs::remove_file(dir.join("log"));
    log
}

fn add(dir: &Path, name: &str, then: &str) {
    let path = dir.join("fsfreeze-hook.d").join(name);
    let log = dir.join("log");
    let log = log.display();
    fs::write(&path, format!("#!/bin/sh\necho \"{name} $1\" >> '{log}'\n{then}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn prepare() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("a hook").tempdir().unwrap();
    fs::create_dir(dir.path().join("fsfreeze-hook.d")).unwrap();
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/fsfreeze-hook/fsfreeze-hook");
    fs::copy(script, dir.path().join("fsfreeze-hook")).unwrap();
    dir
}

#[test]
fn runs_its_programs_in_order_and_thaws_in_reverse() {
    let dir = prepare();
    let dir = dir.path();
    assert!(run(dir, "freeze").status.success(), "with no program at all");
    for name in ["10-a", "20 b", "30-c"] {
        add(dir, name, "");
    }
    for leftover in [
        "x~",
        "x.bak",
        "x.orig",
        "x.rpmnew",
        "x.rpmorig",
        "x.rpmsave",
        "x.sample",
        "x.dpkg-old",
        "x.dpkg-new",
        "x.dpkg-tmp",
        "x.dpkg-dist",
        "x.dpkg-bak",
        "x.dpkg-backup",
        "x.dpkg-remove",
    ] {
        add(dir, leftover, "");
    }
    add(dir, "40-not-executable", "");
    let path = dir.join("fsfreeze-hook.d/40-not-executable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(dir.join("fsfreeze-hook.d/50-directory")).unwrap();

    assert!(run(dir, "freeze").status.success());
    assert_eq!(log(dir), "10-a freeze\n20 b freeze\n30-c freeze\n");
    assert!(run(dir, "thaw").status.success());
    assert_eq!(log(dir), "30-c thaw\n20 b thaw\n10-a thaw\n");
    assert_eq!(run(dir, "other").status.code(), Some(2));
    assert_eq!(log(dir), "");
}

#[test]
fn a_program_that_fails_is_named_and_stops_a_freeze_but_no_thaw() {
    let dir = prepare();
    let dir = dir.path();
    add(dir, "10-a", "");
    add(dir, "20-b", "echo no luck >&2; exit 3");
    add(dir, "30-c", "");
    let freeze = run(dir, "freeze");
    assert_eq!(freeze.status.code(), Some(1));
    let text = String::from_utf8(freeze.stdout).unwrap();
    assert_eq!(text, "20-b freeze: exit status 3: no luck\n");
    assert_eq!(log(dir), "10-a freeze\n20-b freeze\n");
    let thaw = run(dir, "thaw");
    assert_eq!(thaw.status.code(), Some(1));
    assert_eq!(log(dir), "30-c thaw\n20-b thaw\n10-a thaw\n");
}
