//! What a request leaves behind: one line in the log, and one on record.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;

use super::access::is_public;
use super::context::RequestContext;
use super::error::ProblemNote;
use super::strangers::Strangers;
use crate::audit::{Audit, AuditResult, RequestRecord};
use crate::principal::Principal;
use crate::printable::escaped;
use crate::vm::VmId;

/// The most bytes of a path in the log and on record. Every path of the API is shorter; what is
/// longer is somebody's who may want to fill the disk.
const MAX_PATH: usize = 1024;

/// Written when the request ends, also when the client hung up before the answer.
pub(super) struct Trail(Option<Request>);

struct Request {
    method: Method,
    uri: Uri,
    context: Arc<RequestContext>,
    /// Where it is put on record, if it is.
    audit: Option<Audit>,
    strangers: Arc<Strangers>,
    start: Instant,
}

impl Trail {
    pub(super) fn start(
        method: &Method,
        uri: &Uri,
        context: &Arc<RequestContext>,
        audit: &Audit,
        changes: bool,
        strangers: &Arc<Strangers>,
    ) -> Self {
        let recorded = !is_public(uri.path()) && audit.takes(changes);
        let audit = recorded.then(|| audit.clone());
        // Without a reader, not even the path is copied.
        let wanted = audit.is_some() || tracing::enabled!(tracing::Level::ERROR);
        Self(wanted.then(|| Request {
            method: method.clone(),
            uri: uri.clone(),
            context: context.clone(),
            audit,
            strangers: strangers.clone(),
            start: Instant::now(),
        }))
    }

    pub(super) fn finish(mut self, response: &Response) {
        if let Some(request) = self.0.take() {
            let note = response.extensions().get::<ProblemNote>();
            request.leave(Some(response.status()), note);
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(request) = self.0.take() {
            request.leave(None, None);
        }
    }
}

impl Request {
    fn leave(&self, status: Option<StatusCode>, note: Option<&ProblemNote>) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        if self.context.principal().is_none() {
            let Some(left_out) = self.strangers.leave_a_line() else { return };
            if left_out > 0 {
                tracing::warn!(
                    "{left_out} more requests without credentials, and no line for each"
                );
                if let Some(audit) = &self.audit {
                    audit.left_out(left_out);
                }
            }
        }
        let vms = self.context.vms();
        self.log(status, note, vms.first(), micros);
        if let Some(audit) = &self.audit {
            self.record(audit, status, note, &vms, micros);
        }
    }

    fn log(
        &self,
        status: Option<StatusCode>,
        note: Option<&ProblemNote>,
        vm: Option<&VmId>,
        micros: u64,
    ) {
        let Self { method, uri, context, .. } = self;
        let (id, path) = (context.id.to_str().unwrap_or("-"), cut(uri.path()));
        let principal = context.principal().map(Principal::as_str);
        let vm = vm.map(VmId::as_str);
        let lease = context.lease().map(crate::vm::LeaseId::as_str);
        let command = context.command();
        let trace_id = context.trace.as_ref().map(|trace| tracing::field::display(trace.id));
        let code = note.map(|n| n.code.as_str());
        let detail = note.and_then(|n| n.detail.as_deref());
        macro_rules! line {
            ($level:ident, $($text:tt)*) => {
                tracing::$level!(
                    request_id = id,
                    principal,
                    vm.id = vm,
                    lease.id = lease,
                    qga.command = command,
                    trace_id,
                    micros,
                    code,
                    detail,
                    $($text)*
                )
            };
        }
        match status {
            None => line!(info, "{method} {path}: the client hung up before the answer"),
            Some(status) if status == StatusCode::INTERNAL_SERVER_ERROR => {
                line!(error, "{method} {path}: {}", status.as_u16());
            }
            Some(status) => line!(info, "{method} {path}: {}", status.as_u16()),
        }
    }

    fn record(
        &self,
        audit: &Audit,
        status: Option<StatusCode>,
        note: Option<&ProblemNote>,
        vms: &[VmId],
        micros: u64,
    ) {
        let Self { method, uri, context, .. } = self;
        if uri.query().is_some() {
            // Unless a body came with it, which has been noted with it.
            context.said(uri, b"");
        }
        let status = status.map(|status| status.as_u16());
        audit.request(&RequestRecord {
            time: SystemTime::now(),
            kind: "request",
            request_id: context.id.to_str().unwrap_or("-"),
            principal: context.principal().map(Principal::as_str),
            method: method.as_str(),
            path: &cut(uri.path()),
            vms,
            lease_id: context.lease().map(crate::vm::LeaseId::as_str),
            command: context.command(),
            object: context.object(),
            arguments: context.arguments(),
            result: AuditResult::of(status),
            status,
            code: note.map(|note| note.code.as_str()),
            micros,
        });
    }
}

/// As much of a path as is kept. One may hold more than ASCII, and with that what turns a line round.
fn cut(path: &str) -> Cow<'_, str> {
    let path = &path[..path.floor_char_boundary(MAX_PATH)];
    if path.is_ascii() { path.into() } else { escaped(path).into() }
}
