//! `qga-gateway shell`: its arguments.

use std::path::Path;
use std::process::ExitCode;

use qga_gateway::shell::{self, Order};
use serde_json::{Value, json};

use super::complete;
use super::reach::Reach;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The VM's id
    #[arg(add = complete::vms())]
    vm: String,
    /// The guest's user
    #[arg(long, conflicts_with = "attach")]
    user: Option<String>,
    /// Attach to a process in place of starting one
    #[arg(long, value_name = "PID", conflicts_with = "program")]
    attach: Option<i64>,
    /// The program and its arguments; a login shell if there is none
    #[arg(last = true)]
    program: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn run(options: Options, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    let Options { vm, user, attach, program, .. } = options;
    let more = user.map_or(Value::Null, |user| json!({ "user": user }));
    shell::run(&Order { gateway, vm, attach, program, more }).map(ExitCode::from)
}
