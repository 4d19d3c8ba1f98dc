//! `qga-gateway`: serves the guest agents of a host's VMs over REST.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use qga_gateway::config::Config;
use qga_gateway::rights::{Expiry, TokenName, issue};
use qga_gateway::shell::{self, Gateway, Order, Place};
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
    /// Open a terminal in a VM; Enter ~ . detaches
    Shell(Shell),
}

#[derive(clap::Args)]
struct Shell {
    /// The VM's id
    vm: String,
    /// The gateway's Unix socket, if not the config file's
    #[arg(long, conflicts_with = "url")]
    socket: Option<PathBuf>,
    /// The gateway's address, as in http://127.0.0.1:8642
    #[arg(long, requires = "token_file")]
    url: Option<String>,
    /// The file with the token for it
    #[arg(long, requires = "url")]
    token_file: Option<PathBuf>,
    /// The guest's user
    #[arg(long, conflicts_with = "attach")]
    user: Option<String>,
    /// Attach to a process in place of starting one
    #[arg(long, value_name = "PID", conflicts_with = "program")]
    attach: Option<i64>,
    /// The program and its arguments; a login shell if there is none
    #[arg(last = true)]
    program: Vec<String>,
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
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "qga-gateway: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let done = match arguments.command.unwrap_or(Command::Run) {
        Command::Openapi => print(&api::openapi_json()),
        Command::CheckConfig => {
            Config::load(&arguments.config)?;
            print(&format!("{}: ok\n", arguments.config.display()))
        }
        Command::Token(TokenCommand::New { name, expires }) => {
            print(&issue(&name, expires.as_ref())?)
        }
        Command::Run => run(&arguments.config, arguments.log_format),
        Command::Shell(shell) => return open_shell(shell, &arguments.config),
    };
    done.map(|()| 0)
}

fn open_shell(shell: Shell, config: &Path) -> anyhow::Result<u8> {
    let Shell { vm, socket, url, token_file, user, attach, program } = shell;
    let place = match (url, token_file, socket) {
        (Some(url), Some(file), _) => Place::Url(url, file),
        (_, _, Some(socket)) => Place::Socket(socket),
        // Whoever may use the socket need not be allowed to read the file.
        _ => Place::Socket(Config::load(config).unwrap_or_default().listen.unix),
    };
    shell::run(&Order { gateway: Gateway::at(place)?, vm, user, attach, program })
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
