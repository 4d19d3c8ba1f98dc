//! What is told of a request, and of the guest commands that it came down to.

use std::time::SystemTime;

use super::Trace;
use super::context::SpanId;

/// A request.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) trace: Trace,
    pub(crate) begin: SystemTime,
    pub(crate) end: SystemTime,
    /// `GET /vms/{id}`.
    pub(crate) name: String,
    pub(crate) method: String,
    pub(crate) route: String,
    /// Absent if the client hung up before the answer.
    pub(crate) status: Option<u16>,
    /// The stable code of a problem.
    pub(crate) problem: Option<&'static str>,
    pub(crate) request_id: String,
    pub(crate) principal: Option<String>,
    pub(crate) vm: Option<String>,
    pub(crate) calls: Vec<CallSpan>,
}

/// A guest command.
#[derive(Clone, Debug)]
pub(crate) struct CallSpan {
    pub(super) id: SpanId,
    pub(super) begin: SystemTime,
    pub(super) end: SystemTime,
    pub(super) command: &'static str,
}

impl CallSpan {
    /// One that ends now. `None` without random numbers.
    pub(crate) fn ended(command: &'static str, begin: SystemTime) -> Option<Self> {
        Some(Self { id: SpanId::random()?, begin, end: SystemTime::now(), command })
    }
}
