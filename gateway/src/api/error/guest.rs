//! What a guest, its agent or the link to it did wrong, as a problem for the caller.

use qga_proto::ErrorClass;
use qga_proto::QgaError;
use qga_proto::command::{CommandInfo, Right};

use super::{Code, Outcome, Problem, printable};
use crate::api::vms::LinkBody;
use crate::vm::{
    CallError, FreezeError, Lease, LeaseId, LinkState, LinkStatus, Registry, Unwritten, VmHandle,
    VmId,
};

/// The problem of a call that failed. `frozen`: a freeze lease is active on the VM.
pub(crate) fn call_failed(
    vm: &VmHandle,
    info: &CommandInfo,
    frozen: bool,
    error: CallError,
) -> Problem {
    let id = vm.id();
    // After an unknown outcome only what changes nothing may simply be tried again. A file read
    // moves its handle's position.
    let harmless = !info.changes_guest && info.right == Right::Observe;
    let problem = match error {
        CallError::Unavailable { link } => unavailable(vm, &link),
        CallError::QueueFull => Problem::new(
            Code::QueueFull,
            format!(
                "Too many calls already wait for VM \"{id}\". Nothing was sent; try again in a \
                 moment, with fewer requests at once."
            ),
        )
        .outcome(Outcome::NotSent, true)
        .retry_after(1),
        CallError::TimedOut { sent: false, after } => Problem::new(
            Code::AgentTimeout,
            format!(
                "{} was not sent to VM \"{id}\": calls before it kept the agent busy for {:.1} s.",
                info.name,
                after.as_secs_f64()
            ),
        )
        .outcome(Outcome::NotSent, true)
        .link(vm.link().into()),
        CallError::TimedOut { sent: true, after } => Problem::new(
            Code::AgentTimeout,
            format!(
                "{} was sent to VM \"{id}\", and no answer came within {:.1} s. {}",
                info.name,
                after.as_secs_f64(),
                unknown_outcome(harmless)
            ),
        )
        .outcome(Outcome::Unknown, harmless)
        .link(vm.link().into()),
        CallError::Interrupted { reason } => Problem::new(
            Code::AgentUnavailable,
            format!(
                "{} was sent to VM \"{id}\", and its answer was lost: {}. {}",
                info.name,
                printable(&reason),
                unknown_outcome(harmless)
            ),
        )
        .outcome(Outcome::Unknown, harmless)
        .link(vm.link().into())
        .retry_after(2),
        CallError::BadReply { reason } => Problem::new(
            Code::AgentBadReply,
            format!(
                "The agent of VM \"{id}\" answered {} with something that is no valid answer: \
                 {}. {}",
                info.name,
                printable(&reason),
                unknown_outcome(harmless)
            ),
        )
        .outcome(Outcome::Unknown, harmless),
        CallError::Agent(error) => agent_error(vm, info, frozen, &error),
        CallError::Unsupported => unsupported(vm, info.name),
    };
    problem.vm(id).command(info.name)
}

const fn unknown_outcome(harmless: bool) -> &'static str {
    if harmless {
        "The command changes nothing, so it may be sent again."
    } else {
        "Whether the guest carried it out is not known: look before sending it again."
    }
}

/// The link's own sentence says why; this adds what it means for the request.
fn unavailable(vm: &VmHandle, link: &LinkStatus) -> Problem {
    let id = vm.id();
    if link.state == LinkState::Paused {
        let why = link.reason.as_deref().map(printable).unwrap_or_default();
        return Problem::new(
            Code::VmPaused,
            format!(
                "VM \"{id}\" does not run ({why}), so nothing in it can answer. Nothing was sent; \
                 let it run again first."
            ),
        )
        .outcome(Outcome::NotSent, true)
        .link(link.clone().into());
    }
    let meaning = match link.state {
        LinkState::Absent => {
            "there is no socket to its guest agent; the VM probably is not running"
        }
        LinkState::Refused => "the socket to its guest agent takes no connection",
        LinkState::Busy => "another program holds the socket to its guest agent",
        LinkState::Silent => {
            "nothing answers on its guest agent's socket; the agent is not running in the \
             guest, or is stuck"
        }
        LinkState::Ready | LinkState::Frozen => "the link to its guest agent was just lost",
        LinkState::Paused => "it is paused",
    };
    let why = link.reason.as_deref().map(printable).unwrap_or_default();
    let detail = if why.is_empty() {
        format!("VM \"{id}\" cannot be reached: {meaning}. Nothing was sent.")
    } else {
        format!("VM \"{id}\" cannot be reached: {meaning} ({why}). Nothing was sent.")
    };
    Problem::new(Code::AgentUnavailable, detail)
        .outcome(Outcome::NotSent, true)
        .link(LinkBody::from(link.clone()))
        .retry_after(if link.state == LinkState::Absent { 10 } else { 2 })
}

