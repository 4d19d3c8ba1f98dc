//! schemathesis derives requests of the running gateway's own document, right ones and wrong ones, and
//! judges the answers by it.
//!
//! `QGA_API_SECONDS` makes it go on for so long, with other requests each time unless `QGA_SEED` says
//! which.

use std::env;
use std::fs;

use qga_e2e::Gateway;
use qga_e2e::sim::{Act, Blueprint, Commands, Fleet, Machine, Mode, Moment, Rule};

use super::{Tools, output, source, url};
use crate::guests::gateway_program;

/// How long it may take unless told otherwise: it stops there, which is no failure.
const SECONDS: &str = "170";

#[test]
fn of_every_kind_are_answered_as_the_document_says() {
    let Some(tools) = Tools::fetched() else { return };
    let Some(program) = gateway_program() else { return };
    let dir = tempfile::Builder::new().prefix("qga-api-").tempdir().unwrap();
    let fleet = Fleet::new(dir.path()).unwrap();
    let machines = [Mode::Stock, Mode::Qga].map(|mode| machine(&fleet, mode));
    let vms: Vec<_> =
        machines.iter().map(|(name, machine)| (*name, machine.socket().to_owned())).collect();
    let any = "127.0.0.1:0".parse().unwrap();
    let gateway = Gateway::start_on(&program, dir.path(), &vms, Some(any)).unwrap();
    let mut run = tools.python("schemathesis");
    run.arg("--config-file").arg(source("tests/schemathesis.toml")).arg("run");
    run.env("SCHEMATHESIS_HOOKS", source("tests/schemathesis_hooks.py"));
    let seconds = env::var("QGA_API_SECONDS");
    run.arg("--max-time").arg(seconds.as_deref().unwrap_or(SECONDS));
    if let Ok(seed) = env::var("QGA_SEED") {
        run.args(["--seed", &seed]);
    }
    let token = fs::read_to_string(gateway.token_file()).unwrap();
    run.arg(format!("{}/openapi.json", url(&gateway))).env("QGA_TOKEN", token.trim());
    // It keeps things beside where it runs.
    let said = output(run.current_dir(dir.path()));
    assert!(said.contains("Fuzzing"), "not all was tried: {said}");
    assert!(!gateway.log().contains(": 500 "), "an internal error:\n{}", gateway.log());
}

/// A simulated VM. Its files are empty: those of the simulator have no end, which is for benches.
fn machine(fleet: &Fleet, mode: Mode) -> (&'static str, Machine) {
    let machine = fleet.machine(mode.as_str(), &Blueprint::new(mode)).unwrap();
    let empty = br#"{"count": 0, "buf-b64": "", "eof": true}"#;
    machine.rule(Rule {
        commands: Commands::Named("guest-file-read"),
        moment: Moment::Received,
        times: None,
        act: Act::Answer(empty.to_vec()),
    });
    (mode.as_str(), machine)
}
