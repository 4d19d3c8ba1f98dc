//! Thaws that are slow, swallowed, half done, or whose answer gets lost.

use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{
    CallError, FreezeError, FreezeRequest, LeaseState, Leases, LinkState, ThawCause, Verdict,
};
use qga_proto::command::FsfreezeStatus;
use qga_proto::{Outcome, QgaError};

use super::fake::{Act, Guest};
use super::leased::Named;
use super::leases::{Frame, request};
use super::{QUICK, eventually, until};

/// A thaw may take longer than any test.
async fn patient() -> Frame {
    Frame::limited(&QUICK.replace("thaw_seconds = 1", "thaw_seconds = 60")).await
}

/// The first thaw meets this, the others are run.
fn first_thaw(frame: &Frame, act: impl Fn() -> Act + Send + 'static) {
    let mut thaws = 0;
    frame.guest.rule(move |name| {
        thaws += usize::from(name == "guest-fsfreeze-thaw");
        if name == "guest-fsfreeze-thaw" && thaws == 1 { act() } else { Act::Normal }
    });
}

#[tokio::test]
async fn a_swallowed_thaw_is_sent_again_before_anybody_is_told() {
    let frame = patient().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    first_thaw(&frame, || Act::Raw(Vec::new()));
    let ended = frame.leases.thaw(&lease.id).await.expect("thaws");
    assert!(!frame.guest.truth().frozen);
    assert_eq!(
        (ended.thaw_cause, ended.verdict),
        (Some(ThawCause::Requested), Some(Verdict::CountsAgree)),
        "{:?}",
        ended.members[0].evidence
    );
}

#[tokio::test]
async fn whoever_asks_for_a_thaw_that_is_under_way_hastens_it() {
    let limits = QUICK.replace("sync_seconds = 0.4", "sync_seconds = 4");
    let limits = limits.replace("thaw_seconds = 1", "thaw_seconds = 60");
    let frame = Frame::limited(&limits).await;
    let ttl = Duration::from_millis(50);
    let lease = frame.freeze(FreezeRequest { ttl, ..request() }).await.expect("freezes");
    first_thaw(&frame, || Act::Raw(Vec::new()));
    eventually("expired", || frame.lease(&lease.id).state == LeaseState::Thawing).await;
    let report = frame.leases.shutdown(Duration::from_secs(3)).await;
    assert_eq!((report.thawed, report.left.len()), (1, 0));
    assert!(!frame.guest.truth().frozen);
}

#[tokio::test]
async fn a_slow_and_honest_thaw_is_waited_for() {
    let frame = patient().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    first_thaw(&frame, || Act::Hold);
    let (thaw, ()) = tokio::join!(frame.leases.thaw(&lease.id), async {
        until(&frame.vm, LinkState::Silent).await;
        assert!(frame.guest.truth().frozen);
        frame.guest.release();
    });
    let ended = thaw.expect("thaws");
    assert_eq!(ended.verdict, Some(Verdict::CountsAgree), "{:?}", ended.members[0].evidence);
    assert_eq!(frame.guest.ran("guest-fsfreeze-thaw"), 1);
}

#[tokio::test]
async fn our_own_thaw_whose_answer_is_lost_is_nobody_elses() {
    let mut frame = patient().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    let (sent, mut seen) = tokio::sync::mpsc::channel(8);
    frame.guest.rule(move |name| {
        if name != "guest-fsfreeze-thaw" {
            return Act::Normal;
        }
        let _ = sent.try_send(());
        Act::Hold
    });
    let (leases, id) = (frame.leases.clone(), lease.id.clone());
    let thaw = tokio::spawn(async move { leases.thaw(&id).await });
    seen.recv().await.expect("it has left");
    frame.guest.kill().await;
    frame.guest.change(|truth| (truth.frozen, truth.held) = (false, 0));
    frame.guest.boot();
    let ended = frame.ends(&lease.id).await;
    assert_eq!(
        (ended.thaw_cause, ended.verdict),
        (Some(ThawCause::Requested), Some(Verdict::Unknown)),
        "{:?}",
        ended.members[0].evidence
    );
    let _ = thaw.await.expect("no panic");
}

