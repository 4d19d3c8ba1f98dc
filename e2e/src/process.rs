//! Child programs that leave nothing behind.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{until, until_even_interrupted};

/// A running program, killed when dropped, and by the kernel when the spawning thread ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `program` with its output appended to `log`.
    ///
    /// # Errors
    /// The log cannot be opened or the program cannot be started.
    pub fn spawn(
        program: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
    ) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        // setpriv execs, so the pid stays and no unsafe `pre_exec` is needed here.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A terminal's Ctrl-C is for the program that will stop this one in its own order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {} (by setpriv)", program.display()))?;
        Ok(Self { child })
    }

    /// The program's pid.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// The program has gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("pid out of range")?, signal).context("sending a signal")
    }

    /// Kills it as `kill -9` does and reaps it.
    pub fn kill(&mut self) {
        // Both fail only for a program that is gone, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Asks it to end with SIGTERM, and kills it if it has not done so after `grace`; gives how
    /// it ended by itself.
    pub fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.end_on(Signal::TERM, grace)
    }

    /// The same with another signal.
    pub fn end_on(&mut self, signal: Signal, grace: Duration) -> Option<ExitStatus> {
        let asked = self.signal(signal);
        let ended = asked
            .and_then(|()| until_even_interrupted("a child's exit", grace, || self.ended()))
            .ok();
        self.kill();
        ended
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("waiting for a child")
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It still runs after `bound`.
    pub fn wait_exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        until("a child's exit", bound, || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
