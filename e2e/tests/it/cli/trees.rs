//! Directories into a guest and out of one, by its real agent. What a guest lists that is not honest is
//! tried in `gateway/tests/it/trees.rs`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::copy::{Bed, mode, noise};
use crate::processes::Here;

/// Everything below a directory, by its path there: of directories the mode, of files the content too.
fn all(dir: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                left.push(path.clone());
            }
            let content = kind.is_file().then(|| fs::read(&path).unwrap());
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), (mode(&path), content));
        }
    }
    found
}

/// A directory with what there is to go wrong.
fn tree(at: &Path) {
    let file = |name: &str, bytes: &[u8]| fs::write(at.join(name), bytes).unwrap();
    fs::create_dir_all(at.join("sub/deep/deeper")).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    file("sub/deep/deeper/noise", &noise(700_001));
    file("sub/run", b"#!/bin/sh\n");
    file("nothing", b"");
    file("a b?&+%#\n", b"odd");
    fs::write(at.join(OsStr::from_bytes(b"no \xff utf-8")), "bytes").unwrap();
    fs::create_dir(at.join(OsStr::from_bytes(b"\xfe"))).unwrap();
    fs::write(at.join(OsStr::from_bytes(b"\xfe/in")), "bytes").unwrap();
    fs::set_permissions(at.join("sub/run"), Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(at.join("sub"), Permissions::from_mode(0o700)).unwrap();
}

/// What is no file and no directory.
fn oddities(at: &Path) {
    symlink("/etc", at.join("link")).unwrap();
    symlink("nothing", at.join("sub/link")).unwrap();
    assert!(Command::new("mkfifo").arg(at.join("fifo")).status().unwrap().success());
}

#[test]
fn directories_go_both_ways_with_all_that_is_in_them() {
    let Some(bed) = Bed::start() else { return };
    let here = bed.host.join("tree");
    tree(&here);
    let wanted = all(&here);
    oddities(&here);
    // A directory that is there takes it under its own name; a new one becomes it.
    let up = bed.cli.run(["cp", "-rp", &bed.local("tree"), &bed.remote("")]);
    assert!(up.err.contains("6 files in 6 directories; 3 left out"), "{up:?}");
    assert!(up.err.contains("tree/link: a link, which is not followed; left out"), "{up:?}");
    up.ok();
    assert_eq!(all(&bed.guest.join("tree")), wanted);
    bed.cli.run(["cp", "-rpq", "--verify", &bed.local("tree/."), &bed.remote("again")]).ok();
    assert_eq!(all(&bed.guest.join("again")), wanted);
    // Once more over itself.
    bed.cli.run(["cp", "-rpq", &bed.local("tree"), &bed.remote("")]).ok();
    assert_eq!(all(&bed.guest.join("tree")), wanted);

    oddities(&bed.guest.join("tree"));
    let down = bed.cli.run(["cp", "-rp", "--verify", &bed.remote("tree"), &bed.local("new")]);
    assert!(down.err.contains("6 files in 6 directories; 3 left out"), "{down:?}");
    down.ok();
    assert_eq!(all(&bed.host.join("new")), wanted);
    fs::create_dir(bed.host.join("into")).unwrap();
    for _ in 0..2 {
        bed.cli.run(["cp", "-rpq", &bed.remote("tree/"), &bed.local("into")]).ok();
        assert_eq!(all(&bed.host.join("into/tree")), wanted);
    }
    // A file is one with -r too.
    bed.cli.run(["cp", "-r", &bed.remote("tree/sub/run"), &bed.local("run")]).ok();
    bed.cli.run(["cp", "-r", &bed.local("run"), &bed.remote("run")]).ok();
    assert_eq!(fs::read(bed.guest.join("run")).unwrap(), b"#!/bin/sh\n");
}

#[test]
fn a_link_here_leads_nothing_elsewhere() {
    let Some(bed) = Bed::start() else { return };
    let outside = bed.host.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "untouched").unwrap();
    fs::create_dir_all(bed.guest.join("tree/sub")).unwrap();
    fs::write(bed.guest.join("tree/sub/evil"), "evil").unwrap();
    fs::write(bed.guest.join("tree/file"), "new").unwrap();
    fs::write(bed.guest.join("tree/dir"), "a directory is in its way").unwrap();
    let target = bed.host.join("to/tree");
    fs::create_dir_all(target.join("dir")).unwrap();
    symlink(&outside, target.join("sub")).unwrap();
    symlink(outside.join("file"), target.join("file")).unwrap();
    let ran = bed.cli.run(["cp", "-r", &bed.remote("tree"), &bed.local("to")]);
    ran.fails(1, &["tree/sub: the directory here", "tree/dir: its place here", "2 could not be"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"untouched");
    // The link gave way, and what it led to did not.
    assert!(fs::symlink_metadata(target.join("file")).unwrap().is_file());
    assert_eq!(fs::read(target.join("file")).unwrap(), b"new");
    let left: Vec<_> = fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no part is left behind: {left:?}");
}

#[test]
fn what_cannot_be_copied_is_said_and_does_not_stop_the_others() {
    let Some(bed) = Bed::start() else { return };
    fs::create_dir_all(bed.host.join("tree/taken")).unwrap();
    fs::write(bed.host.join("tree/taken/x"), "x").unwrap();
    fs::write(bed.host.join("tree/z"), "z").unwrap();
    fs::create_dir(bed.guest.join("tree")).unwrap();
    fs::write(bed.guest.join("tree/taken"), "a file").unwrap();
    let ran = bed.cli.run(["cp", "-r", &bed.local("tree"), &bed.remote("")]);
    ran.fails(1, &["tree/taken: ", "[file_exists]", "1 files in 1 directories", "1 could not be"]);
    assert_eq!(fs::read(bed.guest.join("tree/z")).unwrap(), b"z");

    let run = |arguments: &[&str]| bed.cli.run([&["cp"], arguments].concat());
    let few = ["-r", "--max-entries", "2", &bed.local("tree"), &bed.remote("few")];
    run(&few).fails(1, &["more than 2 files and directories", "--max-entries"]);
    run(&["-r", "vm:/nonexistent", &bed.local("x")]).fails(1, &["[file_not_found]"]);
    run(&["-r", "vm:/", &bed.local("")]).fails(2, &["no name"]);
    run(&["-r", "-c", "vm:/etc", "x"]).fails(2, &["--continue"]);
    run(&["-r", "vm:/etc", "-"]).fails(2, &["tar(1)"]);
    run(&["vm:/etc", &bed.local("x")]).fails(1, &["[is_a_directory]", "-r copies"]);
    run(&[&bed.local("tree"), "vm:/srv"]).fails(2, &["-r copies it"]);
    run(&["-r", &bed.local("nothing"), "vm:/srv"]).fails(1, &["nothing"]);
    assert!(!bed.host.join("x").exists());
}

#[test]
fn a_stock_agent_copies_no_directories_and_says_what_does() {
    let Some(stock) = qga_testing::stock_agent() else { return };
    let Some(here) = Here::with(stock, "") else { return };
    let bed = Bed::over(here);
    fs::create_dir(bed.host.join("tree")).unwrap();
    let words = ["-r needs qga-agent", "exec vm -- tar -C", "[command_unsupported]"];
    bed.cli.run(["cp", "-r", &bed.remote(""), &bed.local("new")]).fails(1, &words);
    bed.cli.run(["cp", "-r", &bed.local("tree"), &bed.remote("new")]).fails(1, &words);
    assert!(!bed.host.join("new").exists() && !bed.guest.join("new").exists());
}
