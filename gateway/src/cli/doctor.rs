//! `qga-gateway doctor`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use qga_gateway::config::Config;
use qga_gateway::doctor;

use super::out::print;

#[derive(Args)]
pub(super) struct Options {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How long an agent may take to answer, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=300))]
    timeout: u16,
}

/// Prints what was found; 1 if anything is to be done.
pub(super) fn run(file: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    // One thread: what the examination starts, runs when the examination lets it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let patience = Duration::from_secs(options.timeout.into());
    let report = runtime.block_on(doctor::examine(&config, file, patience));
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(&report.to_string())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
