//! `/vms/{id}/fsfreeze`: a VM's freeze, by the VM.

use std::time::Duration;

use axum::Json as Answer;
use axum::response::{IntoResponse as _, Response};
use qga_proto::command::{
    Command, CommandInfo, FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeFreezeList,
    GuestFsfreezeStatus, GuestFsfreezeThaw, GuestGetFsinfo, Right,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Vm};
use super::document::{CALL_PROBLEMS, FREEZE_PROBLEMS, LEASE_PROBLEMS};
use super::error::{Code, Problem, guest};
use super::extract::{Json, NoBody, Path, Query};
use super::freezes::RenewRequest;
use super::idempotency::unchanged;
use super::lease::{IfMatch, LeaseBody, PolicyBody, created};
use super::patience::{ForceQuery, PATIENCE};
use super::preview::{DRY_RUN_TIMEOUT, DryRun, PreviewBody};
use crate::config::Limits;
use crate::vm::{FreezeRequest, Lease, LinkState, Order, Policy, ThawCause};

/// What the guest says, and the lease that the gateway holds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FsfreezeBody {
    /// The agent's own word: what was frozen past the agent is not in it.
    status: FsfreezeStatus,
    /// The active lease; `null` if there is none, or if somebody else froze the VM.
    #[schema(required)]
    lease: Option<LeaseBody>,
}

/// How to freeze. Everything has a default.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ttl_seconds": 60, "freeze_timeout_seconds": 30, "label": "nightly"}))]
pub(super) struct FreezeBody {
    /// How long the freeze may hold; then the gateway thaws by itself. 60 unless the gateway is
    /// configured otherwise, at most 3600 likewise.
    #[schema(minimum = 1, maximum = 3600, example = 60)]
    pub(super) ttl_seconds: Option<u64>,
    /// How long freezing may take. 30 unless configured otherwise, at most 600 likewise.
    #[schema(minimum = 1, maximum = 600, example = 30)]
    pub(super) freeze_timeout_seconds: Option<u64>,
    /// What to freeze, each a path of 1 to 1024 bytes; everything if absent.
    #[schema(schema_with = mountpoints_schema)]
    pub(super) mountpoints: Option<Vec<String>>,
    #[serde(default)]
    pub(super) policy: PolicyBody,
    /// A note for people, at most 200 characters.
    #[schema(max_length = 200)]
    pub(super) label: Option<String>,
}

impl FreezeBody {
    pub(super) fn checked(self, limits: &Limits) -> Result<FreezeRequest, Problem> {
        if let Some(mountpoints) = &self.mountpoints {
            check_mountpoints(mountpoints)
                .map_err(|why| Problem::bad_member("mountpoints", why))?;
        }
        if let Some(label) = &self.label
            && (label.chars().count() > 200 || label.chars().any(char::is_control))
        {
            return Err(Problem::bad_member(
                "label",
                "must be at most 200 characters without control characters",
            ));
        }
        Ok(FreezeRequest {
            ttl: seconds("ttl_seconds", self.ttl_seconds, limits.ttl_default, limits.ttl_max)?,
            freeze_timeout: seconds(
                "freeze_timeout_seconds",
                self.freeze_timeout_seconds,
                limits.freeze_timeout_default,
                limits.freeze_timeout_max,
            )?,
            mountpoints: self.mountpoints,
            policy: match self.policy {
                PolicyBody::Required => Policy::Required,
                PolicyBody::BestEffort => Policy::BestEffort,
            },
            order: Order::Parallel,
            all_or_nothing: true,
            label: self.label,
        })
    }
}

/// How many may be named, and how long each may be: a lease keeps them.
const MOUNTPOINTS: usize = 256;
const MOUNTPOINT: usize = 1024;

/// The derivation has no word for the length of an item.
pub(super) fn mountpoints_schema() -> Schema {
    let path = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MOUNTPOINT));
    ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .items(path)
        .min_items(Some(1))
        .max_items(Some(MOUNTPOINTS))
        .description(Some("What to freeze, each a path of 1 to 1024 bytes; everything if absent."))
        .examples([json!(["/", "/srv"])])
        .into()
}

fn check_mountpoints(mountpoints: &[String]) -> Result<(), &'static str> {
    if mountpoints.is_empty() {
        return Err("must name at least one; leave it out to freeze everything");
    }
    if mountpoints.len() > MOUNTPOINTS {
        return Err("must name at most 256; leave it out to freeze everything");
    }
    // Windows' agents take C:\, so a path need not start with a slash.
    if mountpoints.iter().any(|m| m.is_empty() || m.len() > MOUNTPOINT || m.contains('\0')) {
        return Err("each must be a path of 1 to 1024 bytes");
    }
    Ok(())
}

