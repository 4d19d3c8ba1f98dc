//! Pages in browsers: where one comes from that sends a request, and what the browser is told of it.
//!
//! A browser lets any page send requests, and proves who its user is by a TLS certificate without
//! being asked. So what a page of another host sends is refused, unless it changes nothing; then the
//! browser keeps the answer from the page. Hosts that the configuration names may do both.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use axum::response::Response;

use super::error::{Code, Outcome, Problem};
use crate::config::CorsConfig;

/// What such a page may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// What such a page may send besides what every page may.
const SENT: HeaderValue = HeaderValue::from_static(
    "accept, authorization, cache-control, content-range, content-type, idempotency-key, if-match, \
     if-modified-since, if-none-match, if-range, if-unmodified-since, last-event-id, prefer, range, \
     repr-digest, traceparent, x-request-id",
);
/// What such a page may read of an answer's head besides what every page may.
const READ: HeaderValue = HeaderValue::from_static(
    "accept-ranges, age, content-disposition, content-range, etag, idempotency-replayed, location, \
     retry-after, traceparent, x-output-offset, x-output-streaming, x-qga-stale, \
     x-request-id",
);
/// How long a browser need not ask again, in seconds.
const KEPT: HeaderValue = HeaderValue::from_static("600");

/// The hosts whose pages are let in. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(Arc<CorsConfig>);

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From no page, or from the gateway's own.
    Here,
    /// From a page that the configuration lets in.
    LetIn(HeaderValue),
    /// From another one.
    Elsewhere,
}

impl Origins {
    pub(super) fn new(config: CorsConfig) -> Self {
        Self(Arc::new(config))
    }

    /// Where a request with these headers comes from.
    pub(super) fn of(&self, headers: &HeaderMap, uri: &Uri) -> Origin {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let origin = match (origins.next(), origins.next()) {
            (None, _) => return Origin::Here,
            (Some(origin), None) => origin,
            (Some(_), Some(_)) => return Origin::Elsewhere,
        };
        let text = origin.to_str().unwrap_or_default();
        if self.0.origins.iter().any(|known| known == text) {
            return Origin::LetIn(origin.clone());
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
        match (text.split_once("://"), host) {
            (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host) => Origin::Here,
            _ => Origin::Elsewhere,
        }
    }

    /// What a browser is told of an answer.
    pub(super) fn mark(&self, from: &Origin, preflight: bool, response: &mut Response) {
        if self.0.origins.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        // Caches keep answers to one apart from those to another.
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let Origin::LetIn(origin) = from else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.0.credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        if preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, SENT);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, KEPT);
        } else {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, READ);
        }
    }
}

impl Origin {
    /// Whether this is a browser that asks what a page that is let in may send. It proves nothing
    /// then, and gets nothing but this.
    pub(super) fn is_preflight<B>(&self, request: &Request<B>) -> bool {
        matches!(self, Self::LetIn(_))
            && request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Refuses what a page from elsewhere sends to change something.
    pub(super) fn check(&self, method: &Method) -> Result<(), Problem> {
        if *self == Self::Elsewhere && !method.is_safe() { Err(elsewhere()) } else { Ok(()) }
    }
}

/// What a page is told that comes from somewhere else.
pub(super) fn elsewhere() -> Problem {
    Problem::new(
        Code::Forbidden,
        "The Origin header names another host than this gateway's: pages of other hosts change and \
         attach to nothing here, unless the gateway's configuration names their origin (cors.origins). \
         Behind a proxy, have it pass the Host header on. Nothing was done.",
    )
    .outcome(Outcome::NotSent, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_from_here_or_is_let_in_or_comes_from_elsewhere() {
        let config =
            CorsConfig { origins: vec!["https://dash.example".into()], credentials: false };
        let origins = Origins::new(config);
        let of = |host: &str, origin: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            for o in origin {
                headers.append(header::ORIGIN, o.parse().unwrap());
            }
            origins.of(&headers, &Uri::from_static("/vms"))
        };
        assert_eq!(of("gw:8470", &[]), Origin::Here);
        assert_eq!(of("gw:8470", &["https://GW:8470"]), Origin::Here);
        let let_in = HeaderValue::from_static("https://dash.example");
        assert_eq!(of("gw", &["https://dash.example"]), Origin::LetIn(let_in));
        for other in [
            "https://evil.example",
            "null",
            "",
            "http://dash.example",
            "https://dash.example:444",
            "https://gw.evil.example",
            "https://dash.example.evil.example",
        ] {
            assert_eq!(of("gw", &[other]), Origin::Elsewhere, "{other}");
        }
        assert_eq!(of("gw", &["https://dash.example", "https://gw"]), Origin::Elsewhere);
    }
}
