//! What guests last said of themselves: reads that are alike share one guest call, and answers are
//! kept for those who take an older one.
//!
//! ```text
//!   read ── kept, and young enough ───────────────────────────────▶ answer
//!     ├──── asked already, nothing changed since ──▶ wait with it ──▶ answer
//!     └──── ask: a task of its own, so that nobody's hanging up matters ─▶ keep ─▶ answer
//! ```
//!
//! An answer is good for as long as nothing is known to have changed: no command that changes the
//! guest went through here, the link did not break, no other process or VM stands behind its id
//! ([`Stamp`]). A freeze is no such change, since it is what answers are kept for.
//!
//! A VM that nobody asks costs nothing here.

mod kept;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use qga_proto::command::{Command, CommandInfo};
use qga_proto::{ReplyError, ReplyText};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::kept::Kept;
use super::VmId;
use super::call::{CallError, CallOptions};
use super::handle::{Vm, VmHandle};

/// An answer of a guest, as it is given to callers.
#[derive(Debug)]
pub struct Snapshot {
    /// JSON.
    pub body: Bytes,
    /// The same for the same body, and for no other.
    pub tag: String,
    /// When it came.
    at: Instant,
    stamp: Stamp,
}

/// Makes a body of what the agent said.
pub(crate) type Translate = fn(&ReplyText) -> Result<Bytes, CallError>;

/// Everything that makes an answer old at once.
#[derive(Clone, Debug)]
struct Stamp {
    vm: Weak<Vm>,
    changes: u64,
    disruptions: u64,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        self.vm.ptr_eq(&other.vm)
            && (self.changes, self.disruptions) == (other.changes, other.disruptions)
    }
}

