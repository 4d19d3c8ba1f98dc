//! Freeze leases against a guest whose truth is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qga_gateway::principal::Principal;
use qga_gateway::vm::{
    CallError, FreezeError, FreezeRequest, Guard, Lease, LeaseId, LeaseState, Leases, LinkState,
    Policy, Registry, ThawCause, Verdict, VmHandle,
};
use qga_proto::{Outcome, QgaError};
use tempfile::{TempDir, tempdir};
use tokio::time::timeout;

use super::fake::{Act, Guest};
use super::{QUICK, eventually, parse, ready, until};

pub(super) struct Frame {
    _dir: TempDir,
    _registry: Registry,
    pub(super) guest: Guest,
    pub(super) vm: VmHandle,
    pub(super) leases: Leases,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Frame {
    pub(super) async fn ready() -> Self {
        Self::limited(QUICK).await
    }

    pub(super) async fn limited(limits: &str) -> Self {
        let dir = tempdir().expect("tempdir");
        let path = dir.path().join("a");
        let guest = Guest::start(&path);
        let limits = limits.replace("[limits]", "[limits]\norphan_seconds = 0.3");
        let socket = path.display();
        let registry = Registry::start(&parse(&format!(
            "{limits}\n[[vm]]\nid = \"a\"\nsocket = \"{socket}\"\n"
        )));
        let vm = registry.list().remove(0);
        ready(&vm).await;
        let leases = Leases::new(&registry);
        Self { _dir: dir, _registry: registry, guest, vm, leases }
    }

    pub(super) async fn freeze(&self, request: FreezeRequest) -> Result<Lease, FreezeError> {
        self.leases.freeze(&self.vm, request, Principal::new("token:test")).await
    }

    pub(super) fn lease(&self, id: &LeaseId) -> Lease {
        self.leases.get(id).expect("leases stay readable")
    }

    pub(super) async fn ends(&self, id: &LeaseId) -> Lease {
        eventually("the lease ends", || self.lease(id).ended()).await;
        assert!(!self.guest.truth().frozen, "and the guest is thawed");
        assert!(self.leases.active_on(self.vm.id()).is_none());
        self.lease(id)
    }
}

/// A freeze that is given up soon.
pub(super) fn request() -> FreezeRequest {
    FreezeRequest { freeze_timeout: Duration::from_millis(300), ..super::request() }
}

/// An agent that cannot say what is mounted.
fn without_fsinfo(name: &str) -> Act {
    match name {
        "guest-get-fsinfo" => Act::Answer(Outcome::Error(QgaError::not_found(name))),
        _ => Act::Normal,
    }
}

fn named(mountpoints: &[&str], policy: Policy) -> FreezeRequest {
    let mountpoints = Some(mountpoints.iter().map(|&m| m.into()).collect());
    FreezeRequest { mountpoints, policy, ..request() }
}

#[tokio::test]
async fn a_freeze_holds_until_its_thaw() {
    let frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    assert!(frame.guest.truth().frozen);
    assert_eq!((lease.state, lease.filesystems()), (LeaseState::Frozen, Some(3)));
    assert_eq!((lease.guard(), lease.owner.as_str()), (Guard::Gateway, "token:test"));
    assert_eq!(lease.expires_at, lease.frozen_at.map(|at| at + MINUTE));
    assert_eq!(frame.vm.link().state, LinkState::Frozen);
    assert_eq!(frame.leases.active_on(frame.vm.id()).map(|l| l.id), Some(lease.id.clone()));

    let again = frame.freeze(request()).await.expect_err("one at a time");
    let holder = lease.id.clone();
    assert!(matches!(again, FreezeError::AlreadyFrozen { lease: Some(id) } if id == holder));

    let ended = frame.leases.thaw(&lease.id).await.expect("thaws");
    assert!(!frame.guest.truth().frozen);
    assert_eq!((ended.state, ended.verdict), (LeaseState::Thawed, Some(Verdict::CountsAgree)));
    assert_eq!(ended.thaw_cause, Some(ThawCause::Requested));
    assert!(ended.thawed_at >= ended.frozen_at && !ended.members[0].evidence.is_empty());

    let late = frame.leases.thaw(&lease.id).await.expect("a late thaw has its answer");
    assert_eq!(late.verdict, ended.verdict);
    assert_eq!(frame.guest.ran("guest-fsfreeze-thaw"), 1);
    let renewed = frame.leases.renew(&lease.id, MINUTE).await;
    assert!(matches!(renewed, Err(FreezeError::Ended(_))));
    let nobody = "frz_00000000000000000000000000000000".parse().expect("an id");
    assert!(matches!(frame.leases.thaw(&nobody).await, Err(FreezeError::NotFound)));
    until(&frame.vm, LinkState::Ready).await;
    assert_eq!(frame.leases.list().len(), 1);
}

#[tokio::test]
async fn the_deadline_thaws_and_a_renewal_moves_it() {
    let frame = Frame::ready().await;
    let ttl = Duration::from_millis(300);
    let lease = frame.freeze(FreezeRequest { ttl, ..request() }).await.expect("freezes");
    let renewed = frame.leases.renew(&lease.id, Duration::from_millis(900)).await.expect("renews");
    assert!(renewed.expires_at > lease.expires_at);
    let early = timeout(Duration::from_millis(500), frame.ends(&lease.id)).await;
    assert!(early.is_err(), "the first deadline has passed");
    let ended = frame.ends(&lease.id).await;
    assert_eq!(
        (ended.thaw_cause, ended.verdict),
        (Some(ThawCause::Expired), Some(Verdict::CountsAgree))
    );
    assert!(ended.thawed_at >= renewed.expires_at);
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_its_lease_to_the_ttl() {
    let frame = Frame::ready().await;
    frame.guest.rule(|name| if name.ends_with("-freeze") { Act::Hold } else { Act::Normal });
    let request = FreezeRequest { ttl: Duration::from_millis(200), ..request() };
    let mut call = Box::pin(frame.freeze(request));
    assert!(timeout(Duration::from_millis(100), &mut call).await.is_err(), "held");
    drop(call);
    let id = frame.leases.active_on(frame.vm.id()).expect("findable").id;
    assert_eq!(frame.lease(&id).shown_state(), LeaseState::Freezing);
    frame.guest.release();
    eventually("frozen", || frame.lease(&id).shown_state() == LeaseState::Frozen).await;
    let ended = frame.ends(&id).await;
    assert_eq!(ended.thaw_cause, Some(ThawCause::Expired));
}

#[tokio::test]
async fn nothing_to_freeze_leaves_no_lease() {
    let frame = Frame::ready().await;
    frame.guest.change(|truth| truth.mounted.clear());
    let error = frame.freeze(request()).await.expect_err("nothing");
    assert!(matches!(error, FreezeError::NothingToFreeze), "{error}");
    assert!(frame.leases.list().is_empty() && !frame.guest.truth().frozen);
}

#[tokio::test]
async fn frozen_by_somebody_else_is_left_alone() {
    let frame = Frame::ready().await;
    frame.guest.change(|truth| (truth.frozen, truth.held) = (true, 3));
    let error = frame.freeze(request()).await.expect_err("theirs");
    assert!(matches!(error, FreezeError::AlreadyFrozen { lease: None }), "{error}");
    assert!(frame.guest.truth().frozen && frame.leases.list().is_empty());
}

#[tokio::test]
async fn a_guest_that_has_thawed_by_itself_did_not_hold() {
    let frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    // As qga-agent does at its own deadline: thawed, and the first thaw says so.
    frame.guest.change(|truth| (truth.frozen, truth.held) = (false, 0));
    frame.guest.rule(|name| match name {
        "guest-fsfreeze-thaw" => Act::Answer(Outcome::Error(QgaError::generic(
            "filesystems were thawed automatically 3 s ago (deadline)",
        ))),
        _ => Act::Normal,
    });
    let ended = frame.leases.thaw(&lease.id).await.expect("it is thawed");
    assert_eq!((ended.verdict, ended.thaw_cause), (Some(Verdict::Lost), Some(ThawCause::External)));
    assert!(ended.members[0].thaw_error.as_ref().expect("words").contains("automatically"));
}

#[tokio::test]
async fn a_forced_thaw_is_kept_on_record_and_a_refused_one_is_not() {
    let frame = Frame::ready().await;
    frame.guest.change(|truth| (truth.frozen, truth.held) = (true, 3));
    let owner = Principal::new("token:test");
    frame.guest.rule(|name| match name {
        "guest-fsfreeze-thaw" => Act::Answer(Outcome::Error(QgaError::generic("not now"))),
        _ => Act::Normal,
    });
    let error = frame
        .leases
        .force_thaw(&frame.vm, owner.clone(), ThawCause::Forced)
        .await
        .expect_err("refused");
    assert!(matches!(error, FreezeError::Call(CallError::Agent(_))), "{error}");
    assert!(frame.guest.truth().frozen && frame.leases.list().is_empty());

    frame.guest.rule(|_| Act::Normal);
    let lease = frame.leases.force_thaw(&frame.vm, owner, ThawCause::Forced).await.expect("thaws");
    assert_eq!((lease.state, lease.thaw_cause), (LeaseState::Thawed, Some(ThawCause::Forced)));
    assert!(frame.leases.active_on(frame.vm.id()).is_none());
    frame.ends(&lease.id).await;
}

#[tokio::test]
async fn fewer_than_required_are_thawed_again_and_best_effort_says_so() {
    let frame = Frame::ready().await;
    frame.guest.rule(without_fsinfo);
    let some = ["/", "/srv", "/srv", "/mnt"];
    let error = frame.freeze(named(&some, Policy::Required)).await.expect_err("two of three");
    assert!(matches!(error, FreezeError::Incomplete { wanted: 3, frozen: 2 }), "{error}");
    assert!(!frame.guest.truth().frozen);
    let [failed] = frame.leases.list().try_into().expect("one");
    assert_eq!((failed.state, failed.thaw_cause), (LeaseState::Failed, Some(ThawCause::Rollback)));

    let lease = frame.freeze(named(&some, Policy::BestEffort)).await.expect("two are some");
    assert_eq!(lease.filesystems(), Some(2));
    let ended = frame.leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(ended.verdict, Some(Verdict::Partial), "{:?}", ended.members[0].evidence);

    let none = frame.freeze(named(&["/mnt"], Policy::BestEffort)).await.expect("none is told");
    assert_eq!(
        (none.filesystems(), none.members[0].skipped.as_slice()),
        (Some(0), &["/mnt".to_owned()][..])
    );
    frame.leases.thaw(&none.id).await.expect("thaws");

    let all = frame.freeze(named(&["/", "/home"], Policy::Required)).await.expect("all");
    let ended = frame.leases.thaw(&all.id).await.expect("thaws");
    assert_eq!(ended.verdict, Some(Verdict::CountsAgree));
}

#[tokio::test]
async fn a_name_that_is_no_mount_point_is_told_before_anything_is_sent() {
    let frame = Frame::ready().await;
    let some = ["/", "/nowhere", "/srv/"];
    let error = frame.freeze(named(&some, Policy::Required)).await.expect_err("no such thing");
    assert!(matches!(&error, FreezeError::NoMountPoint { names } if names == &["/nowhere"]));
    assert_eq!(frame.guest.ran("guest-fsfreeze-freeze-list"), 0);
    assert!(frame.leases.list().is_empty());
    let lease = frame.freeze(named(&["/", "/nowhere"], Policy::BestEffort)).await.expect("one");
    assert_eq!(
        (lease.filesystems(), &lease.members[0].skipped[..]),
        (Some(1), &["/nowhere".to_owned()][..])
    );
    let ended = frame.leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(ended.verdict, Some(Verdict::Partial));
}

#[tokio::test]
async fn a_rollback_that_hangs_does_not_hang_its_caller() {
    let frame = Frame::ready().await;
    frame.guest.rule(|name| match name {
        "guest-fsfreeze-thaw" => Act::Hold,
        name => without_fsinfo(name),
    });
    let error =
        frame.freeze(named(&["/", "/mnt"], Policy::Required)).await.expect_err("one of two");
    let FreezeError::OutcomeUnknown { lease, .. } = error else { panic!("{error}") };
    assert!(frame.guest.truth().frozen);
    frame.guest.rule(|_| Act::Normal);
    frame.guest.release();
    assert_eq!(frame.ends(&lease).await.state, LeaseState::Failed);
}

#[tokio::test]
async fn a_lost_reply_is_followed_by_one_thaw_at_once() {
    let frame = Frame::ready().await;
    frame.guest.rule(|name| if name.ends_with("-freeze") { Act::Lose } else { Act::Normal });
    let error = frame.freeze(request()).await.expect_err("no reply");
    let FreezeError::OutcomeUnknown { lease, source } = error else { panic!("{error}") };
    assert!(matches!(source, CallError::TimedOut { sent: true, .. }), "{source}");
    let ended = frame.ends(&lease).await;
    assert_eq!((ended.state, ended.verdict), (LeaseState::Failed, Some(Verdict::Unknown)));
    assert_eq!(ended.thaw_cause, Some(ThawCause::Rollback));
    assert_eq!(frame.guest.ran("guest-fsfreeze-freeze"), 1, "never sent twice");
    assert_eq!(frame.guest.ran("guest-fsfreeze-thaw"), 1);
    frame.guest.rule(|_| Act::Normal);
    let next = frame.freeze(request()).await.expect("the VM is free again");
    frame.leases.thaw(&next.id).await.expect("thaws");
}

#[tokio::test]
async fn a_freeze_that_hangs_has_its_thaw_behind_it_in_the_pipe() {
    let frame = Frame::ready().await;
    frame.guest.rule(|name| if name.ends_with("-freeze") { Act::Hold } else { Act::Normal });
    let error = frame.freeze(request()).await.expect_err("no reply");
    let FreezeError::OutcomeUnknown { lease, .. } = error else { panic!("{error}") };
    // The agent answers nothing at all until the freeze is through.
    until(&frame.vm, LinkState::Silent).await;
    assert_eq!(frame.lease(&lease).shown_state(), LeaseState::Thawing);
    frame.guest.release();
    frame.ends(&lease).await;
    let ran = frame.guest.truth().ran;
    let froze = ran.iter().position(|name| name == "guest-fsfreeze-freeze").expect("ran");
    assert_eq!(ran[froze + 1], "guest-fsfreeze-thaw", "the very next thing: {ran:?}");
}

#[tokio::test]
async fn a_thaw_during_the_freeze_stops_it() {
    let frame = Frame::ready().await;
    let begun = Arc::new(AtomicBool::new(false));
    let seen = begun.clone();
    frame.guest.rule(move |name| {
        let freeze = name.ends_with("-freeze");
        seen.fetch_or(freeze, Ordering::Relaxed);
        if freeze { Act::Hold } else { Act::Normal }
    });
    let long = FreezeRequest { freeze_timeout: MINUTE, ..request() };
    let (freeze, thaw) = tokio::join!(frame.freeze(long), async {
        eventually("it is on the wire", || begun.load(Ordering::Relaxed)).await;
        let id = frame.leases.active_on(frame.vm.id()).expect("active").id;
        let release = async {
            eventually("the thaw is asked for", || {
                frame.lease(&id).shown_state() == LeaseState::Thawing
            })
            .await;
            frame.guest.release();
        };
        tokio::join!(frame.leases.thaw(&id), release).0
    });
    let ended = thaw.expect("thaws");
    assert_eq!(ended.thaw_cause, Some(ThawCause::Requested));
    assert!(matches!(freeze, Err(FreezeError::Ended(lease)) if lease.id == ended.id));
    assert!(!frame.guest.truth().frozen);
}

#[tokio::test]
async fn an_error_of_the_freeze_leaves_nothing() {
    let frame = Frame::ready().await;
    frame.guest.rule(|name| match name {
        "guest-fsfreeze-freeze" => {
            Act::Answer(Outcome::Error(QgaError::generic("failed to freeze")))
        }
        _ => Act::Normal,
    });
    let error = frame.freeze(request()).await.expect_err("refused");
    assert!(
        matches!(&error, FreezeError::Call(CallError::Agent(e)) if e.desc == "failed to freeze")
    );
    assert!(frame.leases.list().is_empty());
}

#[tokio::test]
async fn a_thaw_that_complains_and_thaws_ends_with_its_complaint() {
    let frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    // As a thaw hook that fails: everything is thawed, and the reply is an error.
    let mut thawed = false;
    frame.guest.rule(move |name| match name {
        "guest-fsfreeze-thaw" => {
            thawed = true;
            Act::Answer(Outcome::Error(QgaError::generic("hook failed")))
        }
        "guest-fsfreeze-status" if thawed => {
            Act::Answer(Outcome::value(&qga_proto::command::FsfreezeStatus::Thawed))
        }
        _ => Act::Normal,
    });
    let ended = frame.leases.thaw(&lease.id).await.expect("thawed all the same");
    assert_eq!(ended.members[0].thaw_error.as_deref(), Some("hook failed"));
    assert_eq!(ended.verdict, Some(Verdict::Unknown));
}

#[tokio::test]
async fn a_lower_count_at_the_thaw_is_a_lost_freeze() {
    let frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    frame.guest.change(|truth| truth.held = 1);
    let ended = frame.leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(ended.verdict, Some(Verdict::Lost), "{:?}", ended.members[0].evidence);
}

#[tokio::test]
async fn a_stop_thaws_everything_and_takes_no_more() {
    let frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    let report = frame.leases.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.thawed, report.left.len()), (1, 0));
    assert!(!frame.guest.truth().frozen);
    assert_eq!(frame.lease(&lease.id).thaw_cause, Some(ThawCause::Shutdown));
    let refused = frame.freeze(request()).await.expect_err("stopping");
    assert!(matches!(refused, FreezeError::Stopping));
}

