//! `qga-gateway shell`: its arguments.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use qga_gateway::config::Config;
use qga_gateway::shell::{self, Gateway, Order, Place};

#[derive(clap::Args)]
pub(super) struct Options {
    /// The VM's id
    vm: String,
    /// The gateway's Unix socket, if not the config file's
    #[arg(long, conflicts_with = "url")]
    socket: Option<PathBuf>,
    /// The gateway's address, as in `http://127.0.0.1:8642`
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

pub(super) fn run(options: Options, config: &Path) -> anyhow::Result<ExitCode> {
    let Options { vm, socket, url, token_file, user, attach, program } = options;
    let place = match (url, token_file, socket) {
        (Some(url), Some(file), _) => Place::Url(url, file),
        (_, _, Some(socket)) => Place::Socket(socket),
        // Whoever may use the socket need not be allowed to read the file.
        _ => Place::Socket(Config::load(config).unwrap_or_default().listen.unix),
    };
    let order = Order { gateway: Gateway::at(place)?, vm, user, attach, program };
    shell::run(&order).map(ExitCode::from)
}
