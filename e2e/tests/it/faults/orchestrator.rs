//! What a backup orchestrator does, and what it saw.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use qga_e2e::sim::Truth;
use qga_e2e::{Reply, Rest};
use serde_json::json;

use super::bed::{Bed, FREEZE_TIMEOUT, TTL};
use super::case::{Case, Point};
use crate::fleet::id;

/// What the orchestrator saw, and what was true when it did.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The answer to the freeze; `None` if the connection broke.
    pub(super) frozen: Option<Reply>,
    /// The truth when that answer came.
    pub(super) at_frozen: Vec<Truth>,
    pub(super) renewed: Option<Reply>,
    /// The truth when the thaw was about to be asked for, and when it was answered.
    pub(super) at_thaw: Vec<Truth>,
    pub(super) thawed: Option<Reply>,
}

impl Seen {
    pub(super) fn lease(&self) -> Option<String> {
        let reply = self.frozen.as_ref().filter(|reply| reply.status == 201)?;
        reply.json["id"].as_str().map(str::to_owned)
    }
}

/// An orchestrator at work.
pub(super) struct Orchestrator<'scope> {
    thread: thread::ScopedJoinHandle<'scope, Seen>,
    held: Receiver<()>,
    go_on: Sender<()>,
}

impl<'scope> Orchestrator<'scope> {
    pub(super) fn start<'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        bed: &'env Bed,
        case: Case,
    ) -> Self {
        let (say_held, held) = channel();
        let (go_on, may_go_on) = channel();
        let rest = bed.rest();
        let thread = scope.spawn(move || work(bed, &rest, case, &say_held, &may_go_on));
        Self { thread, held, go_on }
    }

    /// Waits until the freeze was answered, however. False if it is over.
    pub(super) fn wait_held(&self) -> bool {
        self.held.recv().is_ok()
    }

    /// Lets it do what comes after the hold.
    pub(super) fn go_on(&self) {
        // It may be over.
        let _ = self.go_on.send(());
    }

    pub(super) fn join(self) -> Seen {
        drop(self.go_on);
        self.thread.join().expect("the orchestrator")
    }
}

fn work(bed: &Bed, rest: &Rest, case: Case, held: &Sender<()>, go_on: &Receiver<()>) -> Seen {
    let truths = || bed.machines.iter().map(qga_e2e::sim::Machine::truth).collect();
    let frozen = if case.point.is_group() {
        let vms: Vec<String> = bed.machines.iter().map(id).collect();
        let body = json!({
            "vms": vms, "ttl_seconds": TTL, "freeze_timeout_seconds": FREEZE_TIMEOUT,
            "all_or_nothing": true, "label": "matrix",
        });
        rest.post("/freezes", &body).ok()
    } else {
        let body = json!({
            "ttl_seconds": TTL, "freeze_timeout_seconds": FREEZE_TIMEOUT, "label": "matrix",
        });
        rest.post(&format!("/vms/{}/fsfreeze", id(&bed.machines[0])), &body).ok()
    };
    let mut seen = Seen { frozen, at_frozen: truths(), ..Seen::default() };
    let _ = held.send(());
    let Some(lease) = seen.lease() else { return seen };
    if go_on.recv().is_err() {
        return seen;
    }
    if case.point == Point::RenewInFlight {
        seen.renewed =
            rest.patch(&format!("/freezes/{lease}"), &json!({ "ttl_seconds": TTL })).ok();
    }
    if case.point.thaws() {
        seen.at_thaw = truths();
        seen.thawed = rest.delete(&format!("/freezes/{lease}")).ok();
    }
    seen
}
