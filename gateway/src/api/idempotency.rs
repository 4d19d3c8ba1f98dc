//! `Idempotency-Key`: a POST that changes a guest takes place once, however often it is sent.
//!
//! In front of the router, so that no operation can forget it: which ones take a key is read off
//! the OpenAPI document. See [`crate::replies`] for what is kept and when it is on disk.

mod rights;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

use self::rights::Turn;
use super::App;
use super::caller::Caller;
use super::commands::MAX_COMMAND_BODY;
use super::context::RequestContext;
use super::error::{Code, Outcome, Problem, ProblemNote, printable};
use super::extract::{MAX_BODY, take_in};
use super::front::Front;
use super::lease;
use super::processes::MAX_START_BODY;
use crate::principal::Principal;
use crate::replies::{BeginError, Begun, InHand, Reply, When};
use crate::vm::LeaseState;

pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What these requests can be answered with besides their own problems.
pub(super) const PROBLEMS: &[Code] =
    &[Code::IdempotencyMismatch, Code::IdempotencyUnknown, Code::StateUnwritable, Code::QueueFull];

/// Their requests go to disk with the lease that they make.
const MAKE_LEASES: [&str; 2] = ["/vms/{id}/fsfreeze", "/freezes"];

/// An answer's larger body is not kept.
const MAX_KEPT_BODY: usize = 64 << 10;

/// Of an answer, the headers that a repeat gets too.
const KEPT_HEADERS: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::LOCATION, header::ETAG, header::RETRY_AFTER];

/// An answer to a request that was sure to change nothing.
pub(super) fn unchanged(answer: Result<impl IntoResponse, Problem>) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(Unchanged);
    response
}

/// Answers requests that carry a key. Cheap to clone.
#[derive(Clone)]
pub(super) struct Keyed {
    app: App,
    paths: Arc<[KeyedPath]>,
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// An operation's path as the document has it, cut at slashes.
#[derive(Debug)]
struct KeyedPath {
    template: String,
    parts: Vec<String>,
    /// As the document says it.
    right: String,
    when: When,
}

/// Marks an answer whose key stays free.
#[derive(Clone, Copy, Debug)]
struct Unchanged;

impl Keyed {
    pub(super) fn new(app: App, paths: Vec<(String, String)>) -> Self {
        let cut = |(template, right): (String, String)| KeyedPath {
            parts: template.split('/').map(str::to_owned).collect(),
            when: if MAKE_LEASES.contains(&&*template) { When::WithLease } else { When::AtOnce },
            right,
            template,
        };
        Self { app, paths: paths.into_iter().map(cut).collect() }
    }

    /// Whether that request is to be answered here.
    pub(super) fn takes<B>(&self, request: &Request<B>) -> bool {
        request.headers().contains_key(KEY)
            && request.method() == Method::POST
            && self.path(request.uri().path()).is_some()
    }

    fn path(&self, path: &str) -> Option<&KeyedPath> {
        self.paths.iter().find(|keyed| is_path(&keyed.parts, path))
    }

    /// Answers it, with a task of its own behind it: a caller that hangs up loses nothing.
    pub(super) async fn answer(
        &self,
        front: &Front,
        request: Request<Body>,
        context: Arc<RequestContext>,
        principal: &Principal,
    ) -> Response {
        match self.begin(request, &context, principal).await {
            Ok(Started::Here(response)) => response,
            Ok(Started::First(mut in_hand, request)) => {
                context.has_key(in_hand.name());
                in_hand.go();
                let answer = finish(front.clone(), request, context, in_hand);
                tokio::spawn(answer).await.unwrap_or_else(|_| {
                    let text = "The gateway failed while it kept this answer, which is a defect. \
                                Look whether the guest was changed.";
                    Problem::new(Code::InternalError, text).into_response()
                })
            }
            Err(problem) => problem.into_response(),
        }
    }

    async fn begin(
        &self,
        request: Request<Body>,
        context: &Arc<RequestContext>,
        principal: &Principal,
    ) -> Result<Started, Problem> {
        let key = key(request.headers())?;
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        // Neither a body is read nor a key written down for who has nothing to ask here.
        let caller = Caller::of_request(&self.app, context)?;
        Self::is_there(&caller, path)?;
        // No more is taken in than the operation itself would take.
        let large = path.contains("/commands/") || path.ends_with("/write");
        let limit = match () {
            () if large => MAX_COMMAND_BODY,
            () if path.ends_with("/processes") => MAX_START_BODY,
            () => MAX_BODY,
        };
        let body = take_in(&self.app, context, &parts.headers, body, limit).await?;
        let name =
            digest(&[principal.as_str(), parts.method.as_str(), path, &key].map(str::as_bytes));
        // What is asked for is the query and the body.
        let query = parts.uri.query().unwrap_or_default();
        let fingerprint = digest(&[query.as_bytes(), &body]);
        let when = self.path(path).map_or(When::AtOnce, |keyed| keyed.when);
        self.permit(&caller, &name, path, &body, Turn::First)?;
        let begun = self.app.replies.begin(principal, &name, &fingerprint, when).await;
        let begun = begun.map_err(|e| not_begun(&e))?;
        if !matches!(begun, Begun::First(_)) {
            // What was answered then is for those who may ask for it now, after whatever wait.
            caller.still(|caller| self.permit(caller, &name, path, &body, Turn::Repeat))?;
        }
        match begun {
            Begun::First(in_hand) => {
                Ok(Started::First(in_hand, Request::from_parts(parts, Body::from(body))))
            }
            Begun::Done(reply) => Ok(Started::Here(replay(reply))),
            Begun::Lost => self.lost(&name).map(Started::Here),
            Begun::Other => Err(Problem::new(
                Code::IdempotencyMismatch,
                format!(
                    "The Idempotency-Key \"{}\" was used on this path for a request with another \
                     query or body. Nothing was sent: take a new key for a new request.",
                    printable(&key)
                ),
            )
            .outcome(Outcome::NotSent, false)),
        }
    }