/// A number of seconds from 1 to `max`.
pub(super) fn seconds(
    name: &str,
    value: Option<u64>,
    default: Duration,
    max: Duration,
) -> Result<Duration, Problem> {
    let Some(value) = value else { return Ok(default) };
    if (1..=max.as_secs()).contains(&value) {
        Ok(Duration::from_secs(value))
    } else {
        Err(Problem::bad_member(name, format_args!("must be from 1 to {}", max.as_secs())))
    }
}

/// Show whether a VM is frozen
///
/// `guest-fsfreeze-status`, and the active lease.
#[utoipa::path(
    get,
    path = "/vms/{id}/fsfreeze",
    tag = "freeze",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    responses((status = 200, description = "Status and lease.", body = FsfreezeBody)),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-command" = json!("guest-fsfreeze-status")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn show_fsfreeze(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
) -> Result<Answer<FsfreezeBody>, Problem> {
    let vm = caller.vm(&id, Right::Observe)?.within(timeout);
    let status = vm.call(GuestFsfreezeStatus {}).await?;
    let lease = caller.app().leases.active_on(vm.handle.id()).map(|lease| caller.part_of(lease));
    Ok(Answer(FsfreezeBody { status, lease }))
}

/// Freeze a VM's filesystems
///
/// Answers when they are frozen, with a lease. Thaw by deleting the lease; if nobody does, the
/// gateway thaws after `ttl_seconds`. Renew with PATCH to hold longer. With
/// `dry_run` nothing is frozen and no lease is made: the answer lists what would freeze, and what
/// stands in a freeze's way is answered as the freeze would be. An `Idempotency-Key` is not used up
/// by it.
#[utoipa::path(
    post,
    path = "/vms/{id}/fsfreeze",
    tag = "freeze",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("dry_run" = Option<bool>, Query, description = "Only say what would freeze."),
        ("timeout_seconds" = Option<f64>, Query, description = DRY_RUN_TIMEOUT, example = 30),
    ),
    request_body = FreezeBody,
    responses((
        status = 200,
        description = "With `dry_run`: what would freeze.",
        body = PreviewBody,
    ), (
        status = 201,
        description = "Frozen.",
        body = LeaseBody,
        headers(
            ("location" = String, description = "`/freezes/{lease}`"),
            ("etag" = String, description = "The lease's id in quotes, for `If-Match`"),
        )
    )),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-command" = json!("guest-fsfreeze-freeze")),
        ("x-qga-problems" = json!(FREEZE_PROBLEMS)),
    )
)]
pub(super) async fn freeze_vm(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<DryRun>,
    Json(body): Json<FreezeBody>,
) -> Result<Response, Problem> {
    let vm = caller.vm(&id, Right::Freeze)?;
    let request = body.checked(&caller.app().limits())?;
    if let Some(timeout) = query.checked(caller.app())? {
        let (vm, info) = (vm.within(timeout), &GuestGetFsinfo::INFO);
        caller.sends(info.name);
        let preview = match caller.app().leases.would_begin(1, &request) {
            Ok(()) => PreviewBody::ask(&vm, &request).await,
            Err(error) => Err(error),
        };
        let failed = |error| failed(&caller, &vm, info, error);
        return Ok(unchanged(preview.map(Answer).map_err(failed)));
    }
    let info = match &request.mountpoints {
        None => &GuestFsfreezeFreeze::INFO,
        Some(_) => &GuestFsfreezeFreezeList::INFO,
    };
    caller.sends(info.name);
    let owner = caller.principal().clone();
    let lease = caller.leases().freeze(&vm.handle, request, owner).await;
    lease.iter().for_each(|lease| caller.made(lease));
    let lease = lease.map_err(|e| failed(&caller, &vm, info, e))?;
    Ok(created(lease).into_response())
}

/// Renew a VM's freeze
///
/// The active lease holds for `ttl_seconds` from now.
#[utoipa::path(
    patch,
    path = "/vms/{id}/fsfreeze",
    tag = "freeze",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("force" = Option<bool>, Query, description = "Also if the lease is somebody else's, or of several VMs; needs the right `freeze_force`."),
        ("timeout_seconds" = Option<f64>, Query, description = PATIENCE, example = 30),
        ("if-match" = Option<String>, Header, description = "The lease that must be the active one, in quotes."),
    ),
    request_body = RenewRequest,
    responses((status = 200, description = "Renewed.", body = LeaseBody)),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-problems" = json!(LEASE_PROBLEMS)),
    )
)]
pub(super) async fn renew_fsfreeze(
    caller: Caller,
    Path(id): Path<String>,
    query: ForceQuery,
    if_match: IfMatch,
    Json(body): Json<RenewRequest>,
) -> Result<Answer<LeaseBody>, Problem> {
    let vm = caller.vm(&id, Right::Freeze)?;
    let lease = lease_of(&caller, &vm, &if_match)?;
    whole(&caller, &lease, query.force)?;
    body.renew(&caller, &lease, query.patience).await.map(Answer)
}

