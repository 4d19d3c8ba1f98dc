//! Many machines in one process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use super::hostile::{Attack, Hostile};
use super::machine::{Blueprint, Machine};

/// The threads and the directory of simulated machines, which end with it.
#[derive(Debug)]
pub struct Fleet {
    runtime: Option<Runtime>,
    dir: PathBuf,
}

impl Fleet {
    /// Sockets go to `dir`.
    ///
    /// # Errors
    /// No threads can be had.
    pub fn new(dir: &Path) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fleet")
            .enable_all()
            .build()
            .context("starting the fleet's threads")?;
        Ok(Self { runtime: Some(runtime), dir: dir.to_owned() })
    }

    /// Starts a machine whose socket is `NAME.sock`.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn machine(&self, name: &str, blueprint: &Blueprint) -> Result<Machine> {
        self.machine_at(&self.dir.join(format!("{name}.sock")), blueprint)
    }

    /// Starts a machine at a socket, whosever that was before.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn machine_at(&self, socket: &Path, blueprint: &Blueprint) -> Result<Machine> {
        // It is there until the fleet is dropped.
        let runtime = self.runtime.as_ref().context("the fleet has ended")?;
        Machine::start(runtime.handle(), socket, blueprint)
    }

    /// Starts `count` alike machines, named `vm-00000` and so on from number `first`.
    ///
    /// # Errors
    /// One cannot listen; each needs two descriptors once it has a client.
    pub fn machines(
        &self,
        first: usize,
        count: usize,
        blueprint: &Blueprint,
    ) -> Result<Vec<Machine>> {
        raise_descriptors()?;
        (first..first + count)
            .map(|number| {
                let seed = blueprint.seed + number as u64;
                self.machine(&name(number), &Blueprint { seed, ..blueprint.clone() })
            })
            .collect()
    }

    /// Starts a guest that is out to do harm.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn hostile(&self, name: &str, attack: Attack) -> Result<Hostile> {
        self.hostile_at(&self.dir.join(format!("{name}.sock")), attack)
    }

    /// The same at a socket, whosever that was before.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn hostile_at(&self, socket: &Path, attack: Attack) -> Result<Hostile> {
        let runtime = self.runtime.as_ref().context("the fleet has ended")?;
        Hostile::start(runtime.handle(), socket, attack)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// The name of one of many.
pub fn name(number: usize) -> String {
    format!("vm-{number:05}")
}

/// As many descriptors as the kernel allows this process, and root any.
///
/// # Errors
/// The kernel refuses what it has just offered.
pub fn raise_descriptors() -> Result<()> {
    const ENOUGH: u64 = 200_000;
    let now = getrlimit(Resource::Nofile);
    let high = Rlimit { current: Some(ENOUGH), maximum: Some(ENOUGH) };
    if now.maximum.is_none_or(|most| most >= ENOUGH) || setrlimit(Resource::Nofile, high).is_err() {
        let most = Rlimit { current: now.maximum, maximum: now.maximum };
        setrlimit(Resource::Nofile, most).context("raising the limit of open files")?;
    }
    Ok(())
}
