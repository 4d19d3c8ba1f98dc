//! The one thing around the router: request id, Host check, authentication, panics, headers and
//! the log line. A single function instead of a stack of layers, because each layer costs an
//! allocation per request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use tower::ServiceExt;

use super::access::{Access, Proof, accepts_answer, is_page, is_public};
use super::caller::unauthenticated;
use super::context::{REQUEST_ID, RequestContext, RequestIds};
use super::error::{Code, Problem};
use super::idempotency::Keyed;
use super::origin::{Origin, Origins};
use super::pace::Pace;
use super::strangers::Strangers;
use super::tickets::{self, Tickets};
use super::told::Told;
use super::trail::Trail;
use crate::audit::Audit;
use crate::metrics::RequestFigures;
use crate::printable::printable;
use crate::trace::{Exporter, TRACEPARENT, Trace};

/// The most headers of a request.
pub(crate) const MAX_HEADERS: usize = 64;

/// Request line and headers together.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;

/// Why bytes never became a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They are no HTTP/1.1.
    Malformed,
    /// There is more before the body than allowed.
    TooLarge,
    /// They stopped before the headers' end.
    TooSlow,
}

/// Answers requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    router: Router,
    ids: Arc<RequestIds>,
    keyed: Option<Keyed>,
    requests: Arc<RequestFigures>,
    tickets: Option<Tickets>,
    audit: Audit,
    strangers: Arc<Strangers>,
    exporter: Option<Exporter>,
    origins: Origins,
    pace: Option<Pace>,
}

impl Front {
    pub(crate) fn new(router: Router, requests: Arc<RequestFigures>) -> Self {
        let (ids, audit) = (Arc::new(RequestIds::new()), Audit::default());
        let (origins, pace) = (Origins::default(), None);
        Self {
            router,
            ids,
            keyed: None,
            requests,
            tickets: None,
            audit,
            strangers: Arc::default(),
            exporter: None,
            origins,
            pace,
        }
    }

    /// Keeps the answers to requests that carry an `Idempotency-Key`.
    pub(super) fn keyed(self, keyed: Keyed) -> Self {
        Self { keyed: Some(keyed), ..self }
    }

    /// Takes tickets in place of other credentials.
    pub(super) fn with_tickets(self, tickets: Tickets) -> Self {
        Self { tickets: Some(tickets), ..self }
    }

    /// Puts requests on record.
    pub(super) fn audited(self, audit: Audit) -> Self {
        Self { audit, ..self }
    }

    /// Sends the traces that requests are part of to a collector.
    pub(super) fn traced(self, exporter: Option<Exporter>) -> Self {
        Self { exporter, ..self }
    }

    /// Lets pages of these hosts in, besides the gateway's own.
    pub(super) fn let_in(self, origins: Origins) -> Self {
        Self { origins, ..self }
    }

