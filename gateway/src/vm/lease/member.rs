//! One VM of a lease.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Guard, LeaseState, ThawCause, Verdict, cut};
use crate::vm::boottime::BootTime;
use crate::vm::{Incarnation, VmId};

/// One VM of a lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The VM.
    pub vm: VmId,
    /// Where it stands.
    pub state: LeaseState,
    /// How many filesystems the kernel froze.
    pub filesystems: Option<u64>,
    /// Mount points that were to be frozen and are not, as far as the agent tells.
    pub skipped: Vec<String>,
    /// When the last filesystem was frozen.
    #[serde(with = "super::record::wall::option", default)]
    pub frozen_at: Option<SystemTime>,
    /// When the guest said that it has thawed.
    #[serde(with = "super::record::wall::option", default)]
    pub thawed_at: Option<SystemTime>,
    /// Why it was thawed.
    pub thaw_cause: Option<ThawCause>,
    /// Whether the filesystems stood still all the time; `None` until it ends, and if it never
    /// froze.
    pub verdict: Option<Verdict>,
    /// What the verdict rests on, as sentences.
    pub evidence: Vec<String>,
    /// What the guest's thaw complained of, although it thawed.
    pub thaw_error: Option<String>,
    /// How long this guest can hold at all: 10 s on Windows.
    pub max_hold_seconds: Option<u64>,
    /// Who thaws if the caller does not. With `gateway+agent` the guest knows the lease by name.
    pub guard: Guard,
    /// The process behind the VM's socket when it froze: another one is another VM.
    pub qemu: Option<Incarnation>,
    /// What the agent said of its freeze.
    pub(crate) agent: Option<AgentFreeze>,
    /// When the last filesystem was frozen, by the clock of deadlines.
    pub(crate) frozen_boot: Option<BootTime>,
    /// Something asked for is not frozen.
    pub(crate) incomplete: bool,
}

/// What tells one freeze of `qga-agent` from all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentFreeze {
    /// The guest's boot.
    pub(crate) boot_id: String,
    /// The agent's run.
    pub(crate) instance: String,
    /// The number of the freeze.
    pub(crate) generation: u64,
}

impl AgentFreeze {
    /// As the guest says; what is longer than any such id is cut.
    pub(crate) fn new(boot_id: String, instance: String, generation: u64) -> Self {
        Self { boot_id: cut(boot_id), instance: cut(instance), generation }
    }
}

impl Member {
    /// One that is about to be frozen.
    pub(crate) fn new(vm: VmId) -> Self {
        Self {
            vm,
            state: LeaseState::Freezing,
            filesystems: None,
            skipped: Vec::new(),
            frozen_at: None,
            thawed_at: None,
            thaw_cause: None,
            verdict: None,
            evidence: Vec::new(),
            thaw_error: None,
            max_hold_seconds: None,
            guard: Guard::Gateway,
            qemu: None,
            agent: None,
            frozen_boot: None,
            incomplete: false,
        }
    }

    /// What it takes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        let lines = self.skipped.iter().chain(&self.evidence).chain(&self.thaw_error);
        let agent = self.agent.as_ref().map_or(0, |a| a.boot_id.len() + a.instance.len());
        let text: usize = lines.map(|line| size_of::<String>() + line.len()).sum();
        size_of::<Self>() + self.vm.as_str().len() + agent + text
    }

    /// Whether it is over: its guest needs nothing any more.
    pub fn ended(&self) -> bool {
        self.verdict.is_some() || self.state == LeaseState::Failed
    }

    /// Notes a sentence, of which no guest can make more than a few, nor any long ones.
    pub(crate) fn note(&mut self, sentence: String) {
        const MOST: usize = 16;
        let sentence = cut(sentence);
        match self.evidence.len() {
            n if n < MOST => self.evidence.push(sentence),
            // The verdict's own reason comes last and must be there.
            _ => self.evidence[MOST - 1] = sentence,
        }
    }
}
