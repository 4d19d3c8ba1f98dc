//! Bare axum: what HTTP alone costs, with the framework and the middleware of the gateway and
//! no guest behind it.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use axum::extract::{self, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::net::UnixListener;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves `POST /vms/{id}/ping` for ever. With `middleware` it does around the handler what the
/// gateway does: a request id, the fixed headers, panics caught, and, with `log`, a line for
/// each request on standard error.
pub(crate) fn serve(socket: &Path, middleware: bool, log: bool) -> Result<()> {
    if log {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    }
    let mut router = Router::new().route("/vms/{id}/ping", post(ping));
    if middleware {
        let ids = Arc::new(AtomicU64::new(1));
        router = router.layer(middleware::from_fn(move |request, next| {
            around(ids.fetch_add(1, Ordering::Relaxed), request, next)
        }));
    }
    let runtime = tokio::runtime::Runtime::new().context("starting tokio")?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket).context("binding bare axum's socket")?;
        axum::serve(listener, router).await.context("serving")
    })
}

async fn ping(extract::Path(_id): extract::Path<String>) -> Json<Value> {
    Json(json!({}))
}

async fn around(number: u64, request: Request, next: Next) -> Response {
    let id = format!("{:016x}-{number:x}", 0x5eed_u64);
    let line = tracing::enabled!(tracing::Level::ERROR)
        .then(|| (request.method().clone(), request.uri().path().to_owned(), Instant::now()));
    let mut response = AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_default();
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some((method, path, start)) = line {
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(
            request_id = id,
            principal = "uid:0",
            vm.id = "demo",
            qga.command = "guest-ping",
            micros,
            "{method} {path}: {}",
            response.status().as_u16()
        );
    }
    response
}
