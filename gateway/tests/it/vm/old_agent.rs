//! The lowest version that is spoken to: QEMU 0.15's agent.

use qga_gateway::principal::Principal;
use qga_gateway::vm::{
    CallError, FreezeError, Lease, LeaseState, Leases, LinkState, Registry, ThawCause, Verdict,
    VmHandle,
};
use qga_proto::command::{
    FsfreezeStatus, GuestFsfreezeFreezeList, GuestFsfreezeStatus, GuestInfo, GuestPing,
};
use serde_json::json;
use tempfile::{TempDir, tempdir};

use super::{eventually, one, quick, reaches, recovers, request, until};
use crate::scripted::OldAgent;

struct Frame {
    _dir: TempDir,
    _registry: Registry,
    agent: OldAgent,
    vm: VmHandle,
    leases: Leases,
}

impl Frame {
    async fn ready() -> Self {
        let frame = Self::found("thawed");
        until(&frame.vm, LinkState::Ready).await;
        frame
    }

    /// With an agent that says this of its guest from the beginning.
    fn found(status: &'static str) -> Self {
        let dir = tempdir().expect("tempdir");
        let path = dir.path().join("old");
        let agent = OldAgent::start(&path);
        agent.truth().status = status;
        let (registry, vm) = one(&path);
        let leases = Leases::new(&registry);
        Self { _dir: dir, _registry: registry, agent, vm, leases }
    }

    async fn freeze(&self) -> Result<Lease, FreezeError> {
        self.leases.freeze(&self.vm, request(), Principal::new("test")).await
    }

    async fn force_thaw(&self) -> Result<Lease, FreezeError> {
        self.leases.force_thaw(&self.vm, Principal::new("test"), ThawCause::Forced).await
    }
}

#[tokio::test]
async fn is_spoken_to_in_its_own_way() {
    let Frame { agent, vm, .. } = &Frame::ready().await;
    recovers(vm).await;
    eventually("known", || vm.capabilities().is_some()).await;
    let known = vm.capabilities().expect("known");
    assert_eq!(known.version, "0.15.50");
    assert_eq!((&known.commands, known.echoes_id, known.delimited_sync), (&None, false, false));
    let info = vm.call(GuestInfo {}, quick()).await.expect("answers");
    assert!(info.supported_commands.is_empty());
    let list = GuestFsfreezeFreezeList { mountpoints: Some(vec!["/".into()]) };
    let error = vm.call(list, quick()).await.expect_err("too new");
    assert!(matches!(error, CallError::Unsupported), "{error}");
    assert_eq!(agent.truth().status, "thawed");
}

#[tokio::test]
async fn a_negative_thaw_count_is_a_failure_that_is_retried() {
    for count in [-1, -22] {
        let frame = Frame::ready().await;
        let lease = frame.freeze().await.expect("freezes");
        assert_eq!(lease.filesystems(), Some(2));
        frame.agent.answers("guest-fsfreeze-thaw", json!(count));

        let error = frame.leases.thaw(&lease.id).await.expect_err("the first attempt fails");
        let FreezeError::Call(CallError::Agent(said)) = &error else { panic!("{error}") };
        assert!(said.desc.ends_with(&count.to_string()), "{said}");
        assert_eq!(frame.leases.get(&lease.id).expect("kept").state, LeaseState::Thawing);
        eventually("retried", || frame.agent.ran("guest-fsfreeze-thaw") > 1).await;
        let kept = frame.leases.get(&lease.id).expect("kept");
        assert_eq!((kept.state, kept.verdict), (LeaseState::Thawing, None));
        assert_eq!(frame.vm.link().state, LinkState::Frozen);

        frame.agent.mend("guest-fsfreeze-thaw");
        let ended = || frame.leases.get(&lease.id).is_some_and(|lease| lease.ended());
        eventually("thawed by retrying", ended).await;
        assert_eq!(frame.agent.truth().status, "thawed");
        until(&frame.vm, LinkState::Ready).await;
        let lease = frame.leases.get(&lease.id).expect("kept");
        assert_eq!(lease.verdict, Some(Verdict::CountsAgree), "{:?}", lease.members[0].evidence);
    }
}

