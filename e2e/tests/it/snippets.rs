//! The snippets under `deploy/` that a program can judge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use qga_e2e::{Process, Qmp, until};

use crate::guests::{self, SOON};

/// QEMU takes the arguments as they stand, makes every socket, and has every port.
#[test]
fn qemu_takes_the_arguments() {
    if !guests::possible() {
        return;
    }
    for (name, made, ports) in [
        ("one-port.conf", 1, &["org.qemu.guest_agent.0"][..]),
        ("two-ports.conf", 2, &["org.qemu.guest_agent.0", "org.qga.gateway.0"][..]),
        ("qmp.conf", 1, &[][..]),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/qemu").join(name);
        let text = fs::read_to_string(path).expect("a snippet");
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().display().to_string();
        let mut args = vec!["-accel", "tcg", "-machine", "q35", "-m", "64", "-nodefaults", "-S"];
        args.extend(["-display", "none"]);
        let qmp = format!("unix:{place}/qmp.sock,server=on,wait=off");
        args.extend(["-qmp", &qmp]);
        // The directories of the snippet, made to lie in this test's own.
        let text = text.replace("/run/", &format!("{place}/"));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        args.extend(lines.flat_map(str::split_whitespace));
        let sockets: Vec<&str> = args
            .iter()
            .filter(|arg| arg.starts_with("socket,"))
            .filter_map(|arg| arg.split(',').find_map(|option| option.strip_prefix("path=")))
            .collect();
        assert_eq!(sockets.len(), made, "{name}");
        for socket in &sockets {
            fs::create_dir_all(Path::new(socket).parent().expect("a parent")).expect("made");
        }

        let log = dir.path().join("qemu.log");
        let mut qemu = Process::spawn(Path::new("qemu-system-x86_64"), &args, &log).expect("QEMU");
        let mut qmp = until("QEMU's QMP socket", SOON, || {
            if let Some(status) = qemu.ended()? {
                anyhow::bail!("QEMU ended: {status}");
            }
            Ok(Qmp::connect(&dir.path().join("qmp.sock")).ok())
        })
        .with_context(|| format!("{name}: {}", fs::read_to_string(&log).unwrap_or_default()))
        .expect("a running QEMU");
        for socket in &sockets {
            assert!(Path::new(socket).exists(), "{name}: {socket}");
        }
        // It has come as far as its monitor, so every device of the command line is there.
        qmp.status().expect("QEMU's state");
        for port in ports {
            assert!(args.iter().any(|arg| arg.ends_with(&format!(",name={port}"))), "{name}");
        }
        qemu.stop(Duration::from_secs(5)).expect("QEMU ends when asked");
    }
}

/// Every snippet and document speaks of the same places as the gateway's example configuration.
#[test]
fn the_places_agree() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let read = |name: &str| fs::read_to_string(deploy.join(name)).expect("a file of deploy/");
    for name in ["qemu/one-port.conf", "qemu/two-ports.conf", "libvirt/gateway-channel.xml"] {
        assert!(read(name).contains("/run/qga/VM.sock"), "{name}");
    }
    assert!(read("systemd/tmpfiles.conf").contains("d /run/qga "));
    assert!(read("qga-gateway.toml").contains("\nglob = \"/run/qga/*.sock\""));
    let rules = read("udev/99-qga-agent.rules");
    for port in ["org.qemu.guest_agent.0", "org.qga.gateway.0"] {
        assert!(rules.contains(&format!("ATTR{{name}}==\"{port}\"")), "{port}");
    }
    assert_eq!(rules.matches("ENV{SYSTEMD_WANTS}=\"qga-agent.service\"").count(), 2);
}

/// What the guides tell QEMU is what the snippet tells it, which QEMU takes.
#[test]
fn the_guides_have_the_snippets_arguments() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| fs::read_to_string(workspace.join(name)).expect("a file");
    let snippet = read("deploy/qemu/one-port.conf").replace("VM.sock", "db1.sock");
    let arguments: Vec<&str> = snippet.lines().filter(|line| line.starts_with('-')).collect();
    assert_eq!(arguments.len(), 3);
    for page in ["docs/install.md", "docs/getting-started.md"] {
        let page_text = read(page);
        for argument in &arguments {
            assert!(page_text.contains(argument), "{page}: {argument}");
        }
    }
    // What the guides copy out of the package is there.
    for page in ["docs/install.md", "docs/operations.md", "docs/recipes.md"] {
        for rest in read(page).split("/usr/share/doc/qga-gateway/examples/").skip(1) {
            let name = rest.split([' ', '`', '\n', ')', ',']).next().unwrap_or_default();
            let found = ["qemu", "libvirt", "examples", "systemd"]
                .iter()
                .any(|kind| workspace.join("deploy").join(kind).join(name).exists());
            assert!(found, "{page}: {name}");
        }
    }
}

/// Each unit with its program and user replaced by such as are here.
#[test]
fn systemd_takes_the_units() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let Some(analyze) = optional("systemd-analyze") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    for (name, program) in [
        ("qga-agent.service", "/usr/sbin/qga-agent"),
        ("qga-gateway.service", "/usr/sbin/qga-gateway"),
    ] {
        let unit = fs::read_to_string(deploy.join(name)).expect("a unit");
        let start = format!("\nExecStart={program} ");
        assert!(unit.contains(&start), "{name}");
        let unit = unit.replace(&start, "\nExecStart=/bin/true ");
        let path = dir.path().join(name);
        fs::write(&path, unit).expect("a copy");
        judged(Command::new(&analyze).args(["verify", "--man=no"]).arg(&path), name);
    }
}

#[test]
fn the_libvirt_snippet_is_xml() {
    let Some(xmllint) = optional("xmllint") else { return };
    let snippet =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/libvirt/gateway-channel.xml");
    judged(Command::new(xmllint).arg("--noout").arg(snippet), "channel");
}

/// A program that nothing else here needs; `None` after a line that names it.
fn optional(program: &str) -> Option<PathBuf> {
    let found = qga_testing::program(program);
    if found.is_none() {
        qga_testing::unavailable(&format!("no {program} on this machine"));
    }
    found
}

/// Runs a judge, which must agree and say nothing of `about`.
fn judged(judge: &mut Command, about: &str) {
    let done = judge.output().expect("the judge runs");
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(done.status.success() && !said.contains(about), "{said}");
}
