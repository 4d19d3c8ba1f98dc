//! `/freezes`: freeze leases, by the lease.

use axum::Json as Answer;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use qga_proto::command::{Command as _, CommandInfo, Right, XFsfreezeRenew};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::Caller;
use super::document::LEASE_PROBLEMS;
use super::error::{Problem, guest};
use super::extract::{Json, NoBody, NoQuery, Path};
use super::fsfreeze::{THAW, seconds};
use super::lease::{IfMatch, LeaseBody};
use super::page_of_freezes::{LeasePage, Place};
use super::patience::{ForceQuery, PATIENCE, Patience};
use crate::vm::{FreezeError, Lease};

/// Freeze leases.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FreezeList {
    /// Active ones and ended ones, as long as those are kept.
    freezes: Vec<LeaseBody>,
    /// For `after`, where there are more; `null` at the end.
    #[schema(required)]
    next: Option<String>,
}

/// For how long to hold from now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ttl_seconds": 60}))]
pub(super) struct RenewRequest {
    /// As when the lease was made, if absent.
    #[schema(minimum = 1, maximum = 3600, example = 60)]
    ttl_seconds: Option<u64>,
}

impl RenewRequest {
    pub(super) async fn renew(
        self,
        caller: &Caller,
        lease: &Lease,
        patience: Patience,
    ) -> Result<LeaseBody, Problem> {
        let max = caller.app().limits().ttl_max;
        let ttl = seconds("ttl_seconds", self.ttl_seconds, lease.ttl, max)?;
        let leases = &caller.app().leases;
        let renewed = patience.ask(|| leases.renew(&lease.id, ttl)).await;
        renewed.map(LeaseBody::from).map_err(|error| failed(caller, lease, RENEW, error))
    }
}

pub(super) async fn thaw(
    caller: &Caller,
    lease: &Lease,
    patience: Patience,
) -> Result<LeaseBody, Problem> {
    caller.sends(THAW.name);
    let thawed = patience.ask(|| caller.app().leases.thaw(&lease.id)).await;
    thawed.map(LeaseBody::from).map_err(|error| {
        let goes_on = matches!(error, FreezeError::Call(_) | FreezeError::Group { .. });
        let problem = failed(caller, lease, THAW, error);
        let follow = format!(
            "The guest has not said yet that it is thawed. The gateway goes on until it does: \
             follow GET /freezes/{}.",
            lease.id
        );
        if goes_on { problem.preceded_by(&follow) } else { problem }
    })
}

/// The command behind a renewal, where a guest is told of it.
const RENEW: &CommandInfo = &XFsfreezeRenew::INFO;

fn failed(caller: &Caller, lease: &Lease, info: &CommandInfo, error: FreezeError) -> Problem {
    guest::lease_failed(&caller.app().registry, lease, info, error)
}

/// List the freeze leases
///
/// Oldest first, a page at a time; `next` and the header `Link` lead to the following one. Who hung
/// up before the answer finds the lease here. Each filter may be repeated, and any value will do.
#[utoipa::path(
    get,
    path = "/freezes",
    tag = "freeze",
    params(
        ("limit" = Option<usize>, Query, description = "How many at most, from 1 to 10000; 1000 if absent.", example = 1000, minimum = 1, maximum = 10000),
        ("after" = Option<String>, Query, description = "Only those behind this place: `next` of the page before."),
        ("state" = Option<Vec<String>>, Query, description = "Only `active` ones, `ended` ones, or those in this state.", example = json!(["active"])),
        ("vm" = Option<Vec<String>>, Query, description = "Only those of this VM.", example = json!(["web-1"])),
        ("owner" = Option<Vec<String>>, Query, description = "Only those of this principal.", example = json!(["unix:uid=0"])),
        ("label" = Option<Vec<String>>, Query, description = "Only those with this note, whole.", example = json!(["nightly"])),
    ),
    responses((
        status = 200,
        description = "The leases.",
        body = FreezeList,
        headers(("link" = String, description = "`<…>; rel=\"next\"`, where there are more"))
    )),
    extensions(("x-qga-right" = json!(Right::Freeze)))
)]
pub(super) async fn list_freezes(caller: Caller, page: LeasePage) -> Response {
    // Only their places: what is not the caller's, or not on this page, is not copied.
    let (leases, mut found) = (&caller.app().leases, Vec::new());
    let mut may = caller.may_with_leases(Right::Freeze);
    leases.look(|lease| {
        if page.wants(lease) && may(lease) {
            found.push(Place::of(lease));
        }
    });
    // By the very order that a place stands for.
    found.sort_unstable();
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let next = found.last().filter(|_| more).map(ToString::to_string);
    let link = next.as_deref().map(|next| [(header::LINK, page.link(next))]);
    // One may have been forgotten meanwhile.
    let found = found.iter().filter_map(|place| leases.get(place.id()));
    let freezes = found.map(LeaseBody::from).collect();
    (link, Answer(FreezeList { freezes, next })).into_response()
}

