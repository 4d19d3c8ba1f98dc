//! `/metrics`: figures for Prometheus, from what the gateway knows. No guest is asked, and nothing
//! waits for one.

mod accept;
mod guests;
mod held;
mod vms;
mod whole;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use qga_proto::command::Right;
use tokio::sync::Semaphore;

use super::App;
use super::caller::Caller;
use super::error::{Code, Problem};
use super::extract::NoQuery;
use crate::metrics::family::BUILD_INFO;
use crate::metrics::page::{Format, Page};
use crate::vm::VmHandle;
use held::Held;

/// Scrapes at once, until their answers have been taken: with many VMs each has some megabytes.
const SCRAPES: usize = 8;

/// Those that are under way.
#[derive(Clone, Debug)]
pub(super) struct Scrapes(Arc<Semaphore>);

impl Default for Scrapes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SCRAPES)))
    }
}

/// Read the figures
///
/// For Prometheus: its text format, or OpenMetrics where the `Accept` header prefers that. From what
/// the gateway knows: no guest is asked, so a dead one delays nothing. Of VMs, those that the caller
/// may observe; what tells of all VMs together (command latencies, leases, requests, the process) only
/// for callers that may observe every VM. `docs/metrics.md` describes each figure.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "gateway",
    responses((
        status = 200,
        description = "The figures.",
        content(
            (String = "text/plain; version=0.0.4", example = "# TYPE qga_vm_calls_total counter\nqga_vm_calls_total{vm=\"web-1\"} 17\n"),
            (String = "application/openmetrics-text; version=1.0.0")
        )
    )),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-problems" = json!(["queue_full"])),
    )
)]
pub(super) async fn read_metrics(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    _: NoQuery,
) -> Result<Response, Problem> {
    let format = accept::format(&headers).ok_or_else(not_acceptable)?;
    let permit = app.scrapes().0.clone().try_acquire_owned().map_err(|_| too_many())?;
    // With many VMs it takes some tens of milliseconds, which no request and no VM has to wait for.
    let write = move || {
        let whole = caller.may_everywhere(Right::Observe);
        let mut page = Page::new(format, whole);
        page.family(&BUILD_INFO).add(&[env!("CARGO_PKG_VERSION")], 1);
        let mut seen = app.registry.list();
        seen.retain(|vm: &VmHandle| caller.may(vm, Right::Observe));
        vms::write(&mut page, &seen, &app.leases);
        guests::write(&mut page, &seen);
        if whole {
            whole::write(&mut page, &app);
        }
        page.finish()
    };
    // It does not panic: it only reads, and locks that a panic poisoned are taken all the same.
    let text = tokio::task::spawn_blocking(write).await.map_err(|_| broken())?;
    let kind = [(header::CONTENT_TYPE, format.content_type())];
    Ok((kind, Body::new(Held::new(text, permit))).into_response())
}

impl Format {
    const NAMES: &str = "text/plain (version 0.0.4) or application/openmetrics-text (1.0.0)";
}

fn not_acceptable() -> Problem {
    let text =
        format!("Figures are given as {}, and the Accept header rules both out.", Format::NAMES);
    Problem::new(Code::NotAcceptable, text)
}

fn too_many() -> Problem {
    let text = format!(
        "{SCRAPES} scrapes are under way, as many as may be. Scrape less often, or have whoever \
         began them take their answers."
    );
    Problem::new(Code::QueueFull, text).retry_after(1)
}

fn broken() -> Problem {
    Problem::new(
        Code::InternalError,
        "The gateway failed while it wrote its figures, which is a defect.",
    )
}
