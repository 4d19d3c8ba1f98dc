//! Leases and deadlines, in a time that the tests set.

use super::*;

fn with_default(seconds: u64) -> Bed {
    let deadline = Some(Duration::from_secs(seconds));
    Bed::with(FreezeSettings { deadline, ..FreezeSettings::default() })
}

fn term(milliseconds: i64) -> Term {
    Term::parse(milliseconds).unwrap()
}

#[test]
fn a_freeze_ends_at_its_deadline_and_the_next_plain_thaw_says_so_once() {
    let bed = with_default(600);
    bed.freeze();
    assert_eq!(bed.outcome(), "3");
    assert_eq!(bed.kernel.inner.lock().unwrap().tick_from, Some(600_000));
    bed.at(599_999);
    bed.thaw_for("nobody");
    bed.outcome();
    assert_eq!(bed.phase.now(), Phase::Frozen);
    assert_eq!(bed.read().deadline_ms, Some(1));
    bed.at(600_000);
    bed.wait_for_phase(Phase::Thawed);
    assert!(!bed.marker.exists());
    assert_eq!(bed.kernel.inner.lock().unwrap().tick_from, None);
    let thaw = bed.read().last_thaw.unwrap();
    assert_eq!((thaw.cause, thaw.count, thaw.untold), (ThawCause::Deadline, 3, true));
    bed.kernel.with(|inner| inner.now_ms = 607_500);
    bed.thaw();
    assert_eq!(bed.outcome(), "filesystems were thawed automatically 7 s ago (deadline)");
    bed.thaw();
    assert_eq!(bed.outcome(), "0");
    assert!(!bed.read().last_thaw.unwrap().untold);
}

#[test]
fn a_new_freeze_forgets_what_the_last_one_left_untold() {
    let bed = with_default(1);
    bed.freeze();
    assert_eq!(bed.outcome(), "3");
    bed.at(1000);
    bed.wait_for_phase(Phase::Thawed);
    bed.freeze_and_thaw();
}

#[test]
fn the_deadline_counts_from_the_last_filesystem_and_bounds_the_freezing_too() {
    let bed = with_default(10);
    bed.hang("/b");
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.kernel.with(|inner| inner.now_ms = 9_000);
    bed.release("/b");
    assert_eq!(bed.outcome(), "3");
    assert_eq!(bed.read().deadline_ms, Some(10_000));
    bed.thaw();
    bed.outcome();

    bed.hang("/b");
    bed.freeze();
    bed.kernel.wait_for("freeze /b");
    bed.at(19_000);
    assert_eq!(bed.outcome(), "stopped by its deadline");
    bed.release("/b");
    bed.wait_for_phase(Phase::Thawed);
    assert_eq!(bed.cause(), Some(ThawCause::Deadline));
    assert!(bed.kernel.inner.lock().unwrap().frozen.is_empty());
}

#[test]
fn a_lease_sets_its_deadline_renews_it_and_is_the_only_lease_that_thaws() {
    let bed = with_default(600);
    bed.freeze_for("a", term(5_000));
    let answer: LeasedFreeze = serde_json::from_str(&bed.outcome()).unwrap();
    assert_eq!((answer.count, answer.generation, answer.deadline_ms), (3, 1, Some(5_000)));
    assert_eq!((answer.agent_instance.as_str(), answer.boot_id.as_str()), ("i", "boot"));
    assert!(answer.filesystems.iter().all(|one| one.freeze == FreezeResult::Frozen));
    assert_eq!(bed.read().lease.as_deref(), Some("a"));

    let owned = "the freeze is owned by lease 'a', not by 'b'";
    bed.order(Order::Renew(lease_of("b"), term(1)));
    bed.thaw_for("b");
    assert_eq!(bed.outcomes(2), [owned, owned]);
    bed.kernel.with(|inner| inner.now_ms = 4_000);
    bed.order(Order::Renew(lease_of("a"), term(5_000)));
    let renewal = r#"{"generation": 1, "agent-instance": "i", "deadline-ms": 5000}"#;
    let normal = |text: &str| text.replace(": ", ":").replace(", ", ",");
    assert_eq!(normal(&bed.outcome()), normal(renewal));
    bed.at(8_999);
    bed.order(Order::Renew(lease_of("a"), Term::Unlimited));
    bed.outcome();
    bed.at(1_000_000);
    assert_eq!(bed.read().deadline_ms, None);
    assert_eq!(bed.phase.now(), Phase::Frozen);

    bed.thaw_for("a");
    let answer: LeasedThaw = serde_json::from_str(&bed.outcome()).unwrap();
    assert_eq!((answer.count, answer.generation), (3, 1));
    assert!(answer.filesystems.iter().all(|one| one.thaw == Some(ThawResult::Thawed)));
    assert_eq!(bed.cause(), Some(ThawCause::Lease));
    bed.thaw_for("a");
    assert_eq!(bed.outcome(), "filesystems were thawed 0 s ago (lease)");
    bed.order(Order::Renew(lease_of("b"), term(1)));
    assert_eq!(bed.outcome(), "nothing is frozen by lease 'b'");
}

