//! The command line against a real gateway: what it prints, and what it exits with.

mod completions;
mod copy;
mod exec;
mod explain;
mod freeze;
mod hold;
mod trees;
mod vms;
mod watch;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use qga_testing::tied;
use serde_json::Value;

/// The program, pointed at a gateway.
pub(crate) struct Cli {
    program: PathBuf,
    socket: PathBuf,
}

impl Cli {
    pub(crate) fn new(program: &Path, socket: PathBuf) -> Self {
        Self { program: program.to_owned(), socket }
    }

    /// A command that is tied to this test, with nothing of this machine's own in its environment, nor
    /// signals ignored because whoever runs the tests does.
    fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = tied("env");
        command.arg("--default-signal").arg(&self.program);
        for name in ["URL", "TOKEN", "TOKEN_FILE", "CACERT", "CERT", "KEY"] {
            command.env_remove(format!("QGA_GATEWAY_{name}"));
        }
        command.env("QGA_GATEWAY_URL", format!("unix:{}", self.socket.display()));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    fn start(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// What came of it.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// It failed with that code, and says so with these words.
    #[track_caller]
    fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?}: {self:?}");
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Sends a signal to a program that a test has started.
fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}
