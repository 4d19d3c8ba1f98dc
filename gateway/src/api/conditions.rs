//! What callers say of answers that they have or would take: `Cache-Control`, `If-None-Match`.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::error::{Problem, printable};
use crate::vm::Snapshot;

const STALE: HeaderName = HeaderName::from_static("x-qga-stale");

/// What a caller says of answers that it has or would take.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// An answer of at most this age will do.
    pub(super) max_age: Option<Duration>,
    /// The header's values: tags that the caller has.
    has: Vec<String>,
}

/// Whether an answer is what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Fresh, or as old as the caller takes.
    AsAsked,
    /// From before the freeze.
    Frozen,
}

impl Conditions {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let mut max_age = None;
        let directives = text(header::CACHE_CONTROL).flat_map(|value| value.split(','));
        for directive in directives.map(str::trim) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            if name.eq_ignore_ascii_case("no-cache") || name.eq_ignore_ascii_case("no-store") {
                max_age = Some(Duration::ZERO);
                break;
            }
            if name.eq_ignore_ascii_case("max-age") {
                max_age = Some(seconds(value.trim_matches('"'))?);
            }
        }
        let has = text(header::IF_NONE_MATCH).map(str::to_owned).collect();
        // Nothing is younger than now, and an answer of this moment is one of now.
        Ok(Self { max_age: max_age.filter(|age| !age.is_zero()), has })
    }

    /// The answer, or only that the caller has it.
    pub(super) fn answer(&self, snapshot: &Snapshot, freshness: Freshness) -> Response {
        let has = self.has(&snapshot.tag);
        let body = if has { Body::empty() } else { Body::from(snapshot.body.clone()) };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::AGE, snapshot.age().as_secs().into());
        // Hexadecimal digits in quotes are always a valid header value.
        let tag = HeaderValue::try_from(format!("\"{}\"", snapshot.tag));
        headers.insert(header::ETAG, tag.unwrap_or(HeaderValue::from_static("\"\"")));
        // To be kept by who asked and by nobody between, and asked for again before it is used.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        if freshness == Freshness::Frozen {
            headers.insert(STALE, HeaderValue::from_static("frozen"));
        }
        if has {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        response
    }

    /// RFC 9110, 13.1.2: any of the tags, weak ones too, or `*`.
    fn has(&self, tag: &str) -> bool {
        self.has.iter().flat_map(|value| value.split(',')).map(str::trim).any(|one| {
            let quoted = one.strip_prefix("W/").unwrap_or(one);
            one == "*" || quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"')) == Some(tag)
        })
    }
}

fn seconds(text: &str) -> Result<Duration, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // RFC 9111, 1.2.2: what does not fit counts as very long.
    let seconds = digits.then(|| text.parse().unwrap_or(u32::MAX));
    seconds.map(|seconds| Duration::from_secs(seconds.into())).ok_or_else(|| {
        Problem::bad_request(format!(
            "Header Cache-Control: max-age must be a number of seconds, not \"{}\".",
            printable(text)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: HeaderName, value: &'static str) -> Conditions {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        Conditions::of(&headers).unwrap()
    }

    #[test]
    fn an_age_is_taken_and_fresh_means_fresh() {
        let age = |value| of(header::CACHE_CONTROL, value).max_age.map(|age| age.as_secs());
        assert_eq!(age("max-age=10"), Some(10));
        assert_eq!(age("private, MAX-AGE=\"7\""), Some(7));
        assert_eq!(age("max-age=99999999999999999999999"), Some(u64::from(u32::MAX)));
        for fresh in ["max-age=0", "no-cache", "max-age=10, no-cache", "max-stale=9", "x", ""] {
            assert_eq!(age(fresh), None, "{fresh}");
        }
        for bad in ["max-age", "max-age=", "max-age=-1", "max-age=1.5"] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(bad));
            assert!(Conditions::of(&headers).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_compared_weakly() {
        let has = |value| of(header::IF_NONE_MATCH, value).has("ab");
        for yes in ["\"ab\"", "W/\"ab\"", "\"x\", \"ab\"", "*"] {
            assert!(has(yes), "{yes}");
        }
        for no in ["ab", "\"a\"", "\"ab", ""] {
            assert!(!has(no), "{no}");
        }
    }
}
