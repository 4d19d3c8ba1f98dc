//! The command line: what it takes, and which of it does what.

mod assets;
mod doctor;
mod shell;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use qga_gateway::config::Config;
use qga_gateway::explain::explain;
use qga_gateway::rights::{Expiry, TokenName, issue};
use qga_gateway::server::Inherited;
use qga_gateway::telemetry::{self, LogFormat};
use qga_gateway::{api, daemon};

/// REST for the inside of virtual machines, through the QEMU guest agent
#[derive(Parser)]
#[command(name = "qga-gateway", version)]
pub(crate) struct Arguments {
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
    /// Look at the host and at each VM's socket, and say what is wrong and what to do about it
    Doctor(doctor::Options),
    /// Say what a problem code or a link state means, and what to do; asks no gateway
    Explain {
        /// A code such as `agent_timeout`, or a state such as `busy`; without one all are listed
        word: Option<String>,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Bearer tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Open a terminal in a VM; Enter ~ . detaches
    Shell(shell::Options),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        /// The directory; made if it is missing
        directory: PathBuf,
    },
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
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

/// Does what the command line says.
pub(crate) fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command.unwrap_or(Command::Run) {
        Command::Openapi => print(&api::openapi_json())?,
        Command::Explain { word } => print(&explain(word.as_deref())?)?,
        Command::CheckConfig => {
            Config::load(&arguments.config)?;
            print(&format!("{}: ok\n", arguments.config.display()))?;
        }
        Command::Token(TokenCommand::New { name, expires }) => {
            print(&issue(&name, expires.as_ref())?)?;
        }
        Command::Shell(options) => return shell::run(options, &arguments.config),
        Command::Doctor(options) => return doctor::run(&arguments.config, &options),
        Command::Man { directory } => assets::man(&directory)?,
        Command::Completions { shell } => print(&assets::completions(shell))?,
        Command::Run => run(&arguments.config, arguments.log_format)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run(file: &Path, format: LogFormat) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    // Before there are threads.
    let inherited = Inherited::take()?;
    let _logs = telemetry::init(format, config.telemetry.log.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let result = runtime.block_on(daemon::run(config, file, inherited));
    // What is still running has had its grace.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}
