//! Whose freeze a guest is in, if in any: asked whenever the link was away, and whenever a thaw is
//! not answered as it should be.

use qga_proto::command::{
    Command as _, FreezeState, FsfreezeReport, FsfreezeStatus, ThawCause as AgentCause,
    XFsfreezeReport,
};

use super::Guardian;
use crate::vm::call::CallError;
use crate::vm::lease::{AgentFreeze, cut};
use crate::vm::verdict::Thawed;

/// What was seen.
pub(super) enum Seen {
    /// Frozen by this lease.
    Ours,
    /// Thawed, and by whom it cannot be told.
    Thawed,
    /// Thawed for this lease: by a thaw whose answer got lost.
    ByUs(Thawed),
    /// Thawed by something else: why.
    ByOthers(String),
    /// Whatever is there, this freeze is not in it: why.
    NotOurs(String),
}

impl Guardian {
    pub(super) async fn look(&self) -> Result<Seen, CallError> {
        if !self.leased() {
            return self.look_plain().await;
        }
        let options = self.vm.options(&XFsfreezeReport::INFO);
        match self.vm.call(XFsfreezeReport {}, options).await {
            Ok(report) => Ok(self.read_report(&report)),
            // Another agent has the guest now. It sees the marker that ours has left.
            Err(CallError::Unsupported) => self.look_plain().await,
            Err(error) => Err(error),
        }
    }

    async fn look_plain(&self) -> Result<Seen, CallError> {
        let status = self.status().await?;
        if let Some(why) = self.other_process() {
            return Ok(Seen::NotOurs(match status {
                FsfreezeStatus::Thawed => format!("{why}, and its guest is thawed"),
                _ => format!("{why}, and its guest is frozen, but not by this lease"),
            }));
        }
        Ok(if status == FsfreezeStatus::Thawed { Seen::Thawed } else { Seen::Ours })
    }

    /// Another process behind the socket is another VM, or another run of it.
    pub(super) fn other_process(&self) -> Option<String> {
        let before = self.read(|member| member.qemu).flatten()?;
        let now = self.vm.incarnation()?;
        (before != now)
            .then(|| format!("the VM's socket is that of {now} now, and was of {before}"))
    }

    fn read_report(&self, report: &FsfreezeReport) -> Seen {
        let lease = Some(self.lease.as_str());
        if report.state != FreezeState::Thawed {
            return if report.lease.as_deref() == lease {
                Seen::Ours
            } else {
                let owner = report
                    .lease
                    .as_deref()
                    .map_or_else(|| "no lease".into(), |l| format!("lease {l}"));
                Seen::NotOurs(format!("the guest is in another freeze now, by {owner}"))
            };
        }
        let Some(thaw) = report.last_thaw.as_ref().filter(|t| t.lease.as_deref() == lease) else {
            let began = self.facts.began.as_ref();
            return match began.filter(|began| began.boot_id != cut(report.boot_id.clone())) {
                Some(_) => Seen::ByOthers("the guest was started anew".into()),
                None => Seen::Thawed,
            };
        };
        if thaw.cause == AgentCause::Lease {
            // The results are those of the last freeze, which may be a later one.
            let same = report.generation == thaw.generation;
            let (boot, instance) = (report.boot_id.clone(), report.agent_instance.clone());
            let by = AgentFreeze::new(boot, instance, thaw.generation);
            let filesystems = if same { report.filesystems.clone() } else { Vec::new() };
            return Seen::ByUs(Thawed::new(thaw.count, by, filesystems));
        }
        let seconds = thaw.ago_ms / 1000;
        let cause = match thaw.cause {
            AgentCause::Requested => "somebody asked for it, not this gateway",
            AgentCause::Deadline => "its own deadline",
            AgentCause::Stopped => "the agent was stopped",
            AgentCause::Rollback => "the freeze failed half-way",
            AgentCause::Restart => "the agent or the guest was started anew",
            AgentCause::Lease => "by this lease",
        };
        Seen::ByOthers(format!("the agent thawed {seconds} s ago: {cause}"))
    }
}