type Key = (VmId, &'static str);
type Outcome = Result<Arc<Snapshot>, CallError>;

/// All answers and all reads under way. Shared by all VMs.
#[derive(Debug, Default)]
pub(crate) struct Reads(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    kept: Kept,
    /// Few at a time: each is a call in a VM's queue, which is bounded.
    flights: Vec<Flight>,
}

/// A read under way.
#[derive(Debug)]
struct Flight {
    key: Key,
    stamp: Stamp,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Reads {
    /// Nothing panics under this lock, and no call is waited for.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot {
    fn new(body: Bytes, stamp: Stamp) -> Self {
        let hash = Sha256::digest(&body);
        let tag = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { body, tag, at: Instant::now(), stamp }
    }

    /// How long ago the guest said so.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }
}

impl VmHandle {
    /// What the guest last said to this command, however long ago, if nothing has changed since
    /// that is known of.
    pub(crate) fn known(&self, info: &CommandInfo) -> Option<Arc<Snapshot>> {
        let stamp = self.stamp();
        let mut table = self.settings().reads.table();
        table.kept.get(self.id(), info.name).filter(|snapshot| snapshot.stamp == stamp)
    }

    /// As [`known`](Self::known), without being a reason to keep it for longer.
    pub(crate) fn peek(&self, info: &CommandInfo) -> Option<Arc<Snapshot>> {
        let stamp = self.stamp();
        let kept = self.settings().reads.table().kept.peek(self.id(), info.name);
        kept.filter(|snapshot| snapshot.stamp == stamp)
    }

    /// Has a command without arguments that only reads answered: by what is kept, if it is at most
    /// that old, by a call that is under way for somebody else, or by one of its own.
    pub(crate) async fn read(
        &self,
        info: &'static CommandInfo,
        options: CallOptions,
        max_age: Option<Duration>,
        translate: Translate,
    ) -> Outcome {
        if let Some(max_age) = max_age
            && let Some(known) = self.known(info)
            && known.age() <= max_age
        {
            return Ok(known);
        }
        let until = Instant::now() + options.timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let options = CallOptions { timeout: left, ..options };
            let (mut outcome, own) = self.join(info, options, translate);
            let ended = timeout_at(until, outcome.wait_for(Option::is_some)).await;
            let ended = match ended {
                Ok(Ok(outcome)) => outcome.clone(),
                // Its task is gone: it panicked, or the runtime ends.
                Ok(Err(_)) => None,
                // Late by a moment, as the call itself will be.
                Err(_) => Some(Err(CallError::TimedOut { sent: true, after: options.timeout })),
            };
            match ended {
                // Whoever asked first had less time. Go on with what is left.
                Some(Err(CallError::TimedOut { .. })) if !own && Instant::now() < until => {}
                Some(outcome) => return outcome,
                None => {
                    let reason = "the gateway gave up on it".to_owned();
                    return Err(CallError::Interrupted { reason });
                }
            }
        }
    }

    /// The read that is under way and sees all that has been changed until now, or a new one.
    fn join(
        &self,
        info: &'static CommandInfo,
        options: CallOptions,
        translate: Translate,
    ) -> (watch::Receiver<Option<Outcome>>, bool) {
        let stamp = self.stamp();
        let mut table = self.settings().reads.table();
        let same = |flight: &&Flight| {
            flight.key.1 == info.name && flight.key.0 == *self.id() && flight.stamp == stamp
        };
        // One that nobody will end any more has no sender.
        let alive = |flight: &&Flight| flight.outcome.has_changed().is_ok();
        if let Some(flight) = table.flights.iter().filter(alive).find(same) {
            return (flight.outcome.clone(), false);
        }
        table.flights.retain(|flight| flight.outcome.has_changed().is_ok());
        let (ended, outcome) = watch::channel(None);
        let key = (self.id().clone(), info.name);
        let flight = Flight { key, stamp: stamp.clone(), outcome: outcome.clone() };
        table.flights.push(flight);
        drop(table);
        let vm = self.clone();
        tokio::spawn(async move {
            let said = vm.call_raw(info, "{}".into(), options).await;
            let body = said.and_then(|text| {
                let nothing = || CallError::BadReply { reason: "no answer".into() };
                translate(text.as_ref().ok_or_else(nothing)?)
                    .inspect_err(|_| vm.shared().counters.bad_replies.add(1))
            });
            let outcome = body.map(|body| Arc::new(Snapshot::new(body, stamp.clone())));
            let limits = vm.settings().limits();
            let mut table = vm.settings().reads.table();
            if let Ok(snapshot) = &outcome
                && stamp == vm.stamp()
            {
                table.kept.insert(vm.id(), info.name, snapshot.clone(), &limits);
            }
            // Under the lock, so that whoever finds no flight finds what it brought.
            ended.send_replace(Some(outcome));
            table.flights.retain(|flight| !flight.outcome.same_channel(&ended.subscribe()));
        });
        (outcome, true)
    }

    fn stamp(&self) -> Stamp {
        let vm = Arc::downgrade(self.shared());
        Stamp { vm, changes: self.changes(), disruptions: self.disruptions() }
    }
}

/// Decoded and written anew: what the type does not know of is left out, so that a guest cannot say
/// anything that the document does not.
pub(crate) fn translate<C, B>(text: &ReplyText) -> Result<Bytes, CallError>
where
    C: Command,
    B: From<C::Return> + Serialize,
{
    let bad = |reason: String| CallError::BadReply { reason };
    let value = text.decode::<C>().map_err(|error| match error {
        ReplyError::BadReply(reason) => bad(reason),
        error => bad(error.to_string()),
    })?;
    serde_json::to_vec(&B::from(value)).map(Bytes::from).map_err(|error| bad(error.to_string()))
}

/// Whether what a guest said of itself may be otherwise after this command. Files are not told of
/// in any read but by how full a filesystem is, which changes anyhow. What a program does while it
/// runs nobody is told of; following it must not make every answer old.
pub(super) fn outdates(info: &CommandInfo) -> bool {
    let follows = info.name.contains("-exec-") && info.name != "x-guest-exec-start";
    info.changes_guest
        && !follows
        && !info.name.contains("guest-file-")
        && !info.name.contains("-fsfreeze-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use qga_proto::command::COMMANDS;

    #[test]
    fn what_changes_a_guest_makes_its_answers_old_but_a_freeze_does_not() {
        let of = |name: &str| outdates(COMMANDS.iter().find(|c| c.name == name).expect(name));
        for name in [
            "guest-set-vcpus",
            "guest-set-time",
            "guest-fstrim",
            "guest-exec",
            "x-guest-exec-start",
        ] {
            assert!(of(name), "{name}");
        }
        for name in [
            "guest-ping",
            "guest-fsfreeze-freeze",
            "guest-fsfreeze-thaw",
            "x-guest-fsfreeze-renew",
            "guest-file-write",
            "guest-exec-status",
            "x-guest-exec-write",
            "guest-get-vcpus",
        ] {
            assert!(!of(name), "{name}");
        }
    }
}
