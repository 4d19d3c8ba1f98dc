//! The agents that are measured, and how each is started.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qga_e2e::{Process, until};
use rustix::process::Pid;

use crate::link::{Link, PING};

/// Columns of the agents' table; ours is the last.
pub(crate) const STOCK: usize = 0;
pub(crate) const BARE: usize = 1;

/// Until an agent answers its first ping.
const START_BOUND: Duration = Duration::from_secs(20);
/// qemu-ga must never freeze the machine that it is measured on.
const NEVER: &str = "guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-shutdown";

/// An agent's program.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// Debian's; with its own loader and libraries where it is only unpacked.
    Stock { agent: PathBuf, unpacked: Option<PathBuf> },
    /// This program, as the fixed-answer server.
    Bare,
    /// Ours.
    Ours(PathBuf),
}

impl Program {
    /// Debian's agent: the one that `QGA_STOCK_AGENT` names, the one unpacked into `target/guest`,
    /// or an installed one.
    pub(crate) fn stock(target: &Path) -> Result<Self, String> {
        let plain = |agent| Self::Stock { agent, unpacked: None };
        if let Some(named) = env::var_os("QGA_STOCK_AGENT") {
            return Ok(plain(named.into()));
        }
        // Not by the script beside it, which would be measured too.
        let root = target.join("guest/stock");
        let agent = root.join("usr/sbin/qemu-ga");
        if agent.is_file() {
            return Ok(Self::Stock { agent, unpacked: Some(root) });
        }
        qga_testing::program("qemu-ga")
            .map(plain)
            .ok_or_else(|| "none in target/guest nor installed; run scripts/fetch-guest".into())
    }

    /// Our agent: the one named, else as built with cargo's profile `agent`.
    pub(crate) fn ours(named: Option<PathBuf>, target: &Path) -> Result<Self, String> {
        let built = ["x86_64-unknown-linux-gnu/agent/qga-agent", "agent/qga-agent"];
        let found = named
            .or_else(|| env::var_os("QGA_E2E_AGENT").map(PathBuf::from))
            .or_else(|| built.iter().map(|path| target.join(path)).find(|path| path.is_file()))
            .ok_or("no qga-agent built with cargo's profile `agent`")?;
        daemon(found).map(Self::Ours)
    }

    pub(crate) fn is_bare(&self) -> bool {
        matches!(self, Self::Bare)
    }

    /// The file that holds the program.
    pub(crate) fn file(&self) -> Result<PathBuf> {
        match self {
            Self::Stock { agent, .. } | Self::Ours(agent) => Ok(agent.clone()),
            Self::Bare => env::current_exe().context("finding this program"),
        }
    }

