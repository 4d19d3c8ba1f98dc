//! Tickets: single-use credentials in a query, for browsers' `EventSource` and `WebSocket`, which
//! cannot send a header.
//!
//! ```text
//!   POST /tickets ──▶ out ──(GET with ?ticket=, once)──▶ used: the request is its maker's
//!                      └──── 30 s ────▶ void
//! ```
//!
//! A ticket stands for one request, to the letter, save the ticket itself. Only its hash is kept,
//! and the front takes it out of the query before anything else sees that.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Json as Answer;
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, StatusCode, Uri};
use qga_proto::command::Right;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::access::Proof;
use super::caller::Caller;
use super::error::{Code, Problem};
use super::extract::{Json, NoQuery};
use super::time::Timestamp;
use crate::rights::Authority;
use crate::share::{Part, Shared};

/// How long a ticket can be used.
const VALID: Duration = Duration::from_secs(30);

/// The longest path that a ticket is made for.
const MAX_PATH: usize = 4096;

/// What a ticket is for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"method": "GET", "path": "/vms/web-1/processes/4711/output?stream=both"}))]
pub(super) struct TicketRequest {
    /// `GET`.
    #[schema(pattern = "^GET$")]
    method: String,
    /// The path with its query, exactly as it will be asked for, without the ticket:
    /// `/events`, `/vms/{id}/processes/{pid}/output` or `/vms/{id}/processes/{pid}/attach`.
    #[schema(
        pattern = "^/(events|vms/[A-Za-z0-9_:@-][A-Za-z0-9._:@-]{0,127}/processes/[0-9]{1,18}/(output|attach))([?][A-Za-z0-9_.~%=&:@/+-]*)?$"
    )]
    path: String,
}

/// A ticket.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "ticket": "9f2c4d0c8bf3c1f6a1b6c1e0d9c2f5a7b8e3d4c5f6a7b8c9d0e1f2a3b4c5d6e7",
    "expires_at": "2026-11-22T09:15:34.250Z"
}))]
pub(super) struct TicketBody {
    /// To be sent as the last parameter of the query, `ticket=`. It works once.
    ticket: String,
    expires_at: Timestamp,
}

impl fmt::Debug for TicketBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketBody").finish_non_exhaustive()
    }
}

/// All tickets that are out. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tickets(Arc<Table>);

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("out", &self.out().len()).finish()
    }
}

struct Table {
    authority: Authority,
    shared: Shared,
    out: Mutex<HashMap<[u8; 32], Out>>,
}

struct Out {
    proof: Proof,
    operation: [u8; 32],
    until: Instant,
    _part: Part,
}

impl Tickets {
    pub(super) fn new(authority: Authority) -> Self {
        Self(Arc::new(Table { authority, shared: Shared::default(), out: Mutex::default() }))
    }

    /// A new ticket, unless its maker has its share of the `max` that may be out.
    fn make(&self, proof: Proof, method: &Method, path: &str, max: usize) -> Option<String> {
        let mut secret = [0; 32];
        // Without entropy there are no tickets.
        getrandom::fill(&mut secret).ok()?;
        let ticket: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = Instant::now();
        let mut out = self.out();
        out.retain(|_, ticket| ticket.until > now);
        let part = self.0.shared.take(&proof.identity.principal, 1, max)?;
        let (operation, until) = (operation(method, path), now + VALID);
        out.insert(Sha256::digest(&ticket).into(), Out { proof, operation, until, _part: part });
        Some(ticket)
    }

    /// Whose request that is, if the ticket is for it. It is used up in any case.
    pub(super) fn redeem(
        &self,
        ticket: &str,
        method: &Method,
        uri: &Uri,
    ) -> Result<Proof, Problem> {
        let hash: [u8; 32] = Sha256::digest(ticket).into();
        let out = self.out().remove(&hash);
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let good = out.filter(|out| {
            out.until > Instant::now()
                && out.operation == operation(method, path)
                && out.proof.is_in(&self.0.authority)
        });
        good.map(|out| out.proof).ok_or_else(|| {
            Problem::new(
                Code::Unauthenticated,
                "The ticket is void: each works once, within 30 s, for exactly the path and query \
                 that it was made for. POST /tickets makes a new one.",
            )
        })
    }

