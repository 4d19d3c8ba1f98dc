//! Which boot of a guest this is, as far as its agent lets anybody know: a guest that reboots within
//! seconds behind an open socket shows itself by nothing else.

use std::time::Duration;

use qga_proto::command::{Command, CpuStats, GuestGetCpustats, LinuxCpuStats, XFsfreezeReport};

use crate::vm::capabilities::CommandState;
use crate::vm::handle::{CallOptions, VmHandle};

/// How long the agent may take to say it. It is asked before the order leaves.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counters of a kernel may go back by some ticks.
const SLACK_MS: u64 = 1000;

/// What tells one boot of a guest from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// Its name, by `qga-agent`.
    Named(String),
    /// For how many milliseconds its first processor has been there.
    Aged(u64),
}

impl Boot {
    /// Asks the agent, if it is one that can tell.
    pub(super) async fn of(vm: &VmHandle) -> Option<Self> {
        if let Some(report) = ask(vm, XFsfreezeReport {}).await {
            return Some(Self::Named(report.boot_id));
        }
        let stats = ask(vm, GuestGetCpustats {}).await?;
        let linux = stats.iter().filter_map(|stats| match stats {
            CpuStats::Linux(stats) => Some(stats),
            _ => None,
        });
        linux.min_by_key(|stats| stats.cpu).map(|stats| Self::Aged(age_ms(stats)))
    }

    /// Why the guest has been booted since, if `now` shows that it was.
    pub(super) fn ended(&self, now: &Self) -> Option<&'static str> {
        match (self, now) {
            (Self::Named(before), Self::Named(now)) if before != now => {
                Some("the agent is in another boot of the guest")
            }
            (Self::Aged(before), Self::Aged(now)) if now.saturating_add(SLACK_MS) < *before => {
                Some("the guest's processors have counted from nought again")
            }
            _ => None,
        }
    }
}

async fn ask<C: Command>(vm: &VmHandle, command: C) -> Option<C::Return> {
    if vm.capabilities()?.command(C::INFO.name) != Some(CommandState::Enabled) {
        return None;
    }
    let options = CallOptions { timeout: PATIENCE, reply_cap: 1 << 20, unless_disrupted: None };
    vm.call(command, options).await.ok()
}

fn age_ms(stats: &LinuxCpuStats) -> u64 {
    let more = [stats.iowait, stats.irq, stats.softirq, stats.steal];
    let more = more.into_iter().flatten();
    [stats.user, stats.nice, stats.system, stats.idle]
        .into_iter()
        .chain(more)
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::Boot::{Aged, Named};

    #[test]
    fn only_another_boot_is_another_boot() {
        let named = |name: &str| Named(name.into());
        assert!(named("a").ended(&named("b")).is_some());
        assert!(named("a").ended(&named("a")).is_none());
        assert!(Aged(60_000).ended(&Aged(2000)).is_some());
        for same in [Aged(60_000), Aged(59_500), Aged(61_000), named("a")] {
            assert!(Aged(60_000).ended(&same).is_none(), "{same:?}");
        }
    }
}
