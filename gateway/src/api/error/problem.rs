//! RFC 9457 problems: the body of every answer that is not a success.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Code, printable};
use crate::api::vms::LinkBody;

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
    /// `urn:qga:problem:` and the code; `qga-gateway explain CODE` says what to do about it.
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
    /// The name of the guest kernel's error number, where the agent tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "ENOENT")]
    errno: Option<String>,
    /// Bytes of the content that were received, from its beginning, and are kept for a while: the
    /// upload can be gone on with from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    received: Option<u64>,
    /// Up to where the file holds what was sent; what was there before has been overwritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    written: Option<u64>,
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
    /// The member of the request that the guest's agent cannot do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member: Option<&'static str>,
    #[serde(skip)]
    retry_after: Option<u32>,
    /// How long the file is of which there is no such range.
    #[serde(skip)]
    size: Option<u64>,
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
            errno: None,
            received: None,
            written: None,
            retryable: None,
            outcome: None,
            link: None,
            lease_id: None,
            member: None,
            retry_after: None,
            size: None,
        }))
    }

    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// A member of the request's body with a value that cannot be used.
    pub(crate) fn bad_member(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("Member \"{name}\": {why}."))
    }

    /// Whether the same may go well a moment later, by itself.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self.0.code,
            Code::AgentUnavailable
                | Code::AgentTimeout
                | Code::QueueFull
                | Code::VmFrozen
                | Code::VmPaused
        )
    }

    /// As a part of another answer.
    pub(crate) fn into_body(self) -> ProblemBody {
        *self.0
    }

    pub(crate) fn code(&self) -> Code {
        self.0.code
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

    pub(crate) fn errno(mut self, name: &str) -> Self {
        self.0.errno = Some(printable(name));
        self
    }

    pub(crate) fn received(mut self, bytes: u64) -> Self {
        self.0.received = Some(bytes);
        self
    }

    pub(crate) fn written(mut self, bytes: u64) -> Self {
        self.0.written = Some(bytes);
        self
    }

    /// Of how many bytes the file is, whose range is not there.
    pub(crate) fn size(mut self, bytes: u64) -> Self {
        self.0.size = Some(bytes);
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

    pub(crate) fn member(mut self, name: &'static str) -> Self {
        self.0.member = Some(name);
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
    outcome: Option<Outcome>,
    /// Absent where the caller is at fault: the text may quote the request, which can hold file
    /// contents, and is of use only to the caller.
    pub(crate) detail: Option<Cow<'static, str>>,
}

impl ProblemNote {
    /// Whether it is certain that nothing reached a guest.
    pub(crate) fn is_unsent(&self) -> bool {
        match self.outcome {
            Some(outcome) => outcome == Outcome::NotSent,
            None => self.code.is_callers_fault(),
        }
    }
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
        if let Some(size) = body.size
            && let Ok(range) = HeaderValue::try_from(format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, range);
        }
        if body.code == Code::Unauthenticated {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"qga-gateway\""),
            );
        }
        let detail = (!body.code.is_callers_fault()).then_some(body.detail);
        response.extensions_mut().insert(ProblemNote {
            code: body.code,
            outcome: body.outcome,
            detail,
        });
        response
    }
}
