//! Several VMs under one lease: their order, the way back when one does not freeze, and how much may
//! be frozen at all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{
    FreezeError, FreezeRequest, Lease, LeaseState, Leases, Order, Registry, ThawCause, Verdict,
    VmHandle,
};
use qga_proto::{Outcome, QgaError};
use tempfile::{TempDir, tempdir};

use super::fake::{Act, Guest};
use super::leased::Named;
use super::{QUICK, eventually, parse, ready, request};

const FREEZE: &str = "guest-fsfreeze-freeze";
pub(super) const THAW: &str = "guest-fsfreeze-thaw";

/// VMs `a`, `b` and `c`, and the freezes and thaws that came to them, in their order.
pub(super) struct Three {
    _dir: TempDir,
    _registry: Registry,
    pub(super) guests: Vec<Guest>,
    vms: Vec<VmHandle>,
    pub(super) leases: Leases,
    came: Arc<Mutex<Vec<String>>>,
}

impl Three {
    async fn ready(limits: &str) -> Self {
        Self::with(QUICK.replace("[limits]", &format!("[limits]\n{limits}")), None).await
    }

    /// With these limits, and agents that know leases by name or stock ones.
    pub(super) async fn with(mut text: String, named: Option<Named>) -> Self {
        let dir = tempdir().expect("tempdir");
        let mut guests = Vec::new();
        for name in ["a", "b", "c"] {
            let path = dir.path().join(name);
            guests.push(Guest::start(&path));
            guests[guests.len() - 1].change(|truth| truth.named.clone_from(&named));
            text += &format!("[[vm]]\nid = \"{name}\"\nsocket = {path:?}\n");
        }
        let registry = Registry::start(&parse(&text));
        let vms = registry.list();
        for vm in &vms {
            ready(vm).await;
        }
        let leases = Leases::new(&registry);
        let this =
            Self { _dir: dir, _registry: registry, guests, vms, leases, came: Arc::default() };
        for index in 0..3 {
            this.rule(index, |_| Act::Normal);
        }
        this
    }

    /// What that guest does with freezes and thaws.
    pub(super) fn rule(&self, index: usize, mut rule: impl FnMut(&str) -> Act + Send + 'static) {
        let (came, vm) = (self.came.clone(), self.vms[index].id().to_string());
        self.guests[index].rule(move |name| {
            if name != FREEZE && name != THAW {
                return Act::Normal;
            }
            let what = name.rsplit('-').next().expect("the last word");
            came.lock().expect("came").push(format!("{what} {vm}"));
            rule(name)
        });
    }

    pub(super) async fn freeze(&self, request: FreezeRequest) -> Result<Lease, FreezeError> {
        let owner = Principal::unix(0);
        self.leases.begin(self.vms.clone(), request, owner)?.outcome().await
    }

    fn came(&self) -> Vec<String> {
        std::mem::take(&mut self.came.lock().expect("came"))
    }

    pub(super) fn frozen(&self) -> Vec<bool> {
        self.guests.iter().map(|guest| guest.truth().frozen).collect()
    }
}

fn refuses(command: &'static str) -> impl FnMut(&str) -> Act + Send {
    move |name| {
        if name == command {
            return Act::Answer(Outcome::Error(QgaError::generic("no")));
        }
        Act::Normal
    }
}

#[tokio::test]
async fn in_order_they_freeze_one_by_one_and_thaw_in_reverse() {
    let three = Three::ready("").await;
    let lease = three.freeze(FreezeRequest { order: Order::Sequential, ..request() }).await;
    let lease = lease.expect("freezes");
    assert_eq!(three.came(), ["freeze a", "freeze b", "freeze c"]);
    let times: Vec<_> = lease.members.iter().map(|member| member.frozen_at).collect();
    assert!(times.is_sorted() && lease.frozen_at == times[2], "from the last one on: {times:?}");
    assert!(lease.spread.is_some());
    // One that does not thaw at once holds back those before it.
    let mut refusals = 1;
    three.rule(1, move |name| {
        if name == THAW && refusals > 0 {
            refusals -= 1;
            return Act::Answer(Outcome::Error(QgaError::generic("not yet")));
        }
        Act::Normal
    });
    let _ = three.leases.thaw(&lease.id).await;
    eventually("its end", || three.leases.get(&lease.id).is_some_and(|lease| lease.ended())).await;
    let came = three.came();
    assert_eq!(came[..2], ["thaw c", "thaw b"], "{came:?}");
    assert_eq!(came.iter().filter(|thaw| *thaw == "thaw b").count(), 2, "{came:?}");
    let lease = three.leases.get(&lease.id).expect("readable");
    assert_eq!((lease.state, lease.verdict), (LeaseState::Thawed, Some(Verdict::CountsAgree)));
    assert_eq!(three.frozen(), [false; 3]);
}

