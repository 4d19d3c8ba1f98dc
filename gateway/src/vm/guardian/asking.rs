//! What is asked of a guest before anything is written or frozen.

use qga_proto::command::{
    Command, CommandInfo, FsfreezeStatus, GuestFsfreezeStatus, GuestGetFsinfo, GuestInfo,
    GuestSyncDelimited, XFsfreezeFreeze, XFsfreezeRenew, XFsfreezeReport, XFsfreezeThaw,
};
use tokio::sync::oneshot;

use super::{Guardian, Order, Orders, VSS_HOLDS};
use crate::vm::call::CallError;
use crate::vm::capabilities::{Capabilities, CommandState};
use crate::vm::freeze::FreezeError;
use crate::vm::handle::VmHandle;
use crate::vm::lease::{Guard, Policy, few};

/// What was found out.
struct Found {
    /// The agent has our freeze commands.
    leased: bool,
    windows: bool,
    /// The link's disruptions when the guest began to be asked.
    disruptions: u64,
    /// What is named and no mount point.
    unknown: Vec<String>,
}

impl Guardian {
    /// Asks, waits for the order, and freezes. False if nothing is frozen, or not any more.
    pub(super) async fn ask_and_freeze(
        &mut self,
        ready: oneshot::Sender<Result<(), FreezeError>>,
        orders: &mut Orders,
    ) -> bool {
        let found = match self.ask().await {
            Ok(found) => found,
            Err(error) => {
                let _ = ready.send(Err(error));
                return false;
            }
        };
        self.facts.leased = found.leased;
        self.facts.max_hold = found.windows.then_some(VSS_HOLDS);
        self.disruptions = found.disruptions;
        self.seen = Some(self.disruptions);
        let qemu = self.vm.incarnation();
        self.change(|member| {
            member.guard = if found.leased { Guard::GatewayAndAgent } else { Guard::Gateway };
            member.max_hold_seconds = found.windows.then_some(VSS_HOLDS.as_secs());
            member.qemu = qemu;
            member.skipped = few(found.unknown.iter().cloned());
            member.incomplete = !found.unknown.is_empty();
        });
        if let Some(named) = &mut self.plan.mountpoints {
            named.retain(|name| !found.unknown.contains(name));
        }
        self.unknown = found.unknown;
        let _ = ready.send(Ok(()));
        loop {
            match orders.recv().await {
                Some(Order::Freeze { until, told }) => {
                    return self.freeze(until, told, orders).await;
                }
                Some(Order::Thaw { told, .. }) => {
                    // No freeze was sent.
                    self.change(|member| {
                        member.state = crate::vm::lease::LeaseState::Failed;
                        member.note("not frozen: stopped before the freeze was sent".into());
                    });
                    let _ = told.send(Ok(()));
                    return false;
                }
                Some(Order::Renew { .. }) => {}
                None => return false,
            }
        }
    }

    async fn ask(&self) -> Result<Found, FreezeError> {
        // A sync first: a freeze must not run into what a thaw before it left on the wire.
        let sync = self.vm.options(&GuestSyncDelimited::INFO).timeout;
        let synced = self.vm.resync(sync).await;
        synced.map_err(|error| not_begun(&GuestSyncDelimited::INFO, error))?;
        let disruptions = self.vm.disruptions();
        match self.status().await {
            Ok(FsfreezeStatus::Thawed) => {}
            Ok(FsfreezeStatus::Frozen | FsfreezeStatus::Error) => {
                return Err(FreezeError::AlreadyFrozen { lease: None });
            }
            Err(error) => return Err(not_begun(&GuestFsfreezeStatus::INFO, error)),
        }
        let (leased, windows) = abilities(&self.vm).await?;
        let unknown = match &self.plan.mountpoints {
            Some(named) => self.unknown(named).await?,
            None => Vec::new(),
        };
        if !unknown.is_empty() && self.plan.policy == Policy::Required {
            return Err(FreezeError::NoMountPoint { names: unknown });
        }
        Ok(Found { leased, windows, disruptions, unknown })
    }

    /// Which of these are no mount points. None, where the agent cannot tell: then the count does.
    async fn unknown(&self, named: &[String]) -> Result<Vec<String>, FreezeError> {
        let mounted = match mounted(&self.vm).await {
            Ok(mounted) => mounted,
            Err(CallError::Agent(_) | CallError::Unsupported | CallError::BadReply { .. }) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(not_begun(&GuestGetFsinfo::INFO, error)),
        };
        let paths: Vec<&str> = mounted.iter().map(String::as_str).collect();
        Ok(unknown_among(&paths, named))
    }

    pub(super) async fn status(&self) -> Result<FsfreezeStatus, CallError> {
        let options = self.vm.options(&GuestFsfreezeStatus::INFO);
        self.vm.call(GuestFsfreezeStatus {}, options).await
    }
}

/// Where filesystems are mounted.
async fn mounted(vm: &VmHandle) -> Result<Vec<String>, CallError> {
    let options = vm.options(&GuestGetFsinfo::INFO);
    let filesystems = vm.call(GuestGetFsinfo {}, options).await?;
    Ok(filesystems.into_iter().map(|filesystem| filesystem.mountpoint).collect())
}

/// Whether the agent has our freeze commands, and whether it is Windows'.
async fn abilities(vm: &VmHandle) -> Result<(bool, bool), FreezeError> {
    if let Some(known) = vm.capabilities() {
        return Ok((is_leased(&known), known.windows()));
    }
    match vm.call(GuestInfo {}, vm.options(&GuestInfo::INFO)).await {
        Ok(info) => {
            let known = Capabilities::new(info, false, false);
            Ok((is_leased(&known), known.windows()))
        }
        // An agent that cannot say is a stock one.
        Err(CallError::Agent(_) | CallError::Unsupported | CallError::BadReply { .. }) => {
            Ok((false, false))
        }
        Err(error) => Err(not_begun(&GuestInfo::INFO, error)),
    }
}

fn is_leased(known: &Capabilities) -> bool {
    let names = [
        XFsfreezeFreeze::INFO.name,
        XFsfreezeRenew::INFO.name,
        XFsfreezeThaw::INFO.name,
        XFsfreezeReport::INFO.name,
    ];
    names.iter().all(|name| known.command(name) == Some(CommandState::Enabled))
}

/// What of `named` is not mounted.
pub(super) fn unknown_among(mounted: &[&str], named: &[String]) -> Vec<String> {
    let known = |name: &&String| mounted.iter().any(|path| same_path(path, name));
    let mut unknown: Vec<String> = named.iter().filter(|n| !known(n)).cloned().collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown
}

/// A trailing separator names the same directory.
pub(super) fn same_path(one: &str, other: &str) -> bool {
    let trim = |path: &str| {
        let trimmed = path.trim_end_matches(['/', '\\']);
        if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() }
    };
    trim(one) == trim(other)
}

/// The freeze itself was never sent, whatever became of what went before it.
pub(super) fn not_begun(command: &'static CommandInfo, source: CallError) -> FreezeError {
    match source {
        CallError::TimedOut { after, .. } => {
            FreezeError::Call(CallError::TimedOut { sent: false, after })
        }
        CallError::Unavailable { .. } | CallError::QueueFull => FreezeError::Call(source),
        source => FreezeError::NotBegun { command, source },
    }
}