fn agent_error(vm: &VmHandle, info: &CommandInfo, frozen: bool, error: &QgaError) -> Problem {
    let id = vm.id();
    let problem = if error.is_disabled() {
        // The text does not tell policy from a freeze (qga-facts.md 1.3), the state does.
        let frozen =
            frozen || vm.link().state == LinkState::Frozen || error.desc.contains("frozen");
        if frozen && !info.allowed_while_frozen {
            self::frozen(vm, info.name, None).outcome(Outcome::Failed, true)
        } else {
            disabled(vm, info.name).outcome(Outcome::Failed, false)
        }
    } else if error.is_not_found() {
        unsupported(vm, info.name)
    } else if let Some(problem) = super::files::by_errno(vm, info, error) {
        problem
    } else if is_unknown_option(error) {
        Problem::new(
            Code::CommandUnsupported,
            format!(
                "The agent of VM \"{id}\" has {}, but not with these arguments: it is older \
                 than this request needs.",
                info.name
            ),
        )
        .outcome(Outcome::Failed, false)
    } else {
        Problem::new(
            Code::AgentError,
            format!(
                "The agent of VM \"{id}\" answered {} with an error: \"{}\".",
                info.name,
                printable(&error.desc).trim_end_matches("\\n")
            ),
        )
        .outcome(Outcome::Failed, false)
    };
    let problem = problem.guest_said(error.class.as_str(), &error.desc);
    match &error.errno {
        Some(errno) => problem.errno(errno),
        None => problem,
    }
}

/// The guest does not run this now. `lease`: whose freeze it is.
pub(crate) fn frozen(vm: &VmHandle, command: &str, lease: Option<LeaseId>) -> Problem {
    let id = vm.id();
    let by = lease.as_ref().map(|lease| format!(" by lease {lease}")).unwrap_or_default();
    let problem = Problem::new(
        Code::VmFrozen,
        format!("VM \"{id}\" is frozen{by}, and its agent runs {command} only when thawed."),
    );
    match lease {
        Some(lease) => problem.lease(lease),
        None => problem,
    }
}

pub(crate) fn disabled(vm: &VmHandle, command: &str) -> Problem {
    // Since 9.1 an agent does not list what its system does not have (qga-facts.md 2.1).
    let old = vm.capabilities().is_some_and(|agent| agent.before(9, 1));
    let or = if old {
        ", or its system does not have it: agents before QEMU 9.1 say the same"
    } else {
        ""
    };
    Problem::new(
        Code::CommandDisabled,
        format!(
            "The agent of VM \"{}\" has {command} switched off by its own configuration in the \
             guest (block-rpcs or allow-rpcs){or}. Only there can it be allowed.",
            vm.id()
        ),
    )
}

pub(crate) fn unsupported(vm: &VmHandle, command: &str) -> Problem {
    let version = vm.capabilities().map(|c| printable(&c.version));
    let which = version.map(|v| format!(" (version {v})")).unwrap_or_default();
    Problem::new(
        Code::CommandUnsupported,
        format!("The guest agent of VM \"{}\"{which} has no command {command}.", vm.id()),
    )
    .outcome(Outcome::Failed, false)
}

/// `Parameter 'x' is unexpected`: an older agent does not know an argument that exists now.
fn is_unknown_option(error: &QgaError) -> bool {
    error.class == ErrorClass::GenericError
        && error.desc.starts_with("Parameter '")
        && error.desc.ends_with("is unexpected")
}