#[tokio::test]
async fn a_negative_freeze_count_leaves_no_freeze() {
    for count in [-1, -22] {
        let frame = Frame::ready().await;
        frame.agent.answers("guest-fsfreeze-freeze", json!(count));
        let error = frame.freeze().await.expect_err("a failure");
        let FreezeError::Call(CallError::Agent(said)) = &error else { panic!("{error}") };
        assert!(said.desc.ends_with(&count.to_string()), "{said}");
        assert!(frame.leases.active_on(frame.vm.id()).is_none());
        assert_eq!(frame.vm.link().state, LinkState::Ready);
    }
}

#[tokio::test]
async fn an_agent_in_the_error_state() {
    let frame = Frame::found("error");
    let half_way = "the agent says that a freeze or thaw failed half-way";
    assert_eq!(until(&frame.vm, LinkState::Frozen).await, half_way);
    // Looking does not make it look better.
    let status = frame.vm.call(GuestFsfreezeStatus {}, quick()).await.expect("answers");
    assert_eq!(status, FsfreezeStatus::Error);
    assert_eq!(frame.vm.link().reason.as_deref(), Some(half_way));

    let error = frame.freeze().await.expect_err("refused");
    assert!(matches!(error, FreezeError::AlreadyFrozen { lease: None }), "{error}");
    assert_eq!(frame.agent.ran("guest-fsfreeze-freeze"), 0);
    assert!(frame.leases.list().is_empty());

    frame.agent.answers("guest-fsfreeze-thaw", json!(-1));
    let error = frame.force_thaw().await.expect_err("not thawed");
    let FreezeError::Call(CallError::Agent(said)) = &error else { panic!("{error}") };
    assert!(said.desc.contains("-1"), "{said}");
    assert!(frame.leases.list().is_empty(), "nobody goes on trying what nobody holds");
    assert_eq!(frame.vm.link().reason.as_deref(), Some(half_way));

    frame.agent.mend("guest-fsfreeze-thaw");
    let thawed = frame.force_thaw().await.expect("thaws");
    assert_eq!((thawed.state, thawed.thaw_cause), (LeaseState::Thawed, Some(ThawCause::Forced)));
    assert_eq!(frame.agent.truth().status, "thawed");
    let link = reaches(&frame.vm, |link| link.state == LinkState::Ready).await;
    assert_eq!(link.reason, None);
}

#[tokio::test]
async fn a_repeated_line_is_told_to_one_caller_at_most() {
    for (repeated, most) in [("guest-ping", 0), ("guest-info", 0), ("guest-sync", 1)] {
        let frame = Frame::ready().await;
        eventually("known", || frame.vm.capabilities().is_some()).await;
        let mut wrong = 0;
        for round in 0..8 {
            if round == 1 {
                frame.agent.truth().twice = Some(repeated);
            }
            let vm = &frame.vm;
            let (ping, info, status) = tokio::join!(
                vm.call(GuestPing {}, quick()),
                vm.call(GuestInfo {}, quick()),
                vm.call(GuestFsfreezeStatus {}, quick()),
            );
            if let Ok(info) = &info {
                assert_eq!(info.version, "0.15.50");
            }
            if let Ok(status) = status {
                assert_eq!(status, FsfreezeStatus::Thawed);
            }
            for error in [ping.err(), info.err(), status.err()].into_iter().flatten() {
                assert!(matches!(error, CallError::BadReply { .. }), "{repeated}: {error}");
                wrong += 1;
            }
        }
        assert!(wrong <= most, "{repeated}: {wrong} wrong answers");
        assert_eq!(frame.agent.truth().twice, None, "it was repeated");
        assert_eq!(frame.vm.counters().connections, 1, "in step on the same connection");
    }
}
