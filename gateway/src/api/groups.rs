//! `POST /freezes`: several VMs under one lease.

use std::collections::{BTreeMap, HashSet};

use axum::Json as Answer;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use qga_proto::command::{Command as _, GuestFsfreezeFreeze, GuestGetFsinfo, Right};
use serde::Deserialize;
use utoipa::ToSchema;

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Vm};
use super::document::FREEZE_PROBLEMS;
use super::error::{Code, Problem, guest};
use super::extract::{Json, Query};
use super::fsfreeze::{FreezeBody, mountpoints_schema};
use super::idempotency::unchanged;
use super::lease::{LeaseBody, OrderBody, PolicyBody};
use super::preview::{DRY_RUN_TIMEOUT, DryRun, GroupPreviewBody};
use crate::config::Limits;
use crate::vm::{FreezeError, FreezeRequest, Order, VmHandle};

/// Which VMs to freeze together, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"vms": ["db1", "db2"], "order": "sequential", "ttl_seconds": 60}))]
pub(super) struct GroupBody {
    /// The VMs, in the order of freezing; this or `selector`.
    #[schema(min_items = 1)]
    vms: Option<Vec<String>>,
    /// All VMs that it chooses, by id; this or `vms`.
    selector: Option<Selector>,
    #[serde(default)]
    order: OrderBody,
    /// Whether all are thawed again if one does not freeze; true if absent.
    all_or_nothing: Option<bool>,
    /// As for one VM; it begins when the last VM is frozen.
    #[schema(minimum = 1, maximum = 3600, example = 60)]
    ttl_seconds: Option<u64>,
    /// As for one VM; it bounds the freezing of all.
    #[schema(minimum = 1, maximum = 600, example = 30)]
    freeze_timeout_seconds: Option<u64>,
    /// What to freeze in each VM, each a path of 1 to 1024 bytes; everything if absent.
    #[schema(schema_with = mountpoints_schema)]
    mountpoints: Option<Vec<String>>,
    #[serde(default)]
    policy: PolicyBody,
    /// A note for people, at most 200 characters.
    #[schema(max_length = 200)]
    label: Option<String>,
}

/// Chooses VMs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Selector {
    /// Labels that a VM must have, at least one.
    labels: BTreeMap<String, String>,
}

/// Freeze several VMs together
///
/// Answers when all are frozen, with one lease; DELETE and PATCH on it act on all. Refused whole if
/// a VM is unknown, chosen twice, or out of the caller's rights, or if there is none. With
/// `all_or_nothing` (the default) one that does not freeze has all others thawed again. With `Prefer:
/// respond-async` it answers as soon as the lease is on disk. With `dry_run` nothing is frozen and no
/// lease is made: the answer lists for each VM what would freeze, or what stands in its way. An
/// `Idempotency-Key` is not used up by it.
#[utoipa::path(
    post,
    path = "/freezes",
    tag = "freeze",
    params(
        ("dry_run" = Option<bool>, Query, description = "Only say what would freeze."),
        ("timeout_seconds" = Option<f64>, Query, description = DRY_RUN_TIMEOUT, example = 30),
        ("prefer" = Option<String>, Header, description = "`respond-async`: 202 at once."),
    ),
    request_body = GroupBody,
    responses(
        (status = 200, description = "With `dry_run`: what would freeze.", body = GroupPreviewBody),
        (status = 201, description = "Frozen.", body = LeaseBody, headers(
            ("location" = String, description = "`/freezes/{lease}`"),
            ("etag" = String, description = "The lease's id in quotes, for `If-Match`"),
        )),
        (status = 202, description = "Begun.", body = LeaseBody, headers(
            ("location" = String, description = "`/freezes/{lease}`"),
        )),
    ),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-command" = json!("guest-fsfreeze-freeze")),
        ("x-qga-problems" = json!(FREEZE_PROBLEMS)),
    )
)]
pub(super) async fn freeze_vms(
    caller: Caller,
    Query(query): Query<DryRun>,
    headers: HeaderMap,
    Json(mut body): Json<GroupBody>,
) -> Result<Response, Problem> {
    let vms = chosen(&caller, body.vms.take(), body.selector.take())?;
    let request = body.checked(&caller.app().limits())?;
    if let Some(timeout) = query.checked(caller.app())? {
        return Ok(unchanged(would_freeze(&caller, &vms, &request, timeout).await));
    }
    let info = &GuestFsfreezeFreeze::INFO;
    caller.sends(info.name);
    // At least one was chosen.
    let first = vms[0].clone();
    let failed = |error: FreezeError| {
        let other = match &error {
            FreezeError::Group { vm, .. } => caller.app().registry.get(vm),
            _ => None,
        };
        let vm = other.as_ref().unwrap_or(&first);
        guest::freeze_failed(vm.id(), Some(vm), info, false, error)
    };
    let owner = caller.principal().clone();
    let started = caller.leases().begin(vms, request, owner).map_err(failed)?;
    let (status, lease) = if prefers_async(&headers) {
        (StatusCode::ACCEPTED, started.begun().await.map_err(failed)?)
    } else {
        (StatusCode::CREATED, started.outcome().await.map_err(failed)?)
    };
    caller.made(&lease);
    let headers = [
        (header::LOCATION, format!("/freezes/{}", lease.id)),
        (header::ETAG, format!("\"{}\"", lease.id)),
    ];
    Ok((status, headers, Answer(LeaseBody::from(lease))).into_response())
}

