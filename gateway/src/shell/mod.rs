//! `qga-gateway shell VM`: a terminal in a guest, through the gateway and without any network there.
//!
//! A client like any other: it starts a program with a terminal, attaches to it, and carries bytes
//! both ways until the program ends or the user detaches (`Enter ~ .`).

mod connect;
mod escape;
mod session;
mod terminal;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use qga_proto::command::TerminalSize;
use serde_json::{Value, json};

pub use connect::Gateway;

/// What to do, and where.
#[derive(Debug)]
pub struct Order {
    /// The gateway.
    pub gateway: Gateway,
    /// The VM.
    pub vm: String,
    /// The guest's user.
    pub user: Option<String>,
    /// A process to attach to, in place of a new one.
    pub attach: Option<i64>,
    /// The program and its arguments; a login shell if there is none.
    pub program: Vec<String>,
}

/// Where the gateway is, by a path or a URL with a token's file.
#[derive(Debug)]
pub enum Place {
    /// Its Unix socket.
    Socket(PathBuf),
    /// `http://HOST:PORT`, and the file with the token.
    Url(String, PathBuf),
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
    let mut body = json!({"argv": argv, "pty": size, "overflow": "wait"});
    if let Some(user) = &order.user {
        body["user"] = Value::from(user.as_str());
    }
    let path = format!("/vms/{}/processes", encoded(&order.vm));
    let process = order.gateway.post(&path, &body).await?;
    process["pid"].as_i64().context("the gateway's answer has no \"pid\"")
}

/// As it stands in a path.
fn encoded(id: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    id.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

/// To the user, on a line of its own; standard output is the program's.
fn say(text: &str) {
    let _ = write!(std::io::stderr(), "\r\nqga-gateway: {text}\r\n");
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_stays_within_its_path() {
        assert_eq!(super::encoded("web-1.a_b"), "web-1.a_b");
        assert_eq!(super::encoded("a/b?c é"), "a%2Fb%3Fc%20%C3%A9");
    }
}