    /// Refuses those who ask too often.
    pub(super) fn paced(self, pace: Pace) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// Answers one request of a connection whose callers prove themselves by `access`.
    pub async fn handle<B>(&self, access: &Access, mut request: Request<B>) -> Response
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let id = self.ids.assign(request.headers());
        let timed = self.requests.begin(request.method(), request.uri().path());
        let ticket = self.tickets.as_ref().and_then(|tickets| {
            let ticket = tickets::take(&mut request)?;
            Some(tickets.redeem(&ticket, request.method(), request.uri()))
        });
        let from = self.origins.of(request.headers(), request.uri());
        let admitted = admit(access, &request, ticket, &from);
        let preflight = from.is_preflight(&request) && admits_host(access, &request).is_ok();
        let proof = admitted.as_ref().ok().cloned().flatten();
        let trace = Trace::of(request.headers(), self.exporter.is_some());
        let exporter = self.exporter.as_ref().filter(|_| trace.as_ref().is_some_and(|t| t.sampled));
        let context = RequestContext::new(id, proof, self.audit.clone());
        let context = Arc::new(context.traced(trace, exporter.is_some()));
        let told = exporter.map(|exporter| {
            let route = self.requests.route(request.uri().path());
            Told::begin(exporter, request.method(), route, &context)
        });
        let changes = self.changes(&request);
        let strangers = &self.strangers;
        let (method, uri) = (request.method(), request.uri());
        let trail = Trail::start(method, uri, &context, &self.audit, changes, strangers);
        let admitted = admitted.and_then(|proof| {
            let refused = proof.is_some() && changes && self.audit.refuses();
            if refused {
                return Err(unrecorded());
            }
            if let (Some(pace), Some(proof)) = (&self.pace, &proof) {
                pace.check(&proof.identity.principal, &request)?;
            }
            Ok(proof)
        });
        let mut response = match admitted {
            _ if preflight => StatusCode::NO_CONTENT.into_response(),
            Ok(Some(proof)) => match self.keyed.as_ref().filter(|k| k.takes(&request)) {
                Some(keyed) => {
                    // Boxed: few requests carry a key, and all others are not to make room for it.
                    let request = request.map(Body::new);
                    let answer =
                        keyed.answer(self, request, context.clone(), &proof.identity.principal);
                    Box::pin(answer).await
                }
                None => self.route(request, context.clone()).await,
            },
            Ok(None) => self.route(request, context.clone()).await,
            Err(problem) => problem.into_response(),
        };
        mark(&mut response, context.id.clone());
        self.origins.mark(&from, preflight, &mut response);
        if let Some(trace) = &context.trace {
            response.headers_mut().insert(TRACEPARENT, trace.traceparent());
        }
        if let Some(told) = told {
            told.end(&response);
        }
        trail.finish(&response);
        timed.answered(response.status());
        response
    }

    /// Whether it may change something. A terminal is opened with GET, as all `WebSocket`s are, and
    /// then takes input.
    fn changes<B>(&self, request: &Request<B>) -> bool {
        let path = request.uri().path();
        !request.method().is_safe()
            || path.ends_with("/attach") && self.requests.route(path).ends_with("/{pid}/attach")
    }

    /// Answers what never became a request.
    pub fn refuse(&self, why: Refusal) -> Response {
        let problem = match why {
            Refusal::Malformed => Problem::bad_request(
                "What came is no HTTP/1.1 request: its first line or a header is malformed. \
                 Nothing was done.",
            ),
            Refusal::TooLarge => Problem::new(
                Code::HeadTooLarge,
                format!(
                    "A request's first line and its headers may have {MAX_HEAD_BYTES} bytes and \
                     {MAX_HEADERS} headers. Nothing was done."
                ),
            ),
            Refusal::TooSlow => Problem::new(
                Code::RequestTimeout,
                "The request's headers did not arrive in time. Nothing was done.",
            ),
        };
        let id = self.ids.assign(&HeaderMap::new());
        let mut response = problem.into_response();
        self.requests.refused(response.status());
        let status = response.status().as_u16();
        tracing::info!(request_id = id.to_str().unwrap_or("-"), "no request: {status}");
        mark(&mut response, id);
        response
    }

    pub(super) async fn route<B>(
        &self,
        mut request: Request<B>,
        context: Arc<RequestContext>,
    ) -> Response
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let id = context.id.clone();
        request.extensions_mut().insert(context);
        let answer = self.router.clone().oneshot(request.map(Body::new));
        // A handler's state is shared only through types that a panic leaves whole: channels,
        // atomics and the once-cells of the context.
        match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(cause) => {
                // The panic's own line has the place, and knows nothing of requests.
                let cause = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let id = id.to_str().unwrap_or("-");
                let cause = printable(&cause.unwrap_or_else(|| "see the panic's line".into()));
                tracing::error!(request_id = id, "a handler panicked: {cause}");
                Problem::new(
                    Code::InternalError,
                    "The gateway failed while it handled this request, which is a defect. Its log \
                     has the cause under this answer's x-request-id. If the request was to change \
                     the guest, look whether it did.",
                )
                .into_response()
            }
        }
    }
}