impl GroupBody {
    fn checked(self, limits: &Limits) -> Result<FreezeRequest, Problem> {
        let single = FreezeBody {
            ttl_seconds: self.ttl_seconds,
            freeze_timeout_seconds: self.freeze_timeout_seconds,
            mountpoints: self.mountpoints,
            policy: self.policy,
            label: self.label,
        };
        let mut request = single.checked(limits)?;
        request.order = match self.order {
            OrderBody::Parallel => Order::Parallel,
            OrderBody::Sequential => Order::Sequential,
        };
        request.all_or_nothing = self.all_or_nothing.unwrap_or(true);
        Ok(request)
    }
}

/// What a freeze of these VMs would freeze.
async fn would_freeze(
    caller: &Caller,
    vms: &[VmHandle],
    request: &FreezeRequest,
    timeout: CallTimeout,
) -> Result<Answer<GroupPreviewBody>, Problem> {
    let info = &GuestGetFsinfo::INFO;
    caller.sends(info.name);
    let failed = |vm: &VmHandle, error| {
        let held = caller.app().leases.is_held(vm.id());
        guest::freeze_failed(vm.id(), Some(vm), info, held, error)
    };
    let room = caller.app().leases.would_begin(vms.len(), request);
    room.map_err(|error| failed(&vms[0], error))?;
    let asked = |vm: &VmHandle| Ok(caller.vm(vm.id().as_str(), Right::Freeze)?.within(timeout));
    let vms = vms.iter().map(asked).collect::<Result<Vec<Vm>, Problem>>()?;
    let ask = GroupPreviewBody::ask(&vms, request, |vm, error| failed(&vm.handle, error));
    Ok(Answer(ask.await))
}

/// The VMs that are meant, all of which the caller may freeze.
fn chosen(
    caller: &Caller,
    vms: Option<Vec<String>>,
    selector: Option<Selector>,
) -> Result<Vec<VmHandle>, Problem> {
    match (vms, selector) {
        (Some(ids), None) => {
            let mut seen = HashSet::new();
            if let Some(twice) = ids.iter().find(|id| !seen.insert(id.as_str())) {
                let twice = super::error::printable(twice);
                return Err(Problem::bad_member("vms", format!("names \"{twice}\" twice")));
            }
            if ids.is_empty() {
                return Err(Problem::bad_member("vms", "must name at least one"));
            }
            ids.iter().map(|id| caller.vm(id, Right::Freeze).map(|vm| vm.handle)).collect()
        }
        (None, Some(Selector { labels })) => {
            if labels.is_empty() {
                return Err(Problem::bad_member("selector", "must name at least one label"));
            }
            let has = |vm: &VmHandle| {
                labels.iter().all(|(key, value)| vm.labels().get(key) == Some(value))
            };
            let vms: Vec<_> = caller.app().registry.list().into_iter().filter(has).collect();
            if !vms.iter().any(|vm| caller.sees_vm(vm.id())) {
                return Err(Problem::bad_member("selector", "no VM has these labels"));
            }
            // Those that are not there for the caller are not to be named.
            if vms.iter().all(|vm| caller.may(vm, Right::Freeze)) {
                return Ok(vms);
            }
            Err(Problem::new(
                Code::Forbidden,
                format!(
                    "The selector takes in VMs on which {} does not have the right freeze. \
                     Nothing was frozen; narrow it, or name the VMs.",
                    caller.principal()
                ),
            ))
        }
        _ => Err(Problem::bad_request("Exactly one of \"vms\" and \"selector\" is needed.")),
    }
}

fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut wishes = values.flat_map(|value| value.split(',')).map(str::trim);
    wishes.any(|wish| wish.eq_ignore_ascii_case("respond-async"))
}
