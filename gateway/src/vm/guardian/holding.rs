//! While a VM is frozen: its link, the guest's deadline, and orders.

use std::time::Duration;

use qga_proto::command::{Command as _, XFsfreezeRenew};
use tokio::time::{Instant, sleep_until};

use super::looking::Seen;
use super::{Guardian, Order, Orders};
use crate::vm::call::CallError;
use crate::vm::lease::{LeaseState, ThawCause};
use crate::vm::link::LinkState;

/// When to ask again a guest that did not say whether it is frozen.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl Guardian {
    /// Holds until the order to thaw, and thaws; or until the freeze is over by itself.
    pub(super) async fn hold(&mut self, orders: &mut Orders) {
        let mut link = self.vm.link_changes();
        let mut asked: Option<Instant> = None;
        let mut next: Option<Order> = None;
        loop {
            // The link was away, and is back: so may be another boot of the guest, or another VM.
            let due = asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN);
            let state = link.borrow_and_update().state;
            let unsure = self.seen != Some(self.vm.disruptions());
            if next.is_none() && unsure && state.answers() && due {
                asked = Some(Instant::now());
                let disruptions = self.vm.disruptions();
                let seen = tokio::select! {
                    biased;
                    order = orders.recv() => {
                        let Some(order) = order else { return };
                        next = Some(order);
                        continue;
                    }
                    seen = self.look() => seen,
                };
                if seen.is_ok_and(|seen| self.is_over(seen, disruptions)) {
                    return;
                }
            }
            let order = match next.take() {
                Some(order) => Some(order),
                None => {
                    let again = asked.unwrap_or_else(Instant::now) + ASK_AGAIN;
                    tokio::select! {
                        biased;
                        order = orders.recv() => order,
                        changed = link.changed() => {
                            if changed.is_ok() {
                                self.follow(link.borrow().state);
                            }
                            continue;
                        }
                        () = sleep_until(again), if unsure && state.answers() => continue,
                    }
                }
            };
            match order {
                Some(Order::Thaw { cause, told }) => {
                    return self.thaw(cause, Some(told), orders).await;
                }
                Some(Order::Renew { deadline, told }) => {
                    let result = tokio::select! {
                        biased;
                        order = orders.recv() => {
                            let Some(order) = order else { return };
                            next = Some(order);
                            let reason = "another order came first".into();
                            Err(CallError::Interrupted { reason })
                        }
                        result = self.renew(deadline) => result,
                    };
                    // What the agent refuses it has a reason for: the freeze may be over.
                    let refused = matches!(&result, Err(CallError::Agent(_)));
                    let disruptions = self.vm.disruptions();
                    let seen = if refused { self.look().await.ok() } else { None };
                    let over = seen.is_some_and(|seen| self.is_over(seen, disruptions));
                    let _ = told.send(result);
                    if over {
                        return;
                    }
                }
                Some(Order::Freeze { .. }) => {}
                None => return,
            }
        }
    }

    async fn renew(&self, deadline: Duration) -> Result<(), CallError> {
        if !self.leased() {
            return Ok(());
        }
        let renewal = XFsfreezeRenew {
            lease: self.lease.as_str().to_owned(),
            deadline_ms: i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX),
        };
        self.vm.call(renewal, self.vm.options(&XFsfreezeRenew::INFO)).await.map(drop)
    }

    fn follow(&self, state: LinkState) {
        if matches!(state, LinkState::Absent | LinkState::Refused) {
            self.away();
        }
    }

    pub(super) fn away(&self) {
        let link = self.vm.link();
        self.change(|member| {
            if member.state != LeaseState::Orphaned {
                member.state = LeaseState::Orphaned;
                member.note(format!("the VM's socket went away: {link}"));
            }
        });
    }

    /// Draws the conclusion from what a guest shows that nobody has thawed yet. True if it is over.
    fn is_over(&mut self, seen: Seen, disruptions: u64) -> bool {
        match seen {
            Seen::Ours => {
                let before = self.seen.replace(disruptions);
                let away = match before {
                    None => "the gateway was started anew",
                    Some(_) => "the link broke",
                };
                self.change(|member| {
                    if member.state == LeaseState::Orphaned {
                        member.state = LeaseState::Frozen;
                    }
                    if before != Some(disruptions) {
                        member.note(format!("{away}, and the guest is frozen as before"));
                    }
                });
                return false;
            }
            // A thaw may have left before the gateway was started anew, and a freeze may not.
            Seen::Thawed => {
                let by_others = !self.thawing.sent && (self.leased() || !self.resumed);
                self.facts.found_thawed = self.facts.frozen.is_some() && by_others;
                if !by_others && !self.thawing.sent {
                    let why = "found thawed after the gateway was started anew: by somebody else, \
                               or by a thaw that had just left";
                    self.change(|member| member.note(why.into()));
                }
            }
            Seen::ByUs(thawed) => self.facts.ended = Some(thawed),
            Seen::ByOthers(why) => {
                self.facts.found_thawed = true;
                self.change(|member| member.note(why));
            }
            Seen::NotOurs(why) => {
                self.lose(ThawCause::External, Some(why));
                return true;
            }
        }
        self.end(ThawCause::External, None);
        true
    }
}
