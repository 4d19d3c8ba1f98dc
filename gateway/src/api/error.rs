//! Every answer that is not a success: RFC 9457 problems with a stable code.
//!
//! This is the only file that names the status code of a failure. What a guest or its link did
//! wrong is put into words in [`guest`].

pub(crate) mod guest;

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::vms::LinkBody;

/// What went wrong, for programs. Codes are only ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProblemCode)]
pub enum Code {
    /// The request is malformed: JSON, a member, a parameter or a header.
    BadRequest,
    /// No credentials, or wrong ones.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// The guest's own policy has switched the command off.
    CommandDisabled,
    /// No operation has this path.
    RouteNotFound,
    /// The gateway knows no VM of this id.
    VmNotFound,
    /// The gateway knows no freeze lease of this id, or the VM has none.
    LeaseNotFound,
    /// The path exists, the method on it does not.
    MethodNotAllowed,
    /// The `Accept` header leaves nothing that the gateway could send.
    NotAcceptable,
    /// The request's body did not arrive in time.
    RequestTimeout,
    /// The guest refuses the command while its filesystems are frozen.
    VmFrozen,
    /// The VM is frozen already.
    AlreadyFrozen,
    /// The lease is in a state that rules this out.
    LeaseConflict,
    /// The VM is paused.
    VmPaused,
    /// `If-Match` names another lease than the active one.
    LeaseMismatch,
    /// The request's body is over the limit.
    BodyTooLarge,
    /// The request's body is not JSON by its `Content-Type`.
    UnsupportedMediaType,
    /// The guest agent refused or failed.
    AgentError,
    /// No filesystem was frozen, and the policy requires it.
    NothingToFreeze,
    /// Less was frozen than the policy requires; it was thawed again.
    FreezeIncomplete,
    /// Too many calls wait for this VM.
    QueueFull,
    /// A defect of the gateway.
    InternalError,
    /// This guest's agent has no such command or option.
    CommandUnsupported,
    /// The agent's answer could not be understood.
    AgentBadReply,
    /// The guest agent cannot be reached.
    AgentUnavailable,
    /// The gateway is stopping.
    ShuttingDown,
    /// The guest agent did not answer in time.
    AgentTimeout,
}

impl Code {
    /// All codes, by status.
    pub const ALL: [Self; 27] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::CommandDisabled,
        Self::RouteNotFound,
        Self::VmNotFound,
        Self::LeaseNotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::VmFrozen,
        Self::AlreadyFrozen,
        Self::LeaseConflict,
        Self::VmPaused,
        Self::LeaseMismatch,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::AgentError,
        Self::NothingToFreeze,
        Self::FreezeIncomplete,
        Self::QueueFull,
        Self::InternalError,
        Self::CommandUnsupported,
        Self::AgentBadReply,
        Self::AgentUnavailable,
        Self::ShuttingDown,
        Self::AgentTimeout,
    ];

    /// Status, code as on the wire, and title: the table of DESIGN.md §6.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::BadRequest => (S::BAD_REQUEST, "bad_request", "Bad request"),
            Self::Unauthenticated => {
                (S::UNAUTHORIZED, "unauthenticated", "Authentication required")
            }
            Self::Forbidden => (S::FORBIDDEN, "forbidden", "Not permitted"),
            Self::CommandDisabled => {
                (S::FORBIDDEN, "command_disabled", "Command disabled by the guest")
            }
            Self::RouteNotFound => (S::NOT_FOUND, "route_not_found", "No such path"),
            Self::VmNotFound => (S::NOT_FOUND, "vm_not_found", "No such VM"),
            Self::LeaseNotFound => (S::NOT_FOUND, "lease_not_found", "No such freeze lease"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed here")
            }
            Self::NotAcceptable => {
                (S::NOT_ACCEPTABLE, "not_acceptable", "No acceptable representation")
            }
            Self::RequestTimeout => {
                (S::REQUEST_TIMEOUT, "request_timeout", "The request took too long to arrive")
            }
            Self::VmFrozen => (S::CONFLICT, "vm_frozen", "The VM is frozen"),
            Self::AlreadyFrozen => (S::CONFLICT, "already_frozen", "The VM is frozen already"),
            Self::LeaseConflict => (S::CONFLICT, "lease_conflict", "The lease does not allow it"),
            Self::VmPaused => (S::CONFLICT, "vm_paused", "The VM is paused"),
            Self::LeaseMismatch => {
                (S::PRECONDITION_FAILED, "lease_mismatch", "Another lease is active")
            }
            Self::BodyTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "body_too_large", "The request's body is too large")
            }
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body is not JSON")
            }
            Self::AgentError => {
                (S::UNPROCESSABLE_ENTITY, "agent_error", "The guest agent refused or failed")
            }
            Self::NothingToFreeze => {
                (S::UNPROCESSABLE_ENTITY, "nothing_to_freeze", "Nothing was frozen")
            }
            Self::FreezeIncomplete => {
                (S::UNPROCESSABLE_ENTITY, "freeze_incomplete", "Not everything could be frozen")
            }
            Self::QueueFull => {
                (S::TOO_MANY_REQUESTS, "queue_full", "Too many calls wait for this VM")
            }
            Self::InternalError => {
                (S::INTERNAL_SERVER_ERROR, "internal_error", "Defect in the gateway")
            }
            Self::CommandUnsupported => {
                (S::NOT_IMPLEMENTED, "command_unsupported", "The guest agent cannot do this")
            }
            Self::AgentBadReply => {
                (S::BAD_GATEWAY, "agent_bad_reply", "The guest agent's answer makes no sense")
            }
            Self::AgentUnavailable => {
                (S::SERVICE_UNAVAILABLE, "agent_unavailable", "The guest agent cannot be reached")
            }
            Self::ShuttingDown => {
                (S::SERVICE_UNAVAILABLE, "shutting_down", "The gateway is stopping")
            }
            Self::AgentTimeout => {
                (S::GATEWAY_TIMEOUT, "agent_timeout", "The guest agent did not answer in time")
            }
        }
    }

    /// Whether the request was wrong by itself, whatever the state of the VM.
    const fn is_callers_fault(self) -> bool {
        matches!(self.status().as_u16(), 400 | 401 | 403..=408 | 413 | 415)
            && !matches!(self, Self::CommandDisabled)
    }

    /// The HTTP status that goes with this code.
    pub const fn status(self) -> StatusCode {
        self.row().0
    }

    /// The code as it stands in a problem.
    pub const fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The code in words, the same for every occurrence.
    pub const fn title(self) -> &'static str {
        self.row().2
    }
}