/// Thaw a VM
///
/// Answers when the guest says that it has thawed, with the verdict. After the lease has ended it
/// answers the same again.
#[utoipa::path(
    delete,
    path = "/vms/{id}/fsfreeze",
    tag = "freeze",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("force" = Option<bool>, Query, description = "Thaw also what was not frozen through this gateway, or before it was restarted. The answer is a lease that has ended, with the cause `forced`."),
        ("timeout_seconds" = Option<f64>, Query, description = PATIENCE, example = 30),
        ("if-match" = Option<String>, Header, description = "The lease that must be the active one, in quotes."),
    ),
    responses((status = 200, description = "Thawed: the lease with its verdict.", body = LeaseBody)),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-command" = json!("guest-fsfreeze-thaw")),
        ("x-qga-problems" = json!(LEASE_PROBLEMS)),
    )
)]
pub(super) async fn thaw_fsfreeze(
    caller: Caller,
    Path(id): Path<String>,
    query: ForceQuery,
    if_match: IfMatch,
    _: NoBody,
) -> Result<Answer<LeaseBody>, Problem> {
    let vm = caller.vm(&id, Right::Freeze)?;
    if query.force && caller.app().leases.active_on(vm.handle.id()).is_none() {
        caller.authorise(vm.handle.id(), Right::FreezeForce)?;
        caller.sends(THAW.name);
        let owner = caller.principal().clone();
        let leases = &caller.app().leases;
        let thaw = leases.force_thaw(&vm.handle, owner, ThawCause::Forced);
        let thawed = query.patience.once(thaw).await;
        return thawed.map(|l| Answer(l.into())).map_err(|e| failed(&caller, &vm, THAW, e));
    }
    let lease = lease_of(&caller, &vm, &if_match)?;
    whole(&caller, &lease, query.force)?;
    super::freezes::thaw(&caller, &lease, query.patience).await.map(Answer)
}

/// What is done to one VM's freeze is done to the whole lease: of several VMs only if that is meant.
fn whole(caller: &Caller, lease: &Lease, force: bool) -> Result<(), Problem> {
    if lease.sole().is_none() && !lease.ended() && !force {
        return Err(Problem::new(
            Code::LeaseConflict,
            format!(
                "The VM is frozen together with others by lease {id}: use /freezes/{id}, which \
                 means them all, or \"?force=true\" here. Nothing was done.",
                id = lease.id
            ),
        )
        .lease(&lease.id));
    }
    if !caller.sees(lease) {
        return Err(Problem::new(
            Code::LeaseConflict,
            "The VM is frozen together with others, not all of which are yours to see. Who made \
             the lease ends it, or its deadline does. Nothing was done.",
        ));
    }
    caller.over(lease, Right::Freeze)?;
    caller.owns(lease, force)
}

/// The lease that a request on `/vms/{id}/fsfreeze` means: the active one, else the one named,
/// else the last one, so that a thaw that comes after the deadline still learns the verdict.
fn lease_of(caller: &Caller, vm: &Vm, if_match: &IfMatch) -> Result<Lease, Problem> {
    let (leases, id) = (&caller.app().leases, vm.handle.id());
    if let Some(active) = leases.active_on(id) {
        return if_match.check(&active).map(|()| active);
    }
    let named = if_match.ids().find_map(|l| leases.get(&l));
    let named = named.filter(|l| l.member(id).is_some() && caller.sees(l));
    if let Some(named) = named {
        return Ok(named);
    }
    let last = leases.last_on(id).filter(|last| caller.sees(last));
    let link = vm.handle.link();
    if link.state == LinkState::Frozen {
        let detail = guest::frozen_without_lease(id, Some(&link));
        return Err(Problem::new(Code::LeaseConflict, detail).vm(id));
    }
    match last {
        Some(last) if !if_match.is_present() => Ok(last),
        Some(last) => if_match.check(&last).map(|()| last),
        None => Err(Problem::new(
            Code::LeaseNotFound,
            format!("VM \"{id}\" has no freeze lease: it was not frozen through this gateway."),
        )
        .vm(id)),
    }
}

fn failed(caller: &Caller, vm: &Vm, info: &CommandInfo, error: crate::vm::FreezeError) -> Problem {
    let held = caller.app().leases.is_held(vm.handle.id());
    guest::freeze_failed(vm.handle.id(), Some(&vm.handle), info, held, error)
}

/// The command behind every thaw.
pub(super) const THAW: &CommandInfo = &GuestFsfreezeThaw::INFO;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_bounded_in_number_and_length() {
        let names = |count: usize, length: usize| vec!["x".repeat(length); count];
        assert!(check_mountpoints(&names(MOUNTPOINTS, MOUNTPOINT)).is_ok());
        for (count, length) in [(0, 1), (1, 0), (MOUNTPOINTS + 1, 1), (1, MOUNTPOINT + 1)] {
            assert!(check_mountpoints(&names(count, length)).is_err(), "{count} of {length}");
        }
    }
}