#[test]
fn a_stock_client_thaws_a_leased_freeze_and_the_report_says_so() {
    let bed = Bed::new();
    bed.freeze_for("a", Term::Default);
    bed.outcome();
    bed.thaw();
    assert_eq!(bed.outcome(), "3");
    let thaw = bed.read().last_thaw.unwrap();
    assert_eq!((thaw.cause, thaw.lease.as_deref()), (ThawCause::Requested, Some("a")));
    bed.thaw_for("a");
    assert_eq!(bed.outcome(), "filesystems were thawed 0 s ago (requested)");
}

#[test]
fn a_lease_that_lost_its_freeze_to_the_deadline_is_told_each_time() {
    let bed = Bed::new();
    bed.freeze_for("a", term(100));
    bed.outcome();
    bed.at(100);
    bed.wait_for_phase(Phase::Thawed);
    for _ in 0..2 {
        bed.thaw_for("a");
        assert_eq!(bed.outcome(), "filesystems were thawed automatically 0 s ago (deadline)");
    }
}

#[test]
fn a_deadline_with_a_stuck_filesystem_ends_when_that_thaws_and_stays_the_cause() {
    let bed = Bed::new();
    bed.hang("/b");
    bed.freeze_for("a", term(100));
    bed.kernel.wait_for("freeze /b");
    bed.at(100);
    assert_eq!(bed.outcome(), "stopped by its deadline");
    bed.wait_for_phase(Phase::Frozen);
    // Ticks change nothing, and a thaw by a client is too late.
    bed.at(2000);
    bed.thaw();
    assert!(bed.outcome().starts_with("failed to thaw /b: busy"));
    bed.order(Order::Renew(lease_of("a"), term(1)));
    assert_eq!(bed.outcome(), "filesystems are being thawed");
    bed.release("/b");
    bed.wait_for_phase(Phase::Thawed);
    assert_eq!(bed.cause(), Some(ThawCause::Deadline));
    bed.thaw();
    assert_eq!(bed.outcome(), "filesystems were thawed automatically 0 s ago (deadline)");
}

#[test]
fn a_lease_is_renewed_while_its_freeze_hangs() {
    let bed = Bed::new();
    bed.hang("/b");
    bed.freeze_for("a", term(100));
    bed.kernel.wait_for("freeze /b");
    bed.order(Order::Renew(lease_of("a"), term(500)));
    bed.outcome();
    bed.at(499);
    bed.release("/b");
    let answer: LeasedFreeze = serde_json::from_str(&bed.outcome()).unwrap();
    assert_eq!((answer.count, answer.deadline_ms), (3, Some(500)));
}

#[test]
fn orders_that_wait_are_bounded() {
    let bed = Bed::with_hook();
    bed.hang("hook thaw");
    bed.thaw();
    bed.kernel.wait_for("hook thaw");
    for _ in 0..MAX_WAITING + 1 {
        bed.thaw();
    }
    assert_eq!(bed.outcome(), "too many freezes and thaws are waiting");
    bed.release("hook thaw");
    assert_eq!(bed.outcomes(MAX_WAITING + 1).len(), MAX_WAITING + 1);
}
