//! `cp -r`: directories with all that is in them, either way. Links are not followed, and said.

mod down;
mod name;
mod up;

use std::path::Path;
use std::process::ExitCode;

use indicatif::ProgressBar;
use qga_gateway::client::{Failure, Gateway, printable};

use self::name::Name;
use super::bar::bar;
use super::{Options, Remote};
use crate::cli::exit;
use crate::cli::out::say;

/// Directories within directories.
const DEPTH: usize = 128;

/// Of what is left out, this much is said one by one.
const SAID: u64 = 20;

/// Out of a guest; what is there may be a file after all.
pub(super) async fn down(
    options: &Options,
    gateway: &Gateway,
    from: &Remote,
    to: &Path,
) -> anyhow::Result<ExitCode> {
    let shown = gateway.get(&from.shown()).await.map_err(|e| no_lists(e, from))?;
    if shown["stat"]["kind"] != "directory" {
        return super::down::file(options, gateway, from, to).await.map(|()| ExitCode::SUCCESS);
    }
    let mut tally = Tally::new(options, &from.to_string());
    down::copy(options, gateway, from, to, shown, &mut tally).await?;
    Ok(tally.told())
}

/// Into a guest, of a directory here.
pub(super) async fn up(
    options: &Options,
    gateway: &Gateway,
    from: &Path,
    to: &Remote,
) -> anyhow::Result<ExitCode> {
    let mut tally = Tally::new(options, &to.to_string());
    up::copy(options, gateway, from, to, &mut tally).await?;
    Ok(tally.told())
}

/// Where directories cannot be listed or made, what can be done instead.
fn no_lists(failure: Failure, remote: &Remote) -> anyhow::Error {
    if failure.code() != Some("command_unsupported") {
        return failure.into();
    }
    let vm = &remote.vm;
    anyhow::Error::from(failure).context(format!(
        "{vm} has a stock agent, which lists no directories and makes none: -r needs qga-agent there. \
         A tar through a pipe does it with every agent: qga-gateway exec {vm} -- tar -C DIRECTORY -cf - . \
         | tar -C DIRECTORY -xf -, and the other way round with exec -i"
    ))
}

/// Whether the others can be copied all the same.
fn is_of_one(error: &anyhow::Error) -> bool {
    let Some(failure) = error.downcast_ref::<Failure>() else { return true };
    match failure {
        Failure::Refused(refusal) => matches!(
            refusal.problem["code"].as_str(),
            Some(
                "file_not_found"
                    | "guest_permission_denied"
                    | "file_exists"
                    | "is_a_directory"
                    | "not_a_directory"
                    | "not_a_file"
                    | "file_busy"
                    | "digest_mismatch"
                    | "agent_error"
            )
        ),
        // One that became shorter. If it is the gateway that is gone, the next one tells.
        Failure::Broken { .. } => true,
        Failure::Unreachable { .. } => false,
    }
}

/// What has been copied and what has not.
struct Tally {
    quiet: bool,
    /// What may be looked at still: whoever makes a list may make it without end.
    left: u64,
    most: u64,
    files: u64,
    directories: u64,
    skipped: u64,
    failed: u64,
    bar: ProgressBar,
}

impl Tally {
    fn new(options: &Options, name: &str) -> Self {
        Self {
            quiet: options.quiet,
            left: options.max_entries,
            most: options.max_entries,
            files: 0,
            directories: 0,
            skipped: 0,
            failed: 0,
            bar: bar(options.quiet, name, None, 0),
        }
    }

    /// One more that is looked at.
    fn look(&mut self) -> anyhow::Result<()> {
        let left = self.left.checked_sub(1);
        self.left = left.ok_or_else(|| {
            anyhow::anyhow!(
                "there are more than {} files and directories; nothing more is copied. --max-entries \
                 says how many may be",
                self.most
            )
        })?;
        Ok(())
    }

    /// Left out on purpose.
    fn skip(&mut self, what: &str, why: &str) {
        self.skipped += 1;
        if !self.quiet && self.skipped <= SAID {
            self.bar.suspend(|| say(&format!("{what}: {why}; left out")));
        }
    }

    /// Goes on without it, if others may go well.
    fn fail(&mut self, what: &str, error: anyhow::Error) -> anyhow::Result<()> {
        if !is_of_one(&error) {
            return Err(error.context(what.to_owned()));
        }
        self.failed += 1;
        if self.failed <= SAID {
            self.bar.suspend(|| say(&format!("{what}: {error:#}")));
        }
        Ok(())
    }

    fn told(self) -> ExitCode {
        self.bar.finish_and_clear();
        let Self { quiet, files, directories, skipped, failed, .. } = self;
        if !quiet || failed > 0 {
            let left = match (skipped, failed) {
                (0, 0) => String::new(),
                (skipped, 0) => format!("; {skipped} left out"),
                (skipped, failed) => format!("; {skipped} left out, {failed} could not be copied"),
            };
            say(&format!("{files} files in {directories} directories{left}"));
        }
        if failed > 0 { exit::REFUSED.into() } else { ExitCode::SUCCESS }
    }
}

/// What a file is that is neither a file nor a directory, and why it stays.
fn left_out(kind: &str) -> &'static str {
    match kind {
        "symlink" => "a link, which is not followed",
        "fifo" | "socket" | "block-device" | "char-device" => "no file that has a content",
        _ => "unknown what it is",
    }
}

/// Fit for a terminal, whatever it is called.
fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}