/// An agent that knows the lease says in its report what became of the thaw; nobody asks for a
/// status then.
#[tokio::test]
async fn a_link_does_not_stay_frozen_after_a_thaw_whose_answer_was_lost() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("a");
    let guest = Guest::start(&path);
    guest.change(|truth| truth.named = Some(Named::default()));
    let (registry, vm) = super::one(&path);
    super::ready(&vm).await;
    let leases = Leases::new(&registry);
    let lease = leases.freeze(&vm, request(), Principal::unix(0)).await.expect("freezes");
    let mut thaws = 0;
    guest.rule(move |name| {
        thaws += usize::from(name == "x-guest-fsfreeze-thaw");
        if name == "x-guest-fsfreeze-thaw" && thaws == 1 { Act::Lose } else { Act::Normal }
    });
    let ended = leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(ended.verdict, Some(Verdict::Held), "{:?}", ended.members[0].evidence);
    assert_eq!(vm.link().state, LinkState::Ready, "{}", vm.link());
}

#[tokio::test]
async fn a_count_that_is_too_low_does_not_end_a_lease_whose_guest_is_frozen() {
    let frame = patient().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    first_thaw(&frame, || Act::Answer(Outcome::value(&1)));
    let error = frame.leases.thaw(&lease.id).await.expect_err("still frozen");
    assert!(matches!(error, FreezeError::Call(CallError::BadReply { .. })), "{error}");
    assert_eq!(frame.ends(&lease.id).await.state, LeaseState::Thawed);
}

/// A freeze that is answered like this, and freezes all the same.
async fn refused_and_frozen(error: QgaError) -> (Frame, FreezeError) {
    let frame = patient().await;
    let (mut refused, mut thawed) = (false, false);
    frame.guest.rule(move |name| {
        refused |= name == "guest-fsfreeze-freeze";
        thawed |= name == "guest-fsfreeze-thaw";
        match name {
            "guest-fsfreeze-freeze" => Act::Answer(Outcome::Error(error.clone())),
            "guest-fsfreeze-status" if refused && !thawed => {
                Act::Answer(Outcome::value(&FsfreezeStatus::Frozen))
            }
            _ => Act::Normal,
        }
    });
    let error = frame.freeze(request()).await.expect_err("refused");
    (frame, error)
}

#[tokio::test]
async fn a_freeze_that_is_not_there_and_froze_is_undone() {
    let (frame, error) = refused_and_frozen(QgaError::not_found("guest-fsfreeze-freeze")).await;
    assert!(matches!(error, FreezeError::Call(CallError::Unsupported)), "{error}");
    assert_eq!(frame.guest.ran("guest-fsfreeze-thaw"), 1);
}

#[tokio::test]
async fn a_freeze_that_somebody_else_was_faster_with_was_sent() {
    let (frame, error) = refused_and_frozen(QgaError::disabled("guest-fsfreeze-freeze")).await;
    assert!(matches!(error, FreezeError::FrozenMeanwhile), "{error}");
    assert_eq!(frame.guest.ran("guest-fsfreeze-thaw"), 0, "theirs");
}

#[tokio::test]
async fn a_bad_answer_before_the_freeze_says_nothing_of_a_freeze() {
    let frame = patient().await;
    frame.guest.rule(|name| match name {
        "guest-fsfreeze-status" => Act::Answer(Outcome::value(&"lukewarm\n")),
        _ => Act::Normal,
    });
    let error = frame.freeze(request()).await.expect_err("no status");
    let FreezeError::NotBegun { command, .. } = &error else { panic!("{error}") };
    assert_eq!(command.name, "guest-fsfreeze-status");
    assert!(!error.to_string().contains('\n'), "{error}");
    assert_eq!(frame.guest.ran("guest-fsfreeze-freeze"), 0);
}