/// How far the guest command of a failed request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProblemOutcome)]
pub(crate) enum Outcome {
    /// Nothing reached the guest.
    NotSent,
    /// The command was sent; whether the guest ran it is not known.
    Unknown,
    /// The guest ran or refused the command, and said that it failed.
    Failed,
}

/// The body of every answer that is not a success (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// `urn:qga:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:qga:problem:vm_not_found")]
    kind: String,
    /// The code in words.
    #[schema(example = "No such VM")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 404)]
    status: u16,
    /// What happened this time, and what to do about it.
    #[schema(value_type = String)]
    detail: Cow<'static, str>,
    code: Code,
    /// The VM concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    vm_id: Option<String>,
    /// The guest agent command concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    command: Option<&'static str>,
    /// The agent's error class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    qga_class: Option<String>,
    /// The agent's error text: untrusted, cut at 1,024 characters, control characters escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    qga_desc: Option<String>,
    /// Whether the same request may be sent again without doing harm.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retryable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    outcome: Option<Outcome>,
    /// The state of the link to the VM's agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    link: Option<LinkBody>,
    /// The freeze lease in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    lease_id: Option<String>,
    #[serde(skip)]
    retry_after: Option<u32>,
}

/// A failure on its way to the caller.
#[derive(Debug)]
pub(crate) struct Problem(Box<ProblemBody>);

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let (status, name, title) = code.row();
        Self(Box::new(ProblemBody {
            kind: format!("urn:qga:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            code,
            vm_id: None,
            command: None,
            qga_class: None,
            qga_desc: None,
            retryable: None,
            outcome: None,
            link: None,
            lease_id: None,
            retry_after: None,
        }))
    }

    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// A member of the request's body with a value that cannot be used.
    pub(crate) fn bad_member(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("Member \"{name}\": {why}."))
    }

    pub(crate) fn vm(mut self, id: &crate::vm::VmId) -> Self {
        self.0.vm_id = Some(id.to_string());
        self
    }

    pub(crate) fn command(mut self, name: &'static str) -> Self {
        self.0.command = Some(name);
        self
    }

    pub(crate) fn guest_said(mut self, class: &str, desc: &str) -> Self {
        self.0.qga_class = Some(printable(class));
        self.0.qga_desc = Some(printable(desc));
        self
    }

    pub(crate) fn outcome(mut self, outcome: Outcome, retryable: bool) -> Self {
        self.0.outcome = Some(outcome);
        self.0.retryable = Some(retryable);
        self
    }

    pub(crate) fn link(mut self, link: LinkBody) -> Self {
        self.0.link = Some(link);
        self
    }

    pub(crate) fn lease(mut self, id: impl std::fmt::Display) -> Self {
        self.0.lease_id = Some(id.to_string());
        self
    }

    /// Says first what the failure means for the caller, then what it was.
    pub(crate) fn preceded_by(mut self, meaning: &str) -> Self {
        self.0.detail = format!("{meaning} {}", self.0.detail).into();
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }
}

/// What the log line says of a problem. Carried in the response's extensions.
#[derive(Clone, Debug)]
pub(crate) struct ProblemNote {
    pub(crate) code: Code,
    /// Absent where the caller is at fault: the text may quote the request, which can hold file
    /// contents, and is of use only to the caller.
    pub(crate) detail: Option<Cow<'static, str>>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = *self.0;
        // Only strings, numbers and enums: their serialization cannot fail.
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = body.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = body.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if body.code == Code::Unauthenticated {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"qga-gateway\""),
            );
        }
        let detail = (!body.code.is_callers_fault()).then_some(body.detail);
        response.extensions_mut().insert(ProblemNote { code: body.code, detail });
        response
    }
}

/// Guest text made fit for a person's terminal: at most 1,024 characters, and nothing that
/// moves a cursor or turns the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    const LIMIT: usize = 1024;
    let mut out = String::with_capacity(text.len().min(LIMIT));
    for (n, c) in text.chars().enumerate() {
        if n == LIMIT {
            out.push('…');
            break;
        }
        let unsafe_mark = matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || unsafe_mark {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_on_the_wire_match_their_table() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn guest_text_cannot_drive_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\nc\\u{202e}d é");
        let long = printable(&"x".repeat(5000));
        assert_eq!(long.chars().count(), 1025);
    }
}
