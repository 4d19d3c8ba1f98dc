//! Spans on their way to a collector: a bounded queue, and a task that sends what has gathered.
//!
//! ```text
//!   push ──▶ queue ──(full: dropped)      gather for a while ──▶ POST ──▶ taken
//!                                            ▲                    │ busy, or nobody there
//!                                            └──── pause, a few ──┘ times; then dropped
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::http::uri::Authority;
use axum::http::{Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Span, otlp};
use crate::metrics::Counter;

/// Spans that may wait: some megabytes.
const QUEUE: usize = 4096;
/// Spans that are sent together.
const BATCH: usize = 512;
/// How long they gather.
const GATHER: Duration = Duration::from_secs(2);
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Attempts for a batch, with doubling pauses between them.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// What a collector may answer at length.
const MAX_ANSWER: usize = 64 << 10;

/// Sends spans to a collector. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exporter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Span>,
    sent: Counter,
    dropped: Counter,
}

/// Why a batch was not taken.
enum Failure {
    /// Later it may be.
    Passing(String),
    Final(String),
}

impl Exporter {
    /// Starts the task that sends to this address, `http://HOST:PORT/v1/traces`. Must be called
    /// within a tokio runtime. It ends with the last clone, or the runtime.
    pub fn start(endpoint: Uri) -> Self {
        let (queue, spans) = mpsc::channel(QUEUE);
        let (sent, dropped) = Default::default();
        let shared = Arc::new(Shared { queue, sent, dropped });
        let sender = Sender { endpoint, figures: Arc::downgrade(&shared), failing: false };
        tokio::spawn(sender.run(spans));
        Self(shared)
    }

    /// Takes a span, if there is room. Never waits.
    pub(crate) fn push(&self, span: Span) {
        if self.0.queue.try_send(span).is_err() {
            self.0.dropped.add(1);
        }
    }

    /// How many requests' spans were taken by the collector, and how many were lost.
    pub(crate) fn figures(&self) -> [(&'static str, u64); 2] {
        [("sent", self.0.sent.get()), ("dropped", self.0.dropped.get())]
    }
}

struct Sender {
    endpoint: Uri,
    figures: std::sync::Weak<Shared>,
    failing: bool,
}

impl Sender {
    async fn run(mut self, mut spans: mpsc::Receiver<Span>) {
        let mut batch = Vec::new();
        loop {
            let Some(first) = spans.recv().await else { return };
            batch.push(first);
            let until = Instant::now() + GATHER;
            while batch.len() < BATCH {
                match timeout_at(until, spans.recv()).await {
                    Ok(Some(span)) => batch.push(span),
                    // Time is over, or nobody is left who could push; the latter shows above.
                    Ok(None) | Err(_) => break,
                }
            }
            let taken = self.send(otlp::request(&batch).into()).await;
            if let Some(figures) = self.figures.upgrade() {
                let count = if taken { &figures.sent } else { &figures.dropped };
                count.add(batch.len());
            }
            batch.clear();
        }
    }

    /// Whether the collector took it.
    async fn send(&mut self, body: Bytes) -> bool {
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            let result = timeout(PATIENCE, post(&self.endpoint, body.clone())).await;
            let result = result.unwrap_or_else(|_| {
                Err(Failure::Passing(format!("no answer within {} s", PATIENCE.as_secs())))
            });
            let reason = match result {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("{}: traces are taken again", self.endpoint);
                    }
                    return true;
                }
                Err(Failure::Passing(_)) if attempt < ATTEMPTS => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    continue;
                }
                Err(Failure::Passing(reason) | Failure::Final(reason)) => reason,
            };
            // Once per outage.
            if !std::mem::replace(&mut self.failing, true) {
                let reason = crate::printable::printable(&reason);
                tracing::warn!(
                    "{}: the collector takes no traces: {reason}. They are dropped until it does; \
                     mend telemetry.otlp_endpoint or the collector",
                    self.endpoint
                );
            }
            return false;
        }
        false
    }
}

async fn post(endpoint: &Uri, body: Bytes) -> Result<(), Failure> {
    let passing = |error: &dyn std::fmt::Display| Failure::Passing(error.to_string());
    let authority = endpoint.authority().map_or("", Authority::as_str);
    let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = endpoint.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await.map_err(|e| passing(&e))?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| passing(&e))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(endpoint.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, concat!("qga-gateway/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|e| Failure::Final(e.to_string()))?;
    // It ends with the answer, or with this future.
    let answer = async {
        let answer = client.send_request(request).await.map_err(|e| passing(&e))?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let said = said.map(|said| said.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    };
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    let (status, said) = tokio::select! {
        answer = answer => answer?,
        () = connection => return Ok(()),
    };
    // As OTLP/HTTP has it: what may pass by itself is sent again.
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Err(Failure::Passing(format!("{status}: {said}"))),
        status => Err(Failure::Final(format!("{status}: {said}"))),
    }
}
