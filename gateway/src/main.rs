//! `qga-gateway`: serves the guest agents of a host's VMs over REST.

mod cli;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    if cli::completed() {
        return ExitCode::SUCCESS;
    }
    cli::execute(cli::Arguments::parse()).unwrap_or_else(|(error, code)| {
        let _ = writeln!(std::io::stderr(), "qga-gateway: {}", one_line(&error));
        code
    })
}

/// The error and its causes, save those whose text is in it already.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |line, cause| {
        if line.contains(&cause) { line } else { format!("{line}: {cause}") }
    })
}
