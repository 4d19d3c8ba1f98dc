//! Requests taken apart: path, query and body, each refusal a problem that says what to mend.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::App;
use super::bodies::SMALL;
use super::caller::unauthenticated;
use super::context::RequestContext;
use super::error::{Code, Problem, printable};

/// The largest body of a request that carries no file content.
pub(super) const MAX_BODY: usize = 1 << 20;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The parameters in the path.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::bad_request(format!(
                "The path cannot be understood: {}.",
                rejection.body_text().trim_end_matches('.')
            ))),
        }
    }
}

/// No query: a parameter that would be ignored (`?force`) must not look as if it worked.
#[derive(Debug)]
pub(crate) struct NoQuery;

impl FromRequestParts<App> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let Some(first) = query.split('&').find(|pair| !pair.is_empty()) else {
            return Ok(Self);
        };
        let name = first.split('=').next().unwrap_or(first);
        Err(Problem::bad_request(format!(
            "Unknown query parameter \"{name}\": this operation takes none."
        )))
    }
}

/// A query with the parameters that `T` knows and no others.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(error) => Err(Problem::bad_request(format!("{}.", error.body_text()))),
        }
    }
}

/// The query's parameters in their order, for operations that take some of them repeatedly.
pub(crate) fn pairs(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    match axum::extract::Query::try_from_uri(uri) {
        Ok(axum::extract::Query(pairs)) => Ok(pairs),
        Err(error) => Err(Problem::bad_request(format!("{}.", error.body_text()))),
    }
}

pub(crate) fn unknown_parameter(name: &str) -> Problem {
    Problem::bad_request(format!(
        "Unknown query parameter \"{}\": this operation does not take it.",
        printable(name)
    ))
}

/// A JSON object as the body, at most `LIMIT` bytes. An empty body stands for `{}`.
///
/// Nesting is bounded by `serde_json` (128 levels), and unknown members are refused by the
/// types themselves, so that nothing is ever skipped over.
#[derive(Debug)]
pub(crate) struct Json<T, const LIMIT: usize = MAX_BODY>(pub(crate) T);

impl<T: DeserializeOwned, const LIMIT: usize> FromRequest<App> for Json<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let context = parts.extensions.get::<Arc<RequestContext>>();
        // The front puts one into each request.
        let context = context.ok_or_else(unauthenticated)?;
        let bytes = take_in(app, context, &parts.headers, body, LIMIT).await?;
        context.said(&parts.uri, &bytes);
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        check_media_type(&parts.headers)?;
        parse(&bytes).map(Self)
    }
}

/// Nothing as the body, or `{}` from clients that always send something.
#[derive(Debug)]
pub(crate) struct NoBody;

impl FromRequest<App> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let Json(Nothing {}) = Json::<Nothing>::from_request(request, app).await?;
        Ok(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde would take an array for an object, its elements for the members in their order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::bad_request(
            "The request's body must be a JSON object, not an array.",
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "does not have the form that is needed",
            _ => "is not valid JSON",
        };
        Problem::bad_request(format!("The request's body {what}: {error}."))
    })
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING) {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            format!("Content-Encoding {encoding:?} is not supported: send the body as it is."),
        ));
    }
    let value = headers.get(header::CONTENT_TYPE);
    let media = value.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut parts = media.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json =
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    let utf8 = parts.all(|p| match p.split_once('=') {
        Some((name, charset)) if name.eq_ignore_ascii_case("charset") => {
            charset.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if json && utf8 {
        return Ok(());
    }
    let found = match value {
        Some(value) => format!("is {value:?}"),
        None => "is missing".to_owned(),
    };
    Err(Problem::new(
        Code::UnsupportedMediaType,
        format!("The body must be JSON, but its Content-Type {found}: send \"application/json\"."),
    ))
}

/// The body, for which there is room until the request is answered.
pub(super) async fn take_in(
    app: &App,
    context: &RequestContext,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let most = usize::try_from(body.size_hint().upper().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    // What is larger than allowed is refused below, of which nothing is read.
    if most > SMALL
        && most.min(limit) > SMALL
        && declared(headers).is_none_or(|length| length <= limit as u64)
        && !context.has_room()
        && let Some(who) = context.principal()
    {
        let all = app.limits().request_bodies_bytes;
        context.holds(app.bodies().room(who, most.min(limit), all).await?);
    }
    read(headers, body, limit).await
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            Code::BodyTooLarge,
            format!(
                "The request's body is larger than the {limit} bytes that this operation takes."
            ),
        )
    };
    // Said at once, before a byte of the body was read.
    if declared(headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Problem::bad_request(format!(
            "The request's body broke off or is not framed as its headers say: {error}."
        ))),
        Err(_) => Err(Problem::new(
            Code::RequestTimeout,
            format!("The request's body did not arrive within {} s.", BODY_TIMEOUT.as_secs()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let problem = read(&HeaderMap::new(), Body::from_stream(never), 10).await.unwrap_err();
        assert!(format!("{problem:?}").contains("RequestTimeout"), "{problem:?}");
    }
}
