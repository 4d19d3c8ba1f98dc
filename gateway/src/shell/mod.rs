//! `qga-gateway shell VM`: a terminal in a guest, through the gateway and without any network there.
//!
//! A client like any other: it starts a program with a terminal, attaches to it, and carries bytes
//! both ways until the program ends or the user detaches (`Enter ~ .`).

mod escape;
mod session;
mod terminal;

use std::io::Write as _;

use anyhow::{Context as _, bail};
use qga_proto::command::TerminalSize;
use serde_json::{Value, json};

use crate::client::{Gateway, encoded};

/// What to do, and where.
#[derive(Debug)]
pub struct Order {
    /// The gateway.
    pub gateway: Gateway,
    /// The VM.
    pub vm: String,
    /// A process to attach to, in place of a new one.
    pub attach: Option<i64>,
    /// The program and its arguments; a login shell if there is none.
    pub program: Vec<String>,
    /// What else a request for a process says of it, as `user` and `cwd`: a JSON object.
    pub more: Value,
}

/// The shell of root, or of whoever the agent is; bash if there is one.
const LOGIN: &str = "TERM=$1; export TERM; cd 2>/dev/null; \
    for shell in \"$SHELL\" /bin/bash; do [ -x \"$shell\" ] && exec \"$shell\" -l; done; \
    exec /bin/sh -l";

/// Runs it, and returns the code to exit with: the program's own, or 128 and the number of the
/// signal that ended it.
///
/// # Errors
/// The gateway refuses, or the connection ends before the program does.
pub fn run(order: &Order) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(shell(order));
    // Whoever reads standard input cannot be woken.
    runtime.shutdown_background();
    result
}

async fn shell(order: &Order) -> anyhow::Result<u8> {
    let size = terminal::size();
    let pid = match order.attach {
        Some(pid) => pid,
        None => start(order, size).await?,
    };
    let path = format!("/vms/{}/processes/{pid}/attach?hangup=true", encoded(&order.vm));
    let socket = order.gateway.websocket(&path).await?;
    match session::run(socket, size).await? {
        session::End::Exit(code) => Ok(code),
        session::End::Detached => {
            say(&format!(
                "detached; process {pid} of {} goes on: qga-gateway shell {} --attach {pid}",
                order.vm, order.vm
            ));
            Ok(0)
        }
        session::End::Signal => Ok(255),
        session::End::Lost(why) => bail!("{why} (process {pid} of {})", order.vm),
    }
}

async fn start(order: &Order, size: TerminalSize) -> anyhow::Result<i64> {
    let argv = if order.program.is_empty() {
        let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
        let term = term.unwrap_or_else(|| "xterm-256color".into());
        ["/bin/sh", "-c", LOGIN, "sh", &term].map(str::to_owned).to_vec()
    } else {
        order.program.clone()
    };
    let mut body = order.more.clone();
    for (name, value) in [("argv", json!(argv)), ("pty", json!(size)), ("overflow", json!("wait"))]
    {
        body[name] = value;
    }
    let path = format!("/vms/{}/processes", encoded(&order.vm));
    let process = order.gateway.post_once(&path, &body).await?;
    process["pid"].as_i64().context("the gateway's answer has no \"pid\"")
}

/// To the user, on a line of its own; standard output is the program's.
fn say(text: &str) {
    let _ = write!(std::io::stderr(), "\r\nqga-gateway: {text}\r\n");
}
