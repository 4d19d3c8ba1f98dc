//! Freeze leases whose guest goes away, and comes back or not.

use std::time::Duration;

use qga_gateway::vm::{
    CallError, FreezeError, FreezeRequest, LeaseState, LinkState, ThawCause, Verdict,
};

use super::fake::Act;
use super::leases::{Frame, request};
use super::{eventually, until};

#[tokio::test]
async fn a_connection_lost_under_a_freeze_ends_thawed() {
    let frame = Frame::ready().await;
    frame
        .guest
        .rule(|name| if name.ends_with("-freeze") { Act::Close(Vec::new()) } else { Act::Normal });
    let error = frame.freeze(request()).await.expect_err("no reply");
    let FreezeError::OutcomeUnknown { lease, source } = error else { panic!("{error}") };
    assert!(matches!(source, CallError::Interrupted { .. }), "{source}");
    frame.ends(&lease).await;
}

#[tokio::test]
async fn a_guest_that_comes_back_thawed_has_lost_its_freeze() {
    let mut frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    frame.guest.kill().await;
    eventually("orphaned", || frame.lease(&lease.id).shown_state() == LeaseState::Orphaned).await;
    frame.guest.change(|truth| (truth.frozen, truth.held) = (false, 0));
    frame.guest.boot();
    let ended = frame.ends(&lease.id).await;
    assert_eq!((ended.state, ended.verdict), (LeaseState::Thawed, Some(Verdict::Lost)));
    assert_eq!(ended.thaw_cause, Some(ThawCause::External));
}

#[tokio::test]
async fn a_link_that_breaks_and_comes_back_frozen_still_holds_but_proves_less() {
    let mut frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    frame.guest.kill().await;
    eventually("orphaned", || frame.lease(&lease.id).shown_state() == LeaseState::Orphaned).await;
    frame.guest.boot();
    eventually("held again", || frame.lease(&lease.id).shown_state() == LeaseState::Frozen).await;
    let ended = frame.leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(ended.verdict, Some(Verdict::Unknown), "{:?}", ended.members[0].evidence);
}

#[tokio::test]
async fn a_vm_away_at_the_deadline_is_thawed_when_it_is_back() {
    let mut frame = Frame::ready().await;
    let ttl = Duration::from_millis(200);
    let lease = frame.freeze(FreezeRequest { ttl, ..request() }).await.expect("freezes");
    frame.guest.rule(|_| Act::Hold);
    eventually("expired", || frame.lease(&lease.id).shown_state() == LeaseState::Thawing).await;
    frame.guest.kill().await;
    frame.guest.rule(|_| Act::Normal);
    frame.guest.boot();
    let ended = frame.ends(&lease.id).await;
    assert_eq!(ended.thaw_cause, Some(ThawCause::Expired));
}

#[tokio::test]
async fn a_vm_that_stays_away_is_given_up_after_its_bound() {
    let mut frame = Frame::ready().await;
    let ttl = Duration::from_millis(100);
    let lease = frame.freeze(FreezeRequest { ttl, ..request() }).await.expect("freezes");
    frame.guest.kill().await;
    eventually("given up", || frame.lease(&lease.id).ended()).await;
    let ended = frame.lease(&lease.id);
    assert_eq!((ended.state, ended.verdict), (LeaseState::Orphaned, Some(Verdict::Lost)));
}

#[tokio::test]
async fn an_agent_that_is_away_is_told_at_once() {
    let mut frame = Frame::ready().await;
    frame.guest.kill().await;
    until(&frame.vm, LinkState::Refused).await;
    let error = frame.freeze(request()).await.expect_err("away");
    assert!(matches!(error, FreezeError::Call(CallError::Unavailable { .. })), "{error}");
    assert!(frame.leases.list().is_empty());
}
