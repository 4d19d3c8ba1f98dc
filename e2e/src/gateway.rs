//! A `qga-gateway` process with a configuration of its own.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::process::Process;
use crate::rest::Rest;
use crate::wait::until;

/// Until it says that it is ready.
const READY_BOUND: Duration = Duration::from_secs(20);

/// A running gateway, killed when dropped.
#[derive(Debug)]
pub struct Gateway {
    program: PathBuf,
    dir: PathBuf,
    process: Process,
    /// A program that runs it, with arguments; none if empty.
    wrapper: Vec<OsString>,
}

impl Gateway {
    /// Starts `program` with the VMs named by `vms` (id and socket) and waits until it is ready.
    /// It keeps its socket, configuration and log in `dir`.
    ///
    /// # Errors
    /// It does not become ready; the message holds its log.
    pub fn start(program: &Path, dir: &Path, vms: &[(&str, PathBuf)]) -> Result<Self> {
        Self::start_on(program, dir, vms, None)
    }

    /// As [`Gateway::start`], listening on `tcp` too.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_on(
        program: &Path,
        dir: &Path,
        vms: &[(&str, PathBuf)],
        tcp: Option<SocketAddr>,
    ) -> Result<Self> {
        let mut listen = String::new();
        if let Some(tcp) = tcp {
            let token = dir.join("token");
            listen = format!("tcp = \"{tcp}\"\ntoken_file = {token:?}\n");
        }
        let vms: Vec<_> =
            vms.iter().map(|(id, socket)| ((*id).to_owned(), socket.clone())).collect();
        Self::start_with(program, dir, &listen, &vms)
    }

    /// As [`Gateway::start`]; `config` goes on where the table `[listen]` has begun, and may begin
    /// others.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_with(
        program: &Path,
        dir: &Path,
        config: &str,
        vms: &[(String, PathBuf)],
    ) -> Result<Self> {
        Self::start_wrapped(program, dir, config, vms, Vec::new())
    }

    /// As [`Gateway::start_with`]; the program `wrapper` is started and must run what comes behind
    /// its own arguments in its own place.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_wrapped(
        program: &Path,
        dir: &Path,
        config: &str,
        vms: &[(String, PathBuf)],
        wrapper: Vec<OsString>,
    ) -> Result<Self> {
        use std::fmt::Write as _;
        let mut text = String::new();
        writeln!(text, "state_dir = {:?}", dir.join("state"))?;
        write!(text, "[listen]\nunix = {:?}\n{config}\n", dir.join("api.sock"))?;
        for (id, socket) in vms {
            write!(text, "\n[[vm]]\nid = {id:?}\nsocket = {socket:?}\n")?;
        }
        fs::write(dir.join("gateway.toml"), text)?;
        let process = spawn(program, dir, &wrapper)?;
        Ok(Self { program: program.to_owned(), dir: dir.to_owned(), process, wrapper })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// The file that holds the token for TCP.
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// A client of it.
    pub fn rest(&self) -> Rest {
        Rest::new(&self.socket())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("gateway.log")).unwrap_or_default()
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Sends it `signal`.
    ///
    /// # Errors
    /// It has gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Stops it in its own order: it thaws what it froze, and ends. Killed after `grace`.
    pub fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.process.stop(grace)
    }

    /// Ends it as a restart does, with SIGUSR2: what it holds stays for the next one. Killed after
    /// `grace`.
    pub fn hand_over(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.process.end_on(Signal::USR2, grace)
    }

    /// The next start takes this program, as after an upgrade.
    pub fn upgrade_to(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same configuration and waits until it is ready.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(&self.program, &self.dir, &self.wrapper)?;
        Ok(())
    }

    /// The same with another wrapper.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_again_in(&mut self, wrapper: Vec<OsString>) -> Result<()> {
        self.wrapper = wrapper;
        self.start_again()
    }
}

fn spawn(program: &Path, dir: &Path, wrapper: &[OsString]) -> Result<Process> {
    let log = dir.join("gateway.log");
    let config = dir.join("gateway.toml");
    let mut words = wrapper.to_vec();
    words.extend([program.into(), "--config".into(), config.into()]);
    let first = PathBuf::from(words.remove(0));
    let mut process = Process::spawn(&first, words, &log)?;
    let rest = Rest::new(&dir.join("api.sock"));
    until("the gateway's /readyz", READY_BOUND, || {
        if let Some(status) = process.ended()? {
            bail!("the gateway ended: {status}");
        }
        Ok(rest.get("/readyz").ok().filter(|reply| reply.status == 200).map(drop))
    })
    .with_context(|| {
        format!(
            "the gateway does not come up; its log:\n{}",
            fs::read_to_string(&log).unwrap_or_default()
        )
    })?;
    Ok(process)
}