/// What every answer carries.
fn mark(response: &mut Response, id: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

fn unrecorded() -> Problem {
    Problem::new(
        Code::AuditUnwritable,
        "The gateway cannot write its audit records, and its configuration (audit.required) has it \
         change nothing without. Its log says why. Nothing was done.",
    )
    .retry_after(5)
}

/// Who asks, if the request may be answered. Denied by default: only the public operations pass
/// without a principal, unknown paths do not.
fn admit<B>(
    access: &Access,
    request: &Request<B>,
    ticket: Option<Result<Proof, Problem>>,
    from: &Origin,
) -> Result<Option<Proof>, Problem> {
    let (headers, path) = (request.headers(), request.uri().path());
    admits_host(access, request)?;
    from.check(request.method())?;
    let proof = match ticket.map_or_else(|| access.prove(headers), |proof| proof.map(Some)) {
        Ok(None) if !is_public(path) => return Err(unauthenticated()),
        Err(_) if is_public(path) => None,
        proof => proof?,
    };
    if !is_page(path) && !accepts_answer(path, headers) {
        return Err(Problem::new(
            Code::NotAcceptable,
            "The gateway answers in application/json, and the Accept header rules that out.",
        ));
    }
    Ok(proof)
}

fn admits_host<B>(access: &Access, request: &Request<B>) -> Result<(), Problem> {
    access.check_host(request.version(), request.uri(), request.headers())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::super::error::ProblemNote;
    use super::*;
    use crate::rights::{Authority, Identity, Rules};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn front() -> Front {
        async fn panics() {
            panic!("a defect");
        }
        let context = |context: &RequestContext| {
            context.concerns(&"web-1".parse().unwrap());
            context.sends("guest-ping");
        };
        let works = move |request: Request<Body>| async move {
            context(request.extensions().get::<Arc<RequestContext>>().unwrap());
        };
        let never = || std::future::pending::<()>();
        let router = Router::new()
            .route("/panics", axum::routing::get(panics))
            .route("/works", axum::routing::get(works))
            .route("/never", axum::routing::get(never));
        Front::new(router, Arc::new(RequestFigures::new([])))
    }

    fn peer() -> Access {
        let authority = Authority::new(Rules::default()).with_token("secret");
        Access::Peer(Identity::unix(1, 1), authority)
    }

    fn request(path: &str) -> Request<Body> {
        let request = Request::get(path).header("host", "a");
        let request = request.header("authorization", "Bearer secret");
        request.header("x-request-id", "job-1").body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_and_the_next_request_is_served() {
        let (front, peer) = (front(), peer());
        let answer = front.handle(&peer, request("/panics")).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()[REQUEST_ID], "job-1");
        let note = answer.extensions().get::<ProblemNote>().unwrap();
        assert_eq!(note.code, Code::InternalError);
        assert_eq!(front.handle(&peer, request("/works")).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn what_turns_a_line_round_is_escaped_in_it() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        // As below.
        let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let _guard = tracing::subscriber::set_default(subscriber);
        let long = "\u{2067}".repeat(1000);
        for path in ["/a\u{202e}b", &format!("/{long}")] {
            front().handle(&peer(), request(path)).await;
        }
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("GET /a\\u{202e}b: 404"), "{text}");
        assert!(text.is_ascii() && text.lines().all(|line| line.len() < 5000), "{text}");
    }

    #[tokio::test]
    async fn each_request_is_one_line_without_secrets() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        // With a single subscriber, tracing asks only the thread that comes by a line first, and
        // that may be another test's.
        let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let _guard = tracing::subscriber::set_default(subscriber);
        let (front, peer) = (front(), peer());
        front.handle(&peer, request("/works")).await;
        drop(Box::pin(front.handle(&peer, request("/never"))).now_or_never());
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let all: Vec<&str> = text.lines().collect();
        assert_eq!(all.len(), 2, "{text}");
        for part in [
            "GET /works: 200",
            "request_id=\"job-1\"",
            "principal=\"token:default\"",
            "vm.id=\"web-1\"",
            "qga.command=\"guest-ping\"",
        ] {
            assert!(all[0].contains(part), "{part}: {text}");
        }
        assert!(all[1].contains("GET /never: the client hung up"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
