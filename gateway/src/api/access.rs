//! Who may speak at all: the Host check, and principals from peers and bearer tokens.

use std::fmt;
use std::sync::Arc;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, Version, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::caller::unauthenticated;
use super::error::{Code, Problem};
use crate::principal::Principal;

/// How the callers of one connection prove who they are.
#[derive(Clone, Debug)]
pub enum Access {
    /// A Unix socket: the kernel names the peer, once for the connection.
    Peer(Principal),
    /// TCP on loopback, where every process of the host can connect: a token per request.
    Bearer(Arc<TcpAccess>),
}

/// What requests over TCP are measured by.
#[derive(Debug)]
pub struct TcpAccess {
    /// The token that they must carry.
    pub token: BearerToken,
    /// Names allowed in `Host`, with any port, next to the loopback ones.
    pub allowed_hosts: Vec<String>,
}

impl Access {
    /// The principal that this request proves, if it proves one.
    pub(crate) fn principal(&self, headers: &HeaderMap) -> Option<Principal> {
        match self {
            Self::Peer(principal) => Some(principal.clone()),
            Self::Bearer(access) => {
                let token = &access.token;
                let mut values = headers.get_all(header::AUTHORIZATION).iter();
                let (Some(value), None) = (values.next(), values.next()) else { return None };
                let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
                (scheme.eq_ignore_ascii_case("bearer") && token.matches(credentials.trim()))
                    .then(|| token.principal.clone())
            }
        }
    }

    /// Refuses what a page in a browser could send under a name of its own (DNS rebinding),
    /// and what RFC 9112 §3.2 says must be refused.
    pub(crate) fn check_host(
        &self,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (None, _) if version < Version::HTTP_11 => None,
            (Some(host), None) => {
                Some(host.to_str().ok().filter(|h| is_well_formed(h)).ok_or_else(|| {
                    Problem::bad_request("The Host header holds characters that no host has.")
                })?)
            }
            _ => return Err(Problem::bad_request("Exactly one Host header is needed.")),
        };
        let Self::Bearer(access) = self else { return Ok(()) };
        let allowed = |host| {
            names(host, "localhost")
                || names(host, "127.0.0.1")
                || names(host, "[::1]")
                || access.allowed_hosts.iter().any(|name| names(host, name))
        };
        let named = [host, uri.authority().map(Authority::as_str)];
        if host.is_some() && named.into_iter().flatten().all(allowed) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Forbidden,
            "The Host header must be localhost, 127.0.0.1 or [::1], with or without a port, or a \
             name in the gateway's setting listen.allowed_hosts.",
        ))
    }
}

fn is_well_formed(host: &str) -> bool {
    host.len() <= 255
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%:[]!$&'()*+,;=".contains(&b))
}

/// Whether a Host header's value is `name`, with or without a port.
fn names(host: &str, name: &str) -> bool {
    let Some((start, rest)) = host.split_at_checked(name.len()) else { return false };
    let port = rest
        .strip_prefix(':')
        .is_some_and(|p| (1..=5).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()));
    start.eq_ignore_ascii_case(name) && (rest.is_empty() || port)
}

/// A token that requests on a listener must carry. Only its hash is kept.
pub struct BearerToken {
    sha256: [u8; 32],
    principal: Principal,
}

impl BearerToken {
    /// For a token of at least 256 bits of randomness.
    pub fn new(token: &str, principal: Principal) -> Self {
        Self { sha256: Sha256::digest(token).into(), principal }
    }

    /// Takes the same time however much of the token is right.
    fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        presented.ct_eq(&self.sha256).into()
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// What anybody who reaches the listener may ask for: whether the gateway lives, and the
/// documentation. The OpenAPI document says the same, and a test compares.
pub(crate) fn is_public(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/version" | "/openapi.json") || is_page(path)
}

/// Whether this is the API page, which a browser asks for as HTML, scripts and images.
pub(crate) fn is_page(path: &str) -> bool {
    path.strip_prefix("/docs").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the `Accept` headers let the gateway answer in JSON, or on `/events` in events. A file
/// is sent as it is, whatever it may be.
pub(crate) fn accepts_answer(path: &str, headers: &HeaderMap) -> bool {
    if path.ends_with("/files/content") {
        return true;
    }
    accepts(headers, if path == "/events" { &["text/event-stream", "text/*"] } else { &[] })
}

fn accepts(headers: &HeaderMap, more: &[&str]) -> bool {
    let mut named_any = false;
    for value in headers.get_all(header::ACCEPT) {
        let Ok(value) = value.to_str() else { continue };
        for range in value.split(',').map(str::trim).filter(|r| !r.is_empty()) {
            named_any = true;
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let refused = parts.any(|p| {
                p.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
            });
            let json = ["*/*", "application/*", "application/json", "application/problem+json"];
            let known = |kinds: &[&str]| kinds.iter().any(|k| media.eq_ignore_ascii_case(k));
            if !refused && (known(&json) || known(more)) {
                return true;
            }
        }
    }
    !named_any
}

pub(crate) fn refuse_unauthenticated(access: &Access, headers: &HeaderMap) -> Problem {
    match access {
        Access::Bearer(_) if headers.contains_key(header::AUTHORIZATION) => Problem::new(
            Code::Unauthenticated,
            "The Authorization header does not carry the token of this gateway: compare it with \
             the gateway's token file (\"Bearer \" and the file's one line).",
        ),
        _ => unauthenticated(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_host_is_named_with_and_without_port() {
        for (host, name) in [
            ("localhost", "localhost"),
            ("LOCALHOST:80", "localhost"),
            ("127.0.0.1:8642", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:1", "[::1]"),
        ] {
            assert!(names(host, name), "{host}");
        }
        for host in [
            "",
            "localhost.evil.example",
            "localhost:",
            "localhost:x",
            "localhost:123456",
            "localhost@evil",
            "localhos",
            "localhosté",
        ] {
            assert!(!names(host, "localhost"), "{host}");
        }
    }

    #[test]
    fn accept_leaves_room_for_json_or_not() {
        let with = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(text));
            accepts(&headers, &[])
        };
        for good in [
            "*/*",
            "",
            "text/html, */*;q=0.1",
            "application/json; charset=utf-8",
            "APPLICATION/JSON",
            "application/*",
            "application/problem+json",
        ] {
            assert!(with(good), "{good}");
        }
        for bad in ["text/html", "application/xml", "application/json;q=0", "image/*"] {
            assert!(!with(bad), "{bad}");
        }
        assert!(accepts(&HeaderMap::new(), &[]));
        let mut events = HeaderMap::new();
        events.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        assert!(accepts_answer("/events", &events) && !accepts_answer("/vms", &events));
    }

    #[test]
    fn a_token_is_compared_whole() {
        let token = BearerToken::new("secret", Principal::new("token:default"));
        assert!(token.matches("secret"));
        assert!(!token.matches("secre") && !token.matches("") && !token.matches("secret2"));
        assert!(!format!("{token:?}").contains("sha256"));
    }
}
