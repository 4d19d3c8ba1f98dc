//! Client and agent on one core.

use std::iter;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::contestant::Running;

/// An agent that can be held on one core together with the calling thread.
#[derive(Debug)]
pub(crate) struct OneCore {
    threads: Vec<Option<Pid>>,
    free: CpuSet,
    one: CpuSet,
}

impl OneCore {
    /// Its threads are those that it has now: a connection may have one of its own.
    pub(crate) fn with(agent: &Running) -> Result<Self> {
        let free = sched_getaffinity(None).context("asking for the cores")?;
        let last = (0..CpuSet::MAX_CPU).rfind(|&core| free.is_set(core)).context("no core")?;
        let mut one = CpuSet::new();
        one.set(last);
        let threads = iter::once(None).chain(agent.threads()?.into_iter().map(Some)).collect();
        Ok(Self { threads, free, one })
    }

    /// Runs `measure` on the one core, and frees both afterwards.
    pub(crate) fn during<T>(&self, measure: impl FnOnce() -> Result<T>) -> Result<T> {
        self.hold(&self.one)?;
        let measured = measure();
        self.hold(&self.free)?;
        measured
    }

    fn hold(&self, cores: &CpuSet) -> Result<()> {
        for &thread in &self.threads {
            sched_setaffinity(thread, cores).context("choosing a core")?;
        }
        Ok(())
    }
}