#[tokio::test]
async fn a_stop_does_not_wait_longer_than_told_and_says_what_is_left() {
    let frame = Frame::ready().await;
    let lease = frame.freeze(request()).await.expect("freezes");
    frame.guest.rule(|_| Act::Hold);
    let report = frame.leases.shutdown(Duration::from_millis(200)).await;
    assert_eq!(report.left.iter().map(|l| &l.id).collect::<Vec<_>>(), [&lease.id]);
    frame.guest.rule(|_| Act::Normal);
    frame.guest.release();
    frame.ends(&lease.id).await;
}

#[tokio::test]
async fn limits_are_told() {
    let frame = Frame::ready().await;
    let day = Duration::from_secs(86_400);
    let error = frame.freeze(FreezeRequest { ttl: day, ..request() }).await.expect_err("too long");
    assert!(matches!(error, FreezeError::Limit { what: "ttl", .. }), "{error}");
    let request = FreezeRequest { freeze_timeout: day, ..request() };
    let error = frame.freeze(request).await.expect_err("too long");
    assert!(matches!(error, FreezeError::Limit { what: "freeze_timeout", .. }), "{error}");
    assert_eq!(frame.guest.ran("guest-fsfreeze-freeze"), 0);
}

#[tokio::test]
async fn a_lease_keeps_no_more_text_than_a_person_reads() {
    let frame = Frame::ready().await;
    let names = (0..256).map(|n| format!("/{n:01000}"));
    let mountpoints = Some(names.chain(["/".to_owned()]).collect());
    let policy = Policy::BestEffort;
    let lease = frame.freeze(FreezeRequest { mountpoints, policy, ..request() }).await;
    let lease = lease.expect("freezes");
    let skipped = &lease.members[0].skipped;
    assert!(skipped.iter().map(String::len).sum::<usize>() < 20 << 10);
    assert!(skipped.last().is_some_and(|line| line.ends_with(" more")), "{skipped:?}");
    let complaint = "x".repeat(50_000);
    let mut thawed = false;
    frame.guest.rule(move |name| match name {
        "guest-fsfreeze-thaw" => {
            thawed = true;
            Act::Answer(Outcome::Error(QgaError::generic(complaint.clone())))
        }
        "guest-fsfreeze-status" if thawed => {
            Act::Answer(Outcome::value(&qga_proto::command::FsfreezeStatus::Thawed))
        }
        _ => Act::Normal,
    });
    let ended = frame.leases.thaw(&lease.id).await.expect("thaws");
    assert_eq!(ended.mountpoints, None, "it is over");
    let lines = ended.members[0].evidence.iter().chain(&ended.members[0].thaw_error);
    assert!(lines.clone().all(|line| line.len() <= 1024));
    assert!(ended.members[0].thaw_error.as_ref().is_some_and(|line| line.ends_with("(cut)")));
}

#[tokio::test]
async fn ended_leases_are_kept_by_what_they_take() {
    let frame =
        Frame::limited(&QUICK.replace("[limits]", "[limits]\nended_leases_bytes = 1")).await;
    let mut last = None;
    for _ in 0..3 {
        let lease = frame.freeze(request()).await.expect("freezes");
        last = Some(frame.leases.thaw(&lease.id).await.expect("its own answer").id);
    }
    let kept: Vec<_> = frame.leases.list().into_iter().map(|lease| lease.id).collect();
    assert_eq!(kept, Vec::from_iter(last));
}