#[tokio::test]
async fn in_order_one_that_does_not_freeze_spares_those_behind_it() {
    let three = Three::ready("").await;
    three.rule(1, refuses(FREEZE));
    let error = three.freeze(FreezeRequest { order: Order::Sequential, ..request() }).await;
    let error = error.expect_err("all or nothing");
    assert!(
        matches!(&error, FreezeError::Group { vm, undone: true, .. } if vm.as_str() == "b"),
        "{error}"
    );
    assert_eq!(three.came(), ["freeze a", "freeze b", "thaw a"]);
    assert_eq!(three.frozen(), [false; 3]);
}

#[tokio::test]
async fn a_rollback_goes_on_until_the_last_guest_says_thawed() {
    let three = Three::ready("").await;
    three.rule(0, refuses(THAW));
    three.rule(2, refuses(FREEZE));
    let error = three.freeze(request()).await.expect_err("all or nothing");
    let FreezeError::Group { vm, lease: Some(lease), undone, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((vm.as_str(), undone), ("c", false), "the caller knows what is in the way");
    let held = || three.leases.get(&lease).expect("there");
    assert_eq!((held().state, held().ended()), (LeaseState::RollingBack, false));
    assert_eq!(held().thaw_cause, Some(ThawCause::Rollback));
    assert_eq!(three.frozen(), [true, false, false]);
    let tries = || three.came.lock().expect("came").iter().filter(|c| *c == "thaw a").count();
    eventually("tried again and again", || tries() >= 3).await;
    assert_eq!(held().state, LeaseState::RollingBack);
    three.rule(0, |_| Act::Normal);
    eventually("its end", || held().ended()).await;
    assert_eq!(three.frozen(), [false; 3]);
    let lease = held();
    assert_eq!((lease.state, lease.verdict), (LeaseState::Failed, Some(Verdict::Partial)));
}

#[tokio::test]
async fn so_many_vms_may_be_frozen_at_once() {
    let three = Three::ready("frozen_vms_max = 2\n").await;
    let error = three.freeze(request()).await.expect_err("three");
    assert!(matches!(error, FreezeError::TooManyFrozen { max: 2 }), "{error}");
    assert!(three.came().is_empty(), "nothing was sent");
    let owner = || Principal::unix(0);
    let mut held = Vec::new();
    for vm in &three.vms[..2] {
        held.push(three.leases.freeze(vm, request(), owner()).await.expect("freezes"));
    }
    let error = three.leases.freeze(&three.vms[2], request(), owner()).await.expect_err("full");
    assert!(matches!(error, FreezeError::TooManyFrozen { max: 2 }), "{error}");
    three.leases.thaw(&held[0].id).await.expect("thaws");
    three.leases.freeze(&three.vms[2], request(), owner()).await.expect("room again");
    assert_eq!(three.frozen(), [false, true, true]);
}

#[tokio::test]
async fn renewals_do_not_lengthen_the_whole_hold() {
    let three = Three::ready("hold_max_seconds = 100\n").await;
    let seconds = Duration::from_secs;
    let long = FreezeRequest { ttl: seconds(101), ..request() };
    let error = three.leases.freeze(&three.vms[0], long, Principal::unix(0)).await;
    assert!(matches!(error, Err(FreezeError::Limit { what: "ttl", .. })), "{error:?}");
    let lease = three.leases.freeze(&three.vms[0], request(), Principal::unix(0)).await;
    let lease = lease.expect("freezes");
    let renewed = three.leases.renew(&lease.id, seconds(70)).await.expect("within");
    assert_eq!(renewed.ttl, seconds(70));
    let error = three.leases.renew(&lease.id, seconds(100)).await.expect_err("some has gone by");
    let FreezeError::HoldLimit { max, left } = error else { panic!("{error}") };
    assert!(max == seconds(100) && left < max, "{left:?}");
    let held = three.leases.get(&lease.id).expect("there");
    assert_eq!((held.ttl, held.expires_at), (seconds(70), renewed.expires_at), "as it was");
    three.leases.renew(&lease.id, left / 2).await.expect("what is left");
}
