//! A guest of a group that does not answer costs the others nothing: they are thawed in time,
//! whatever it is asked when it falls silent.

use std::time::Duration;

use qga_gateway::vm::{FreezeError, FreezeRequest, LeaseId, Order};
use qga_proto::Outcome;

use super::fake::Act;
use super::groups::{THAW, Three};
use super::leased::Named;
use super::{QUICK, eventually, request};

/// The others, and the mute one at the end, which thaws first.
const OTHERS: [bool; 3] = [false, false, true];

/// No thaw and no order ends within a test by itself.
fn patient() -> String {
    let thaws = QUICK.replace("thaw_seconds = 1", "thaw_seconds = 60");
    thaws.replace("sync_seconds = 0.4", "sync_seconds = 60")
}

fn in_order() -> FreezeRequest {
    FreezeRequest { order: Order::Sequential, ..request() }
}

/// Three stock guests frozen in order, of which the last leaves each thaw unanswered.
async fn mute(limits: String, request: FreezeRequest) -> (Three, LeaseId) {
    let three = Three::with(limits, None).await;
    let hold = |name: &str| if name == THAW { Act::Hold } else { Act::Normal };
    three.guests[2].rule(hold);
    let lease = three.freeze(request).await.expect("freezes");
    (three, lease.id)
}

async fn others_thaw(three: &Three) {
    eventually("the others are thawed", || three.frozen() == OTHERS).await;
}

#[tokio::test]
async fn in_order_a_mute_guest_holds_back_the_others_only_for_a_moment() {
    let limits = QUICK.replace("thaw_seconds = 1", "thaw_seconds = 60");
    let (three, lease) = mute(limits, in_order()).await;
    let (thawed, ()) = tokio::join!(three.leases.thaw(&lease), async {
        others_thaw(&three).await;
        assert!(!three.leases.get(&lease).expect("there").ended(), "one is frozen still");
        three.guests[2].release();
    });
    assert!(thawed.expect("thaws in the end").ended());
    assert_eq!(three.frozen(), [false; 3]);
}

#[tokio::test]
async fn at_the_deadline_no_order_holds_anybody_back() {
    let ttl = Duration::from_millis(200);
    let (three, _) = mute(patient(), FreezeRequest { ttl, ..in_order() }).await;
    others_thaw(&three).await;
}

#[tokio::test]
async fn a_deadline_that_passes_during_a_thaw_in_order_ends_the_order() {
    let ttl = Duration::from_secs(1);
    let (three, lease) = mute(patient(), FreezeRequest { ttl, ..in_order() }).await;
    let thaw = three.leases.thaw(&lease);
    tokio::select! {
        thawed = thaw => panic!("one is mute: {thawed:?}"),
        () = others_thaw(&three) => {}
    }
}

#[tokio::test]
async fn at_a_stop_no_order_holds_anybody_back() {
    for under_way in [false, true] {
        let (three, lease) = mute(patient(), in_order()).await;
        if under_way {
            let leases = three.leases.clone();
            tokio::spawn(async move { leases.thaw(&lease).await });
            eventually("begun", || three.guests[2].asked(THAW)).await;
            assert_eq!(three.frozen(), [true; 3], "in order");
        }
        let (report, ()) = tokio::join!(three.leases.shutdown(Duration::from_secs(20)), async {
            others_thaw(&three).await;
            three.guests[2].release();
        });
        assert_eq!((report.thawed, report.left.len()), (3, 0), "{under_way}");
    }
}

#[tokio::test]
async fn a_renewal_that_is_not_answered_puts_off_no_thaw() {
    for stop in [false, true] {
        let three = Three::with(patient(), Some(Named::default())).await;
        let lease = three.freeze(request()).await.expect("freezes").id;
        let renew = "x-guest-fsfreeze-renew";
        three.guests[2].rule(move |name| if name == renew { Act::Hold } else { Act::Normal });
        // More than fit into any line.
        let renewals: Vec<_> = (0..20)
            .map(|_| {
                let (leases, lease) = (three.leases.clone(), lease.clone());
                tokio::spawn(async move { leases.renew(&lease, Duration::from_secs(60)).await })
            })
            .collect();
        eventually("it is asked", || three.guests[2].asked(renew)).await;
        let end = async {
            if stop {
                let report = three.leases.shutdown(Duration::from_secs(20)).await;
                assert_eq!((report.thawed, report.left.len()), (3, 0));
            } else {
                assert!(three.leases.thaw(&lease).await.expect("thaws").ended());
            }
        };
        tokio::join!(end, async {
            others_thaw(&three).await;
            three.guests[2].release();
        });
        for renewed in renewals {
            let renewed = renewed.await.expect("no panic");
            assert!(matches!(renewed, Err(FreezeError::Ended(_))), "{renewed:?}");
        }
    }
}

#[tokio::test]
async fn one_that_froze_too_little_and_falls_silent_is_not_waited_for() {
    let limits = QUICK.replace("thaw_seconds = 1", "thaw_seconds = 60");
    let three = Three::with(limits, None).await;
    three.guests[2].rule(|name| match name {
        "guest-fsfreeze-freeze-list" => Act::Answer(Outcome::value(&1)),
        THAW => Act::Hold,
        _ => Act::Normal,
    });
    let mountpoints = Some(vec!["/".into(), "/srv".into()]);
    let (frozen, ()) =
        tokio::join!(three.freeze(FreezeRequest { mountpoints, ..in_order() }), async {
            eventually("it was to be undone", || three.guests[2].asked(THAW)).await;
            eventually("the others are thawed", || three.frozen() == [false; 3]).await;
            three.guests[2].release();
        });
    let error = frozen.expect_err("all or nothing");
    assert!(matches!(error, FreezeError::Group { undone: true, .. }), "{error}");
}