/// Show a freeze lease
///
/// Also after it has ended, with its verdict.
#[utoipa::path(
    get,
    path = "/freezes/{lease}",
    tag = "freeze",
    params(("lease" = String, Path, description = "The lease.", example = "frz_0123456789abcdef0123456789abcdef")),
    responses((status = 200, description = "The lease.", body = LeaseBody)),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-problems" = json!(["lease_not_found"])),
    )
)]
pub(super) async fn show_freeze(
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Answer<LeaseBody>, Problem> {
    Ok(Answer(caller.lease(&id, Right::Freeze)?.into()))
}

/// Renew a freeze lease
///
/// It holds for `ttl_seconds` from now.
#[utoipa::path(
    patch,
    path = "/freezes/{lease}",
    tag = "freeze",
    params(
        ("lease" = String, Path, description = "The lease.", example = "frz_0123456789abcdef0123456789abcdef"),
        ("force" = Option<bool>, Query, description = "Also if it is somebody else's; needs the right `freeze_force`."),
        ("timeout_seconds" = Option<f64>, Query, description = PATIENCE, example = 30),
    ),
    request_body = RenewRequest,
    responses((status = 200, description = "Renewed.", body = LeaseBody)),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-problems" = json!(LEASE_PROBLEMS)),
    )
)]
pub(super) async fn renew_freeze(
    caller: Caller,
    Path(id): Path<String>,
    query: ForceQuery,
    if_match: IfMatch,
    Json(body): Json<RenewRequest>,
) -> Result<Answer<LeaseBody>, Problem> {
    let lease = caller.lease(&id, Right::Freeze)?;
    if_match.check(&lease)?;
    caller.owns(&lease, query.force)?;
    body.renew(&caller, &lease, query.patience).await.map(Answer)
}

/// Thaw by the lease
///
/// Answers when the guest says that it has thawed, with the verdict. After the lease has ended it
/// answers the same again.
#[utoipa::path(
    delete,
    path = "/freezes/{lease}",
    tag = "freeze",
    params(
        ("lease" = String, Path, description = "The lease.", example = "frz_0123456789abcdef0123456789abcdef"),
        ("force" = Option<bool>, Query, description = "Also if it is somebody else's; needs the right `freeze_force`."),
        ("timeout_seconds" = Option<f64>, Query, description = PATIENCE, example = 30),
    ),
    responses((status = 200, description = "Thawed: the lease with its verdict.", body = LeaseBody)),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-command" = json!("guest-fsfreeze-thaw")),
        ("x-qga-problems" = json!(LEASE_PROBLEMS)),
    )
)]
pub(super) async fn thaw_freeze(
    caller: Caller,
    Path(id): Path<String>,
    query: ForceQuery,
    if_match: IfMatch,
    _: NoBody,
) -> Result<Answer<LeaseBody>, Problem> {
    let lease = caller.lease(&id, Right::Freeze)?;
    if_match.check(&lease)?;
    caller.owns(&lease, query.force)?;
    thaw(&caller, &lease, query.patience).await.map(Answer)
}