    /// Nothing panics under this lock.
    fn out(&self) -> MutexGuard<'_, HashMap<[u8; 32], Out>> {
        self.0.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the ticket out of a request's query, if it has one and the operation takes one.
pub(super) fn take<B>(request: &mut Request<B>) -> Option<String> {
    let query = request.uri().query().filter(|query| query.contains("ticket="))?;
    if request.method() != Method::GET || !takes_ticket(request.uri().path()) {
        return None;
    }
    let is_ticket = |pair: &&str| pair.starts_with("ticket=");
    let ticket = query.split('&').find(is_ticket)?.strip_prefix("ticket=")?.to_owned();
    // Any other of that name stays, to be refused as unknown.
    let mut found = false;
    let rest: Vec<_> = query
        .split('&')
        .filter(|pair| !is_ticket(pair) || std::mem::replace(&mut found, true))
        .collect();
    let path = request.uri().path();
    let path = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = path.try_into().ok();
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    Some(ticket)
}

/// The operations that a browser can ask for only without headers.
fn takes_ticket(path: &str) -> bool {
    path == "/events" || process_of(path).is_some()
}

/// The VM of `/vms/{id}/processes/{pid}/output` or `/attach`.
fn process_of(path: &str) -> Option<&str> {
    let mut parts = path.strip_prefix("/vms/")?.split('/');
    let id = parts.next()?;
    let is_process = parts.next() == Some("processes") && parts.next()?.parse::<i64>().is_ok();
    let fits = is_process && matches!(parts.next(), Some("output" | "attach"));
    (fits && parts.next().is_none()).then_some(id)
}

fn operation(method: &Method, path: &str) -> [u8; 32] {
    Sha256::digest(format!("{method} {path}")).into()
}

/// Make a ticket
///
/// For one request of the caller's, by a client that cannot send a header: a browser's `EventSource`
/// or `WebSocket`. It works once, within 30 s, for exactly this path and query, with the rights of
/// its maker. The gateway logs no queries, and so no tickets.
#[utoipa::path(
    post,
    path = "/tickets",
    tag = "gateway",
    request_body = TicketRequest,
    responses((status = 201, description = "A ticket.", body = TicketBody)),
    extensions(
        ("x-qga-right" = json!("that of the operation")),
        ("x-qga-problems" = json!(["vm_not_found", "too_many_tickets"])),
    )
)]
pub(super) async fn make_ticket(
    caller: Caller,
    _: NoQuery,
    Json(request): Json<TicketRequest>,
) -> Result<(StatusCode, Answer<TicketBody>), Problem> {
    if request.method != "GET" {
        return Err(Problem::bad_member("method", "only a GET needs a ticket"));
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let uri = request.path.parse::<Uri>().ok();
    let sane = request.path.len() <= MAX_PATH && uri.is_some_and(|uri| uri.authority().is_none());
    if !sane || !takes_ticket(path) {
        return Err(Problem::bad_member(
            "path",
            "/events, /vms/{id}/processes/{pid}/output or /vms/{id}/processes/{pid}/attach with its \
             query; nothing else takes a ticket",
        ));
    }
    match process_of(path) {
        Some(id) => drop(caller.programs(id)?),
        None => caller.knows(Right::Observe)?,
    }
    let max = caller.app().limits().tickets;
    let proof = caller.proof().clone();
    let made = caller.app().tickets().make(proof, &Method::GET, &request.path, max);
    let ticket = made.ok_or_else(|| {
        Problem::new(
            Code::TooManyTickets,
            format!(
                "As many tickets are out as may be: {max} in all (limits.tickets), of which one \
                 caller gets at most half of what the others leave. Each is void after 30 s: try \
                 again then."
            ),
        )
        .retry_after(10)
    })?;
    let expires_at = (SystemTime::now() + VALID).into();
    Ok((StatusCode::CREATED, Answer(TicketBody { ticket, expires_at })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_taken_out_of_the_query() {
        for (uri, rest, ticket) in [
            ("/events?ticket=a", "/events", Some("a")),
            ("/events?vm=x&ticket=a&kind=y", "/events?vm=x&kind=y", Some("a")),
            ("/events?ticket=a&ticket=b", "/events?ticket=b", Some("a")),
            ("/events?nticket=a", "/events?nticket=a", None),
            ("/vms?ticket=a", "/vms?ticket=a", None),
            ("/vms/a/processes/7/output?ticket=a", "/vms/a/processes/7/output", Some("a")),
            ("/vms/a/processes/7/attach?ticket=a", "/vms/a/processes/7/attach", Some("a")),
            ("/vms/a/processes/x/attach?ticket=a", "/vms/a/processes/x/attach?ticket=a", None),
            ("/vms/a/processes/7?ticket=a", "/vms/a/processes/7?ticket=a", None),
        ] {
            let mut request = Request::get(uri).body(()).unwrap();
            assert_eq!(take(&mut request).as_deref(), ticket, "{uri}");
            assert_eq!(request.uri(), rest);
        }
        let mut request = Request::post("/events?ticket=a").body(()).unwrap();
        assert_eq!(take(&mut request), None);
    }
}
