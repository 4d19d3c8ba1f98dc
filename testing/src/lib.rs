//! What the tests of several crates share: skips that are seen, and where a `qemu-ga` is,
//! and programs that end with their test; and fuzzing.

mod fuzz;

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

pub use fuzz::{digest, fuzz};

/// Notes that a test does nothing because something is missing that a script of this repository
/// or a build provides.
///
/// # Panics
/// `QGA_E2E_REQUIRE` is set: then nothing of that kind may be missing.
#[track_caller]
pub fn missing(what: &str) {
    assert!(env::var_os("QGA_E2E_REQUIRE").is_none(), "may not be skipped: {what}");
    unavailable(what);
}

/// Notes that a test does nothing because of what no script can provide: rights, a feature of the
/// machine's kernel, a program that is wanted nowhere else. Never fails.
///
/// libtest hides what a passing test prints, so the line goes to stderr itself, and to the file
/// that `QGA_SKIPS` names; `scripts/test` shows that at its end.
pub fn unavailable(what: &str) {
    list("skipped", what);
}

/// Notes what a test that ran, and found nothing wrong, has seen for the first time: somebody should
/// look at it. Never fails; shown as the skips are, but not among them.
pub fn noticed(what: &str) {
    list("noticed", what);
}

fn list(how: &str, what: &str) {
    let current = thread::current();
    let line = format!("{how}: {}: {what}\n", current.name().unwrap_or("a test"));
    // One write each, so that lines of other tests stay whole. Nobody is left to tell of failures.
    drop(io::stderr().write_all(line.as_bytes()));
    if let Some(list) = env::var_os("QGA_SKIPS") {
        let list = File::options().create(true).append(true).open(list);
        drop(list.and_then(|mut list| list.write_all(line.as_bytes())));
    }
}

/// Where `scripts/fetch-guest` puts what guests are made of.
pub fn guest_directory() -> PathBuf {
    target_directory().join("guest")
}

fn target_directory() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Prometheus' `promtool`: that of `scripts/fetch-promtool`, or an installed one.
///
/// Without one it is [`missing`], and this is `None`.
pub fn promtool() -> Option<PathBuf> {
    let fetched = Some(target_directory().join("tools/promtool"));
    let found = fetched.filter(|path| path.is_file()).or_else(|| program("promtool"));
    if found.is_none() {
        missing("no promtool; run scripts/fetch-promtool");
    }
    found
}

/// A `qemu-ga` that runs on this machine: the one that `QGA_STOCK_AGENT` names, that of
/// `scripts/fetch-guest`, or an installed one.
///
/// Without one it is [`missing`], and this is `None`.
pub fn stock_agent() -> Option<PathBuf> {
    if let Some(named) = env::var_os("QGA_STOCK_AGENT") {
        return Some(named.into());
    }
    let found = Some(guest_directory().join("qemu-ga"))
        .filter(|path| path.is_file())
        .or_else(|| program("qemu-ga"));
    if found.is_none() {
        missing("no qemu-ga; run scripts/fetch-guest");
    }
    found
}

/// An installed `qemu-ga`, for tests that run it where the unpacked one cannot start: in a root or
/// with a `PATH` of their own.
pub fn installed_stock_agent() -> Option<PathBuf> {
    let found = program("qemu-ga");
    if found.is_none() {
        unavailable("no installed qemu-ga, which this test runs in a root of its own");
    }
    found
}

/// A command whose program the kernel kills when the thread that starts it ends, so that a test that
/// is killed leaves nothing behind. Its pid is the program's.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let Some(setpriv) = self::program("setpriv") else { return Command::new(program) };
    // setpriv execs, so no unsafe `pre_exec` is needed here.
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Where a program is: in `PATH`, or where root's programs are.
pub fn program(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = Path::new(name.as_ref());
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
