//! The freeze itself, and what its answer, or the lack of one, means.

use std::time::SystemTime;

use qga_proto::command::{
    Command as _, CommandInfo, FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeFreezeList,
    GuestFsfreezeStatus, GuestSyncDelimited, frozen_count,
};

use super::{Guardian, VSS_HOLDS};
use crate::vm::boottime::BootTime;
use crate::vm::freeze::{Control, FreezeError, Reply};
use crate::vm::handle::{CallError, CallOptions};
use crate::vm::lease::{Lease, LeaseState, Policy, ThawCause};

/// How a freeze went.
pub(super) enum Froze {
    Yes(Lease),
    /// Nothing is frozen, and no lease remains.
    No(FreezeError),
    /// Something is or may be frozen, and must not be.
    Undo(FreezeError),
    /// Somebody asked for the thaw before the freeze was done.
    Stopped(ThawCause, Vec<Reply>),
}

impl Guardian {
    pub(super) async fn freeze(&mut self) -> Froze {
        // A sync first: a freeze must not run into what a thaw before it left on the wire.
        let sync = self.vm.options(&GuestSyncDelimited::INFO).timeout;
        if let Err(error) = self.vm.resync(sync).await {
            return Froze::No(not_begun(&GuestSyncDelimited::INFO, error));
        }
        match self.status().await {
            Ok(FsfreezeStatus::Thawed) => {}
            Ok(FsfreezeStatus::Frozen | FsfreezeStatus::Error) => {
                return Froze::No(FreezeError::AlreadyFrozen { lease: None });
            }
            Err(error) => return Froze::No(not_begun(&GuestFsfreezeStatus::INFO, error)),
        }
        self.disruptions = self.vm.disruptions();

        let vm = self.vm.clone();
        let mountpoints = self.request.mountpoints.clone();
        let options = self.vm.options(&GuestFsfreezeFreeze::INFO);
        let options = CallOptions { timeout: self.request.freeze_timeout, ..options };
        let mut freezing = Box::pin(async move {
            match mountpoints {
                None => vm.call(GuestFsfreezeFreeze {}, options).await,
                some => vm.call(GuestFsfreezeFreezeList { mountpoints: some }, options).await,
            }
        });
        loop {
            tokio::select! {
                result = &mut freezing => return self.froze(result).await,
                Some(control) = self.commands.recv() => match control {
                    Control::Renew { ttl, reply } => {
                        self.ttl = ttl;
                        let _ = reply.send(self.renewed());
                    }
                    // The thaw goes out behind the freeze, whose reply nobody needs any more.
                    Control::Thaw { cause, reply } => return Froze::Stopped(cause, vec![reply]),
                },
            }
        }
    }

    async fn froze(&mut self, result: Result<i64, CallError>) -> Froze {
        let count = match result.map(frozen_count) {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return self.refused(CallError::Agent(error)).await,
            Err(error) if error.outcome_unknown() => {
                let lease = self.id.clone();
                return Froze::Undo(FreezeError::OutcomeUnknown { lease, source: error });
            }
            Err(error @ (CallError::Agent(_) | CallError::Unsupported)) => {
                return self.refused(error).await;
            }
            Err(error) => return Froze::No(FreezeError::Call(error)),
        };
        let named = self.request.mountpoints.as_ref().map(|named| {
            let mut named: Vec<&str> = named.iter().map(String::as_str).collect();
            named.sort_unstable();
            named.dedup();
            named
        });
        let wanted = named.as_ref().map_or(0, |named| named.len() as u64);
        let required = self.request.policy == Policy::Required;
        if count == 0 && required {
            return match self.status().await {
                Ok(FsfreezeStatus::Thawed) => Froze::No(FreezeError::NothingToFreeze),
                _ => Froze::Undo(FreezeError::NothingToFreeze),
            };
        }
        if count < wanted && required {
            self.facts.frozen = Some(count);
            return Froze::Undo(FreezeError::Incomplete { wanted, frozen: count });
        }
        self.facts.frozen = Some(count);
        self.facts.incomplete = count < wanted || count == 0;
        self.facts.max_hold =
            self.vm.capabilities().is_some_and(|agent| agent.windows()).then_some(VSS_HOLDS);
        self.frozen_at = Some(BootTime::now());
        let skipped: Vec<String> = match named {
            // Which ones were left out, a stock agent does not say; of none, all were.
            Some(named) if count == 0 => named.into_iter().map(Into::into).collect(),
            _ => Vec::new(),
        };
        let now = SystemTime::now();
        let ttl = self.ttl;
        let lease = self.table.update(&self.id, |lease| {
            lease.state = LeaseState::Frozen;
            lease.filesystems = Some(count);
            if count < wanted {
                lease.evidence.push(format!("{count} of {wanted} named mount points were frozen"));
            }
            lease.skipped = skipped;
            lease.frozen_at = Some(now);
            lease.expires_at = Some(now + ttl);
        });
        lease.map_or(Froze::No(FreezeError::NotFound), Froze::Yes)
    }

    /// The guest answered the freeze with an error. qemu-ga thaws what it froze until then; make
    /// sure of it, unless the error says that somebody else was faster.
    async fn refused(&mut self, error: CallError) -> Froze {
        let disabled = matches!(&error, CallError::Agent(error) if error.is_disabled());
        match self.status().await {
            Ok(FsfreezeStatus::Thawed) => Froze::No(FreezeError::Call(error)),
            Ok(_) if disabled => Froze::No(FreezeError::FrozenMeanwhile),
            _ => Froze::Undo(FreezeError::Call(error)),
        }
    }
}

/// The freeze itself was never sent, whatever became of what went before it.
fn not_begun(command: &'static CommandInfo, source: CallError) -> FreezeError {
    match source {
        CallError::TimedOut { after, .. } => {
            FreezeError::Call(CallError::TimedOut { sent: false, after })
        }
        CallError::Unavailable { .. } | CallError::QueueFull => FreezeError::Call(source),
        source => FreezeError::NotBegun { command, source },
    }
}
