//! The OpenAPI document put to the proof by public programs: a linter, generators of clients, and one that
//! derives requests of it; and likewise what a collector of traces is sent. `scripts/fetch-api-tools`
//! fetches them; what they are told is in `openapi/tests`.

mod clients;
mod lint;
mod requests;
mod traces;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qga_e2e::{Gateway, until};

/// Where the programs are.
pub(crate) struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// `None` after a line that says how to get them.
    pub(crate) fn fetched() -> Option<Self> {
        let dir = qga_testing::tools_directory().join("api");
        if dir.join("made-of").is_file() {
            return Some(Self { dir });
        }
        qga_testing::missing("no generators of clients; run scripts/fetch-api-tools");
        None
    }

    /// A program of Python's.
    pub(crate) fn python(&self, name: &str) -> Command {
        let programs = self.dir.join("python/bin");
        let mut command = qga_testing::tied(programs.join(name));
        // The generator looks for others beside it; nothing is written beside the sources.
        command.env("PATH", in_front(&programs)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// A program in JavaScript, by its path below `node_modules`.
    pub(crate) fn node(&self, script: &str) -> Command {
        let mut command = self.run_node(&self.node_modules().join(script));
        // Neither asks for a newer version of itself, nor tells anybody that it ran.
        command.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
        command
    }

    /// Node.js with a script.
    pub(crate) fn run_node(&self, script: &Path) -> Command {
        let mut command = qga_testing::tied(self.dir.join("bin/node"));
        command.arg(script);
        command
    }

    pub(crate) fn node_modules(&self) -> PathBuf {
        self.dir.join("node_modules")
    }
}

fn in_front(programs: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).expect("paths without colons")
}

/// A file of `openapi/`.
pub(crate) fn source(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi");
    fs::canonicalize(dir.join(name)).expect("a file of this repository")
}

/// What a program says on standard output, which must end well.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (said, errors) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {}\n{said}\n{errors}", done.status);
    said.into_owned()
}

/// The base URL of a gateway that was told to listen on any port of the loopback.
pub(crate) fn url(gateway: &Gateway) -> String {
    let found = until("the gateway's port", Duration::from_secs(20), || {
        let log = gateway.log();
        let words = log.split_whitespace().map(|word| word.trim_end_matches(','));
        Ok(words.filter(|word| word.starts_with("http://127.0.0.1:")).map(str::to_owned).next())
    });
    found.unwrap_or_else(|e| panic!("{e}; its log:\n{}", gateway.log()))
}
