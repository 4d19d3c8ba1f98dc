//! The command line: what it takes, and which of it does what.

mod assets;
mod bytes_in;
mod bytes_out;
mod complete;
mod cp;
mod doctor;
mod events;
mod exec;
mod exit;
mod freeze;
mod out;
mod reach;
mod seconds;
mod shell;
mod signals;
mod thaw;
mod vms;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::CompleteEnv;
use qga_gateway::config::Config;
use qga_gateway::explain::explain;
use qga_gateway::rights::{Expiry, TokenName, issue};
use qga_gateway::server::Inherited;
use qga_gateway::telemetry::{self, LogFormat};
use qga_gateway::{api, daemon};

use self::out::print;

/// Where this host's gateway has its configuration.
const CONFIG: &str = "/etc/qga-gateway/config.toml";

/// What shells ask this program for completions with.
const COMPLETE: &str = "QGA_GATEWAY_COMPLETE";

/// REST for the inside of virtual machines, through the QEMU guest agent
#[derive(Parser)]
#[command(name = "qga-gateway", version)]
pub(crate) struct Arguments {
    /// The config file
    #[arg(long, global = true, default_value = CONFIG)]
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
        #[arg(add = complete::explained())]
        word: Option<String>,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Bearer tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// List the VMs: their links, agents and freezes
    Vms(vms::Options),
    /// Freeze VMs' filesystems: until a thaw, or for as long as a command runs
    Freeze(freeze::Options),
    /// Thaw, by lease or by VM, and say whether the freeze held
    Thaw(thaw::Thaw),
    /// Hold a freeze for longer
    Renew(thaw::Renew),
    /// List the freezes
    #[command(alias = "leases")]
    Freezes(thaw::List),
    /// Run a program in a VM as if it ran here
    Exec(exec::Options),
    /// Copy a file into a VM or out of one
    Cp(cp::Options),
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

/// Answers a shell that asks for completions; whether one did.
pub(crate) fn completed() -> bool {
    let directory = std::env::current_dir().ok();
    let asked = CompleteEnv::with_factory(Arguments::command).var(COMPLETE);
    match asked.try_complete(std::env::args_os(), directory.as_deref()) {
        Ok(completed) => completed,
        Err(error) => {
            let _ = error.print();
            true
        }
    }
}

/// Does what the command line says. An error says itself what it exits with, save that of a command
/// that exits with a program's code: nothing of its own looks like one.
pub(crate) fn execute(arguments: Arguments) -> Result<ExitCode, (anyhow::Error, ExitCode)> {
    let runs = matches!(arguments.command, Some(Command::Exec(_) | Command::Shell(_)));
    carry_out(arguments).map_err(|error| {
        let code = if runs { exit::NOT_THE_PROGRAM.into() } else { exit::code(&error) };
        (error, code)
    })
}

fn carry_out(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = &arguments.config;
    match arguments.command.unwrap_or(Command::Run) {
        Command::Openapi => print(&api::openapi_json())?,
        Command::Explain { word } => {
            let told = explain(word.as_deref()).map_err(|error| exit::Usage(error.to_string()))?;
            print(&told)?;
        }
        Command::CheckConfig => {
            Config::load(config)?;
            print(&format!("{}: ok\n", config.display()))?;
        }
        Command::Token(TokenCommand::New { name, expires }) => {
            print(&issue(&name, expires.as_ref())?)?;
        }
        Command::Vms(options) => return vms::run(&options, config),
        Command::Freeze(options) => return freeze::run(&options, config),
        Command::Thaw(options) => return thaw::thaw(&options, config),
        Command::Renew(options) => return thaw::renew(&options, config),
        Command::Freezes(options) => return thaw::list(&options, config),
        Command::Exec(options) => return exec::run(&options, config),
        Command::Cp(options) => return cp::run(&options, config),
        Command::Shell(options) => return shell::run(options, config),
        Command::Doctor(options) => return doctor::run(config, &options),
        Command::Man { directory } => assets::man(&directory)?,
        Command::Completions { shell } => print(&assets::completions(shell)?)?,
        Command::Run => run(config, arguments.log_format)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run(file: &Path, format: LogFormat) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    // Before there are threads.
    let inherited = Inherited::take()?;
    let _logs = telemetry::init(format, config.telemetry.log.as_deref())?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        runtime.worker_threads(workers(cores));
    }
    let runtime = runtime.enable_all().build().context("the runtime cannot start")?;
    let result = runtime.block_on(daemon::run(config, file, inherited));
    // What is still running has had its grace.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// How many threads serve. The host's processors are its guests' first, and a chunk that goes from
/// thread to thread takes longer than one that stays: with as many threads as processors a transfer has
/// two thirds of the rate on two of them.
fn workers(cores: usize) -> usize {
    (cores / 2).clamp(1, 8)
}

/// Runs a command that only asks.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot start")?;
    let result = runtime.block_on(command);
    // Whoever reads standard input cannot be woken.
    runtime.shutdown_background();
    result
}