/// How a VM without a lease comes to be frozen, and the way out.
pub(crate) fn frozen_without_lease(id: &VmId, link: Option<&LinkStatus>) -> String {
    let force = format!("DELETE /vms/{id}/fsfreeze?force=true");
    // A frozen link has a reason only where "frozen" is not the whole story.
    match link.and_then(|link| link.reason.as_deref()) {
        Some(reason) => format!(
            "VM \"{id}\" counts as frozen, without a lease of this gateway: {}. Some of its \
             filesystems may stand still; {force} thaws them.",
            printable(reason)
        ),
        None => format!(
            "VM \"{id}\" is frozen, but not by a lease of this gateway: whoever froze it should \
             thaw it. If nobody will: {force}."
        ),
    }
}

/// The problem of a renewal or a thaw of a lease that failed.
pub(crate) fn lease_failed(
    registry: &Registry,
    lease: &Lease,
    info: &CommandInfo,
    error: FreezeError,
) -> Problem {
    let (which, error) = match error {
        FreezeError::Group { vm, source, .. } => (vm, *source),
        // A lease has at least one VM.
        error => (lease.members[0].vm.clone(), error),
    };
    let handle = registry.get(&which);
    freeze_failed(&which, handle.as_ref(), info, true, error).lease(&lease.id)
}

