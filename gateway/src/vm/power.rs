//! Shutting down and suspending: agents do not answer when it works, so what became of it is
//! looked for, and told as an event.
//!
//! ```text
//!   call ── refused ─────────────────────────────────────────────▶ power.failed
//!     │
//!     └─ no word against it ──▶ watch ── the agent stops answering ─▶ power.done
//!                                 ├──── after a reboot, it is in another boot ▶ power.done
//!                                 └──── it still answers at the end ▶ power.failed
//! ```

mod boot;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qga_proto::command::{Command, GuestPing};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::VmId;
use super::events::{Event, EventKind};
use super::handle::{CallError, CallOptions, VmHandle};
use crate::printable::printable;
use boot::Boot;

/// How often the agent is asked whether it is still there.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an agent that is there may take to say so.
const PATIENCE: Duration = Duration::from_secs(3);

/// The mode after which a guest comes back by itself.
const REBOOT: &str = "reboot";

/// What a guest is told to do with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOrder {
    /// `shutdown` or `suspend`.
    pub operation: &'static str,
    /// In which way.
    pub mode: &'static str,
}

/// Whose outcome is being looked for. One order per VM: the last one counts.
#[derive(Debug, Default)]
pub(crate) struct PowerWatches(Mutex<HashMap<VmId, Watch>>);

#[derive(Debug)]
struct Watch {
    order: u64,
    replaced: CancellationToken,
}

impl PowerWatches {
    fn begin(&self, vm: &VmId) -> (u64, CancellationToken) {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let order = watches.get(vm).map_or(0, |watch| watch.order + 1);
        let replaced = CancellationToken::new();
        let watch = Watch { order, replaced: replaced.clone() };
        if let Some(before) = watches.insert(vm.clone(), watch) {
            before.replaced.cancel();
        }
        (order, replaced)
    }

    fn end(&self, vm: &VmId, order: u64) {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watches.get(vm).is_some_and(|watch| watch.order == order) {
            watches.remove(vm);
        }
    }
}

impl VmHandle {
    /// Sends a command that ends or suspends the guest. The answer is what the agent said at once;
    /// what came of it is an event, also if nobody waits for the answer.
    pub async fn power<C>(
        &self,
        arguments: C,
        order: PowerOrder,
        options: CallOptions,
    ) -> Result<(), CallError>
    where
        C: Command + Send + 'static,
        C::Return: Send,
    {
        let (said, answer) = oneshot::channel();
        let vm = self.clone();
        tokio::spawn(async move {
            let boot = if order.mode == REBOOT { Boot::of(&vm).await } else { None };
            let result = vm.call(arguments, options).await.map(drop);
            let sent = result.clone();
            // A caller that has gone changes nothing.
            let _ = said.send(result);
            vm.follow(order, sent, boot).await;
        });
        let torn_down = || CallError::Interrupted { reason: "the gateway is going down".into() };
        answer.await.unwrap_or_else(|_| Err(torn_down()))
    }

    async fn follow(&self, order: PowerOrder, sent: Result<(), CallError>, boot: Option<Boot>) {
        let watches = &self.settings().power;
        let (number, replaced) = watches.begin(self.id());
        let outcome = match sent {
            Err(error) if !error.outcome_unknown() => Some(Err(printable(&error.to_string()))),
            _ => replaced.run_until_cancelled(self.watch(boot)).await,
        };
        watches.end(self.id(), number);
        // Of an order that another one replaced, nothing can be told.
        let Some(outcome) = outcome else { return };
        let (kind, name, text) = match outcome {
            Ok(evidence) => (EventKind::PowerDone, "evidence", evidence),
            Err(reason) => (EventKind::PowerFailed, "reason", reason),
        };
        let PowerOrder { operation, mode } = order;
        tracing::info!(vm.id = %self.id(), "{}: {operation} ({mode}): {kind}: {text}", self.id());
        let event = Event::new(kind).vm(self.id()).with("operation", operation).with("mode", mode);
        self.settings().events.publish(event.with(name, text));
    }

    /// Looks until the agent is gone, and gives what shows it; or why it seems not to be going.
    /// `boot`: the guest's before it was to reboot.
    async fn watch(&self, boot: Option<Boot>) -> Result<String, String> {
        let bound = self.settings().limits().power_watch;
        let until = Instant::now() + bound;
        let disruptions = self.disruptions();
        let mut link = self.link_changes();
        loop {
            if self.shared().is_closed() {
                return Ok("its socket is gone".into());
            }
            let status = link.borrow_and_update().clone();
            if !status.state.answers() {
                return Ok(format!("its link is {}", printable(&status.to_string())));
            }
            if self.disruptions() != disruptions {
                let what = self.last_disruption().map(|what| printable(&what));
                return Ok(what.unwrap_or_else(|| "its link broke".into()));
            }
            // It may be back already, in less time than anybody takes for silence.
            if let Some(before) = &boot
                && let Some(why) = Boot::of(self).await.and_then(|now| before.ended(&now))
            {
                return Ok(why.into());
            }
            // Nothing tells of a guest that restarts behind an open socket but its silence.
            let options =
                CallOptions { timeout: PATIENCE, reply_cap: 4 << 10, unless_disrupted: None };
            if let Err(CallError::TimedOut { sent: true, .. }) =
                self.call(GuestPing {}, options).await
            {
                return Ok(format!("its agent did not answer for {} s", PATIENCE.as_secs()));
            }
            if Instant::now() >= until {
                let bound = bound.as_secs_f64();
                return Err(format!("the guest's agent still answers after {bound} s"));
            }
            tokio::select! {
                _ = link.changed() => {}
                () = sleep(PAUSE.min(bound)) => {}
            }
        }
    }
}
