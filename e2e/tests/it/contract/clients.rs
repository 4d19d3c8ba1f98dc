//! Clients that public generators make of the checked-in document: each freezes, renews and thaws a VM,
//! copies a file there and runs a program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use qga_e2e::Gateway;
use serde_json::{Value, json};

use super::{Tools, output, source, url};
use crate::guests::{Guest, Kind, gateway_program};
use crate::scenario::{ALL_FILESYSTEMS, wait_all_writing};

/// What both copy to the guest.
const LENGTH: &str = "256000";

/// One VM for both: what it takes to boot is most of the time.
#[test]
fn made_of_the_document_do_the_work() {
    let Some(tools) = Tools::fetched() else { return };
    let Some(program) = gateway_program() else { return };
    let work = tempfile::Builder::new().prefix("qga-clients-").tempdir().unwrap();
    let walks = [python(&tools, work.path()), typescript(&tools, work.path())];
    let Some(mut guest) = Guest::boot(Kind::Ours) else { return };
    let vms = [("vm", guest.vm.qga_socket())];
    let any = "127.0.0.1:0".parse().unwrap();
    let gateway = Gateway::start_on(&program, guest.dir(), &vms, Some(any)).unwrap();
    gateway.rest().get("/vms/vm/wait?for=agent&timeout_seconds=50").unwrap().expect(200).unwrap();
    for mut walk in walks {
        let said = output(walk.arg(url(&gateway)).arg(gateway.token_file()).arg("vm"));
        let found: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!(found["filesystems"], json!(ALL_FILESYSTEMS), "{found}");
        let file = found["file"].as_str().expect("a file");
        let control = guest.vm.control();
        assert_eq!(control.output(&format!("wc -c <'{file}'")).unwrap(), LENGTH, "{found}");
        wait_all_writing(control);
    }
}

/// The client in Python; a warning of its generator is an error.
fn python(tools: &Tools, work: &Path) -> Command {
    let mut generate = tools.python("openapi-python-client");
    generate.args(["generate", "--meta", "none", "--fail-on-warning", "--path"]);
    generate.arg(source("gateway.json")).arg("--output-path").arg(work.join("gateway_client"));
    output(generate.current_dir(work));
    let mut walk = tools.python("python");
    walk.arg(source("tests/walk.py")).env("PYTHONPATH", work);
    walk
}

/// The client in TypeScript, whose compiler checks the types of what is asked and answered.
fn typescript(tools: &Tools, work: &Path) -> Command {
    symlink(tools.node_modules(), work.join("node_modules")).unwrap();
    for file in ["walk.ts", "tsconfig.json", "package.json"] {
        fs::copy(source("tests").join(file), work.join(file)).unwrap();
    }
    let mut generate = tools.node("openapi-typescript/bin/cli.js");
    output(generate.arg(source("gateway.json")).arg("--output").arg(work.join("gateway.d.ts")));
    output(tools.node("typescript/bin/tsc").arg("--project").arg(work));
    tools.run_node(&work.join("walk.js"))
}
