//! The fault matrix: every fault at every point of a freeze, with both kinds of agent, against the
//! real gateway. What is true of a guest is read from the simulator, never from the gateway.
//!
//! A case starts a gateway and its machines, lets an orchestrator freeze, renew and thaw over HTTP,
//! holds the guest's command at the point in question, does the damage there, and lets go. Then
//! the [`check`] must find nothing wrong. `docs/fault-matrix.md` is what the cases came to.

use std::path::{Path, PathBuf};
use std::process::Command;

use qga_testing::unavailable;

use crate::fleet::gateway_program;

mod bed;
mod case;
mod check;
mod clock;
mod damage;
mod matrix;
mod orchestrator;
mod random;
mod tear;

/// A gateway whose leases outlive it.
fn durable_gateway() -> Option<PathBuf> {
    let program = gateway_program()?;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "state_dir = \"/nowhere\"\n").unwrap();
    let checked =
        Command::new(&program).args(["check-config", "--config"]).arg(file).output().unwrap();
    if !checked.status.success() {
        unavailable("the gateway keeps no leases on disk");
        return None;
    }
    Some(program)
}

/// Whether it can freeze several VMs by one request.
fn has_groups(program: &Path) -> bool {
    let document = Command::new(program).arg("openapi").output().unwrap().stdout;
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    let has = document["paths"]["/freezes"]["post"].is_object();
    if !has {
        unavailable("the gateway freezes no groups");
    }
    has
}