    /// The shared libraries that the loader names for it; none if it is static.
    pub(crate) fn libraries(&self) -> Result<Vec<PathBuf>> {
        let (loader, search) = match self {
            Self::Stock { unpacked: Some(root), .. } => {
                (root.join(LOADER), Some(root.join(LIBRARIES)))
            }
            _ => (Path::new("/").join(LOADER), None),
        };
        let mut command = Command::new(&loader);
        if let Some(search) = search {
            command.arg("--library-path").arg(search);
        }
        let listed = command
            .arg("--list")
            .arg(self.file()?)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("asking {} for libraries", loader.display()))?;
        // `libx.so => /path/libx.so (0x…)`; the loader itself has no arrow.
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut libraries: Vec<PathBuf> = text
            .lines()
            .filter_map(|line| line.split_once(" => ")?.1.split_whitespace().next())
            .map(PathBuf::from)
            .collect();
        if !libraries.is_empty() {
            libraries.push(loader);
        }
        Ok(libraries)
    }

    fn command(&self, dir: &Path) -> Result<(PathBuf, Vec<OsString>)> {
        let socket = dir.join("agent.sock").into_os_string();
        let mut args: Vec<OsString> = Vec::new();
        let file = match self {
            Self::Bare => {
                args.extend(["bare-agent".into(), socket]);
                return Ok((self.file()?, args));
            }
            Self::Stock { agent, unpacked: Some(root) } => {
                args.extend(["--library-path".into(), root.join(LIBRARIES).into()]);
                args.push(agent.into());
                root.join(LOADER)
            }
            Self::Stock { agent, unpacked: None } | Self::Ours(agent) => agent.clone(),
        };
        args.extend(["-m".into(), "unix-listen".into(), "-p".into(), socket]);
        args.extend(["-t".into(), dir.into(), "-f".into(), dir.join("agent.pid").into()]);
        if let Self::Stock { .. } = self {
            args.extend(["-b".into(), NEVER.into()]);
        }
        Ok((file, args))
    }

    /// Starts it in a directory of its own and waits for its first answer.
    pub(crate) fn start(&self, dir: &Path) -> Result<Running> {
        fs::create_dir_all(dir)?;
        let (file, args) = self.command(dir)?;
        let log = dir.join("agent.log");
        let mut process = Process::spawn(&file, args, &log)?;
        let socket = dir.join("agent.sock");
        until("the agent's first answer", START_BOUND, || {
            if let Some(status) = process.ended()? {
                bail!("it ended: {status}");
            }
            Ok(first_answer(&socket).ok())
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Running { process, socket })
    }

    /// Starts it without the wrapper that ties it to this program, so that the time is all its
    /// own; the guard kills it.
    pub(crate) fn start_untied(&self, dir: &Path) -> Result<Untied> {
        fs::create_dir_all(dir)?;
        let (file, args) = self.command(dir)?;
        let child = Command::new(&file)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", file.display()))?;
        Ok(Untied { child, socket: dir.join("agent.sock") })
    }
}

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Takes a path for a daemon only if it knows its version: an unfinished program does not.
pub(crate) fn daemon(path: PathBuf) -> Result<PathBuf, String> {
    match Command::new(&path).arg("--version").stdin(Stdio::null()).output() {
        Ok(done) if done.status.success() && !done.stdout.is_empty() => Ok(path),
        Ok(_) => Err(format!("{} tells no version: it is not finished", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Connects, pings and checks the answer.
pub(crate) fn first_answer(socket: &Path) -> Result<Link> {
    let mut link = Link::connect(socket)?;
    let reply = link.ask(PING)?;
    ensure!(reply == b"{\"return\": {}}\n", "not a ping's answer: {reply:?}");
    Ok(link)
}

/// An agent that answers; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    pub(crate) socket: PathBuf,
}

impl Running {
    /// Its threads.
    pub(crate) fn threads(&self) -> Result<Vec<Pid>> {
        fs::read_dir(format!("/proc/{}/task", self.process.id()))?
            .map(|entry| {
                let name = entry?.file_name();
                let id = name.to_str().and_then(|name| name.parse().ok());
                id.and_then(Pid::from_raw).context("a thread without a number")
            })
            .collect()
    }

    /// How often its threads have been switched to, all together.
    pub(crate) fn switches(&self) -> Result<u64> {
        let mut all = 0;
        for thread in self.threads()? {
            let path = format!("/proc/{}/task/{thread}/status", self.process.id());
            let status = fs::read_to_string(path)?;
            let counts = status.lines().filter(|line| line.contains("voluntary_ctxt_switches:"));
            for line in counts {
                let count = line.split_whitespace().last().context("no count")?;
                all += count.parse::<u64>()?;
            }
        }
        Ok(all)
    }

    /// How many descriptors its threads have open. Tables that look the same count once: mostly
    /// they are one table.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        let mut tables = BTreeSet::new();
        for thread in self.threads()? {
            let dir = format!("/proc/{}/task/{thread}/fd", self.process.id());
            let table: Result<BTreeMap<OsString, PathBuf>> = fs::read_dir(dir)?
                .map(|entry| {
                    let entry = entry?;
                    Ok((entry.file_name(), fs::read_link(entry.path())?))
                })
                .collect();
            tables.insert(table?);
        }
        Ok(tables.iter().map(BTreeMap::len).sum())
    }

    /// Memory in MiB, from the line of `/proc/…/status` with this name.
    pub(crate) fn memory(&self, name: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = value.and_then(|value| value.strip_suffix("kB")).context("no such line")?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    }
}

/// An agent on its way up; killed when dropped.
#[derive(Debug)]
pub(crate) struct Untied {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Drop for Untied {
    fn drop(&mut self) {
        // Both fail only for a program that is gone, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
