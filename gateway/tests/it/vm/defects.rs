//! Tasks that panic while they hold a lease: another takes over, and no guest stays frozen.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qga_gateway::vm::{LeaseState, ThawCause};
use qga_proto::{Outcome, QgaError};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use super::fake::Act;
use super::leases::{Frame, request};
use super::{QUICK, eventually};

/// Panics over certain log lines, once each: a defect in the middle of whatever writes them.
#[derive(Clone)]
struct Defects(Arc<[(&'static str, AtomicUsize)]>);

impl Defects {
    fn of(lines: &[&'static str]) -> Self {
        Self(lines.iter().map(|line| (*line, AtomicUsize::new(0))).collect())
    }

    fn seen(&self) -> Vec<bool> {
        self.0.iter().map(|(_, times)| times.load(Ordering::Relaxed) > 0).collect()
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Defects {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        for (line, times) in &*self.0 {
            let planted = message.0.contains(line) && times.fetch_add(1, Ordering::Relaxed) == 0;
            assert!(!planted, "a planted defect: {line}");
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A freeze whose first thaw is refused, and the panics that come of it.
async fn ends_thawed(defects: &Defects) {
    // With a single subscriber, tracing asks only the thread that comes by a line first, and that
    // may be another test's.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _guard = tracing::subscriber::set_default(defects.clone());
    let frame = Frame::limited(QUICK).await;
    let lease = frame.freeze(request()).await.expect("freezes");
    let mut refusals = 1;
    frame.guest.rule(move |name| {
        if name == "guest-fsfreeze-thaw" && refusals > 0 {
            refusals -= 1;
            return Act::Answer(Outcome::Error(QgaError::generic("no")));
        }
        Act::Normal
    });
    // Whoever waits meanwhile may be told of the defect.
    let _ = frame.leases.thaw(&lease.id).await;
    eventually("the defects", || defects.seen().iter().all(|seen| *seen)).await;
    let lease = frame.ends(&lease.id).await;
    assert_eq!(lease.state, LeaseState::Thawed, "{:?}", lease.members[0].evidence);
    assert_eq!(lease.thaw_cause, Some(ThawCause::Requested));
    frame.freeze(request()).await.expect("freezes again");
}

#[tokio::test]
async fn a_guardian_that_panics_in_a_thaw_is_taken_over_from() {
    ends_thawed(&Defects::of(&["is not thawed yet"])).await;
}

#[tokio::test]
async fn a_keeper_that_panics_over_its_guardian_is_taken_over_from() {
    ends_thawed(&Defects::of(&["is not thawed yet", "the guardian of"])).await;
}
