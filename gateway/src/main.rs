//! `qga-gateway`: serves the guest agents of a host's VMs over REST.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use qga_gateway::config::Config;
use qga_gateway::rights::{Expiry, TokenName, issue};
use qga_gateway::telemetry::{self, LogFormat};
use qga_gateway::{api, daemon};

/// REST for the inside of virtual machines, through the QEMU guest agent
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The config file
    #[arg(long, global = true, default_value = "/etc/qga-gateway/config.toml")]
    config: PathBuf,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Run,
    /// Check the config file and say what is wrong with it
    CheckConfig,
    /// Print the OpenAPI document
    Openapi,
    /// Bearer tokens
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token: it is printed once, with the lines for the config file, which has only its hash
    New {
        /// What its holder is called: the principal token:NAME
        name: TokenName,
        /// From when on it is refused, such as 2027-01-31T00:00:00Z
        #[arg(long)]
        expires: Option<Expiry>,
    },
}

fn main() -> ExitCode {
    match execute(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "qga-gateway: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command.unwrap_or(Command::Run) {
        Command::Openapi => print(&api::openapi_json()),
        Command::CheckConfig => {
            Config::load(&arguments.config)?;
            print(&format!("{}: ok\n", arguments.config.display()))
        }
        Command::Token(TokenCommand::New { name, expires }) => {
            print(&issue(&name, expires.as_ref())?)
        }
        Command::Run => run(&arguments.config, arguments.log_format),
    }
}

fn run(file: &Path, format: LogFormat) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let _logs = telemetry::init(format, config.telemetry.log.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let result = runtime.block_on(daemon::run(config, file));
    // What is still running has had its grace.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

/// The error and its causes, save those whose text is in it already.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |line, cause| {
        if line.contains(&cause) { line } else { format!("{line}: {cause}") }
    })
}