/// The problem of a freeze, renewal or thaw that failed. `vm` is absent where the gateway does not
/// know the lease's VM any more.
pub(crate) fn freeze_failed(
    id: &VmId,
    vm: Option<&VmHandle>,
    info: &CommandInfo,
    frozen: bool,
    error: FreezeError,
) -> Problem {
    let problem = match error {
        FreezeError::Call(error) => match vm {
            Some(vm) => return call_failed(vm, info, frozen, error),
            None => Problem::new(
                Code::AgentUnavailable,
                format!("VM \"{id}\" is gone, so nothing can be sent to it. {error}"),
            )
            .outcome(Outcome::NotSent, false),
        },
        FreezeError::NotBegun { command, source } => {
            return freeze_failed(id, vm, command, frozen, FreezeError::Call(source))
                .preceded_by("No freeze was sent, because what goes before it failed.")
                .outcome(Outcome::NotSent, true);
        }
        FreezeError::FrozenMeanwhile => Problem::new(
            Code::AlreadyFrozen,
            format!(
                "VM \"{id}\" refused the freeze: somebody else had frozen it since it was last \
                 asked, and not through this gateway. Whoever froze it must thaw it."
            ),
        )
        .outcome(Outcome::Failed, true),
        FreezeError::NothingToFreeze => Problem::new(
            Code::NothingToFreeze,
            format!(
                "The agent of VM \"{id}\" froze no filesystem, and the policy \"required\" needs \
                 one. Nothing is frozen, and there is no lease."
            ),
        )
        .outcome(Outcome::Failed, false),
        FreezeError::AlreadyFrozen { lease: Some(lease) } => Problem::new(
            Code::AlreadyFrozen,
            format!("VM \"{id}\" is frozen already, by lease {lease}."),
        )
        .outcome(Outcome::NotSent, true)
        .lease(lease),
        FreezeError::AlreadyFrozen { lease: None } => Problem::new(
            Code::AlreadyFrozen,
            frozen_without_lease(id, vm.map(VmHandle::link).as_ref()),
        )
        .outcome(Outcome::NotSent, true),
        FreezeError::Incomplete { wanted, frozen } => Problem::new(
            Code::FreezeIncomplete,
            format!(
                "Of the {wanted} mount points named, VM \"{id}\" could freeze {frozen}, and the \
                 policy \"required\" needs all. Everything was thawed again, and there is no \
                 lease. Look for names that are no mount points in the guest, or ask for \
                 \"best_effort\"."
            ),
        )
        .outcome(Outcome::Failed, false),
        FreezeError::NoMountPoint { names } => Problem::new(
            Code::NoSuchMountpoint,
            format!(
                "VM \"{id}\" has nothing mounted at {}. Nothing was sent. GET /vms/{id}/filesystems \
                 lists its mount points; with \"best_effort\" the others are frozen.",
                printable(&names.join(", "))
            ),
        )
        .outcome(Outcome::NotSent, false),
        FreezeError::Skipped { skipped } => Problem::new(
            Code::FreezeIncomplete,
            format!(
                "VM \"{id}\" could not freeze {}, and the policy \"required\" needs everything that \
                 can be written to. Everything was thawed again. Name the mount points that \
                 matter, or ask for \"best_effort\".",
                printable(&skipped.join(", "))
            ),
        )
        .outcome(Outcome::Failed, false),
        FreezeError::Group { vm: which, source, lease, undone } => {
            let handle = if which == *id { vm } else { None };
            let mut problem = freeze_failed(&which, handle, info, frozen, *source);
            let others = match (&lease, undone) {
                (None, _) => "No VM was frozen.".to_owned(),
                (Some(_), true) => "All others are thawed again.".to_owned(),
                (Some(lease), false) => format!(
                    "Not all others are known to be thawed: the gateway goes on; follow it in \
                     GET /freezes/{lease}."
                ),
            };
            problem = problem.preceded_by(&format!("VM \"{which}\" failed. {others}"));
            return match lease {
                Some(lease) => problem.lease(lease),
                None => problem,
            };
        }
        FreezeError::HoldLimit { max, left } => Problem::new(
            Code::HoldLimit,
            format!(
                "A freeze may be held for {} s in all, renewals included (limits.hold_max_seconds), \
                 and {} s of them are left. The lease ends when it would have.",
                max.as_secs(),
                left.as_secs()
            ),
        )
        .outcome(Outcome::NotSent, false),
        FreezeError::TooManyFrozen { max } => Problem::new(
            Code::TooManyFrozen,
            format!(
                "At most {max} VMs may be frozen at once (limits.frozen_vms_max). Nothing was sent; \
                 thaw others first."
            ),
        )
        .outcome(Outcome::NotSent, true)
        .retry_after(10),
        FreezeError::Unwritable(error) => {
            let (meaning, outcome) = match error.when {
                Unwritten::Begin => (
                    "no freeze is begun that a restart of the gateway would forget. Nothing was \
                     sent to any guest",
                    Outcome::NotSent,
                ),
                Unwritten::Frozen => (
                    "the freeze, which a restart of the gateway would not know to be complete, is \
                     undone: do not rely on it",
                    Outcome::Failed,
                ),
                Unwritten::Renewal => (
                    "the renewal does not count: the lease ends when it would have",
                    Outcome::Failed,
                ),
            };
            Problem::new(
                Code::StateUnwritable,
                format!(
                    "The gateway cannot write its state ({}), so {meaning}. Make room or mend the \
                     disk below state_dir; the gateway tries again by itself.",
                    printable(&error.source.reason)
                ),
            )
            .outcome(outcome, true)
            .retry_after(5)
        }
        FreezeError::OutcomeUnknown { lease, source } => {
            let meaning = format!(
                "The gateway is thawing VM \"{id}\", because it cannot know whether the freeze \
                 took place: do not rely on one, and follow the thaw in GET /freezes/{lease}."
            );
            freeze_failed(id, vm, info, frozen, FreezeError::Call(source))
                .preceded_by(&meaning)
                .outcome(Outcome::Unknown, false)
                .lease(lease)
        }
        FreezeError::NotFound => {
            Problem::new(Code::LeaseNotFound, "The lease is not kept any more.")
        }
        FreezeError::Ended(lease) => Problem::new(
            Code::LeaseConflict,
            format!(
                "Lease {} is over or ending ({}): freeze again if that is still needed.",
                lease.id, lease.state
            ),
        ),
        FreezeError::Limit { what, max } => Problem::bad_request(format!(
            "The {what} is more than this gateway's limit of {} s.",
            max.as_secs()
        )),
        FreezeError::Stopping => Problem::new(
            Code::ShuttingDown,
            "The gateway is stopping, so it begins no freeze. Nothing was sent.",
        )
        .outcome(Outcome::NotSent, true)
        .retry_after(5),
    };
    problem.vm(id)
}
