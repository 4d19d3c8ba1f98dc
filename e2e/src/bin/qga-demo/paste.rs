//! The `curl` lines that the demo prints, and running them as a newcomer would.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A line to paste.
#[derive(Debug)]
pub(crate) struct Line {
    /// What it does.
    pub(crate) what: &'static str,
    /// The line.
    pub(crate) command: String,
    /// What its output contains when it worked.
    proof: &'static str,
}

/// The lines for the gateway's Unix socket.
pub(crate) fn over_unix(socket: &Path) -> Vec<Line> {
    let line_for = |options: &str, path: &str| {
        format!(
            "{} {options}--unix-socket {} http://localhost/vms/demo{path} | jq",
            curl(),
            socket.display()
        )
    };
    vec![
        line("freeze", line_for("-X POST ", "/fsfreeze"), r#""filesystems": 4"#),
        line("look", line_for("", "/fsfreeze"), r#""status": "frozen""#),
        line("thaw", line_for("-X DELETE ", "/fsfreeze"), r#""state": "thawed""#),
    ]
}

/// The lines for TCP, where every request carries the token.
pub(crate) fn over_tcp(address: SocketAddr, token: &Path) -> Vec<Line> {
    let line_for = |options: &str, path: &str| {
        format!(
            r#"{} -H "Authorization: Bearer $(cat {})" {options}http://{address}{path} | jq"#,
            curl(),
            token.display()
        )
    };
    vec![
        line("the VM", line_for("", "/vms/demo"), r#""id": "demo""#),
        line(
            "freeze for 10 s",
            line_for(r#"--json '{"ttl_seconds": 10}' "#, "/vms/demo/fsfreeze"),
            r#""ttl_seconds": 10"#,
        ),
        line("thaw earlier", line_for("-X DELETE ", "/vms/demo/fsfreeze"), r#""state": "thawed""#),
    ]
}

/// What must hold besides, for [`Line::run`] only.
pub(crate) fn besides(address: SocketAddr) -> Vec<Line> {
    let status = format!("{} -L -o /dev/null -w '%{{http_code}}' http://{address}", curl());
    vec![
        line("the API page", format!("{status}/docs"), "200"),
        line("no entry without the token", format!("{status}/vms"), "401"),
    ]
}

/// curl, told to go straight to this machine where a proxy is set.
fn curl() -> &'static str {
    let proxy =
        ["http_proxy", "all_proxy", "ALL_PROXY"].into_iter().any(|n| env::var_os(n).is_some());
    if proxy { "curl -sS --noproxy '*'" } else { "curl -sS" }
}

const fn line(what: &'static str, command: String, proof: &'static str) -> Line {
    Line { what, command, proof }
}

impl Line {
    /// Runs the line in a shell.
    ///
    /// # Errors
    /// It fails, or its output lacks what shows that it worked.
    pub(crate) fn run(&self) -> Result<()> {
        let done = Command::new("sh").args(["-c", &self.command]).output().context("running sh")?;
        let output = String::from_utf8_lossy(&done.stdout);
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success() && output.contains(self.proof),
            "`{}` shows no `{}` but:\n{output}{errors}",
            self.command,
            self.proof
        );
        Ok(())
    }
}