    /// What is known of a request that was in hand when the gateway died.
    fn lost(&self, name: &str) -> Result<Response, Problem> {
        let mut leases = self.app.leases.select(|lease| lease.is_under(name));
        let Some(lease) = leases.pop() else {
            return Err(Problem::new(
                Code::IdempotencyUnknown,
                "The gateway was restarted, or failed, while it had this request in hand, so \
                 whether it reached the guest is not known. It is not sent again under this \
                 Idempotency-Key: look at the guest, and take a new key if it is still to be done.",
            )
            .outcome(Outcome::Unknown, false));
        };
        if lease.state != LeaseState::Frozen {
            let detail = format!(
                "The gateway was restarted, or failed, while it had this freeze in hand. Its lease \
                 {} is {} now: do not rely on the freeze. Follow GET /freezes/{0}, and freeze \
                 again under a new Idempotency-Key.",
                lease.id, lease.state
            );
            let problem = Problem::new(Code::IdempotencyUnknown, detail).lease(&lease.id);
            return Err(problem.outcome(Outcome::Unknown, false));
        }
        let mut response = lease::created(lease).into_response();
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }
}

enum Started {
    /// There is an answer already.
    Here(Response),
    First(InHand, Request<Body>),
}

/// Has the request answered, and keeps the answer.
async fn finish(
    front: Front,
    request: Request<Body>,
    context: Arc<RequestContext>,
    in_hand: InHand,
) -> Response {
    let id = context.id.clone();
    let (parts, body) = front.route(request, context).await.into_parts();
    // Bodies of these operations are whole in memory: collecting one cannot fail.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let unchanged = parts.extensions.get::<Unchanged>().is_some();
    if unchanged || parts.extensions.get::<ProblemNote>().is_some_and(ProblemNote::is_unsent) {
        in_hand.free();
        return Response::from_parts(parts, Body::from(body));
    }
    let kept = |name: &HeaderName| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    };
    let reply = Reply {
        status: parts.status.as_u16(),
        headers: KEPT_HEADERS.iter().filter_map(kept).collect(),
        body: (body.len() <= MAX_KEPT_BODY)
            .then(|| String::from_utf8(body.to_vec()).ok())
            .flatten(),
    };
    if let Err(error) = in_hand.finish(reply).await {
        // The caller has to know what became of it all the same. It is written when the disk is
        // back; until then a crash makes the outcome unknown, which it says.
        let id = id.to_str().unwrap_or("-");
        tracing::error!(
            request_id = id,
            "the answer to a request with an Idempotency-Key is not on disk: {error}"
        );
    }
    Response::from_parts(parts, Body::from(body))
}

fn replay(reply: Reply) -> Response {
    let whole = reply.body.is_some();
    let mut response = Response::new(Body::from(reply.body.unwrap_or_default()));
    // Both were an answer's own before.
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or_default();
    for (name, value) in reply.headers {
        let (name, value) = (HeaderName::try_from(name), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers_mut().insert(name, value);
        }
    }
    if !whole {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    let value = if whole { "true" } else { "without-body" };
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static(value));
    response
}

fn key(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all(KEY).iter();
    let value = values.next().map(HeaderValue::as_bytes).unwrap_or_default();
    let sane = (1..=255).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    if !sane || values.next().is_some() {
        return Err(Problem::bad_request(
            "The header Idempotency-Key must be there once, with 1 to 255 visible ASCII characters \
             and no spaces.",
        ));
    }
    Ok(String::from_utf8_lossy(value).into_owned())
}

fn not_begun(error: &BeginError) -> Problem {
    let problem = match error {
        BeginError::Unwritable(error) => Problem::new(
            Code::StateUnwritable,
            format!(
                "The gateway cannot write its state ({}), so nothing is begun under an \
                 Idempotency-Key that a restart would forget. Nothing was sent to any guest. Make \
                 room or mend the disk below state_dir; the gateway tries again by itself.",
                printable(&error.reason)
            ),
        ),
        BeginError::Full { max } => Problem::new(
            Code::QueueFull,
            format!(
                "As many requests with an Idempotency-Key are in hand as may be: {max} in all \
                 (limits.idempotency_keys), of which one caller gets at most half of what the others \
                 leave. Nothing was sent; try again once some of yours have ended."
            ),
        ),
    };
    problem.outcome(Outcome::NotSent, true).retry_after(5)
}

/// Of all parts with their lengths, so that no two lists look the same.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn is_path(template: &[String], path: &str) -> bool {
    let mut parts = path.split('/');
    let fits = |want: &String| parts.next().is_some_and(|is| want.starts_with('{') || want == is);
    template.iter().all(fits) && parts.next().is_none()
}
