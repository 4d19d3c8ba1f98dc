//! Who may speak at all: the Host check, and principals from peers and bearer tokens.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::uri;
use axum::http::{HeaderMap, Uri, Version, header};

use tokio_util::sync::CancellationToken;

use super::error::{Code, Problem};
use super::failures::Failures;
use crate::principal::Principal;
use crate::rights::{Authority, Bearer, Identity};

/// How the callers of one connection prove who they are.
#[derive(Clone, Debug)]
pub enum Access {
    /// A Unix socket: the kernel names the peer, once for the connection. A request may name
    /// itself by a token instead.
    Peer(Identity, Authority),
    /// TCP, where anybody can connect: a token per request, or a certificate for the connection,
    /// which a token outdoes.
    Tcp(Arc<TcpAccess>, IpAddr, Option<Arc<Certified>>),
}

/// Whom a client's certificate has proved.
#[derive(Debug)]
pub struct Certified {
    /// None by a certificate without a name that can be one.
    pub principal: Option<Principal>,
    /// Cancelled once the certificate would not be accepted any more.
    pub withdrawn: CancellationToken,
}

/// What requests over TCP are measured by.
#[derive(Debug)]
pub struct TcpAccess {
    /// Knows the tokens.
    pub authority: Authority,
    /// Names allowed in `Host`, with any port, next to the loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Who has failed how often.
    pub failures: Failures,
}

/// Who a request has proved to be.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) identity: Identity,
    /// The token that proved it.
    pub(crate) bearer: Option<Bearer>,
    /// The certificate that did.
    certified: Option<Arc<Certified>>,
}

impl Proof {
    /// Whether it would still count.
    pub(crate) fn is_in(&self, authority: &Authority) -> bool {
        authority.watch(self.bearer.clone()).is_in()
            && self.certified.as_ref().is_none_or(|certified| !certified.withdrawn.is_cancelled())
    }

    /// Returns once it would not count any more, or `holds` does not hold.
    pub(crate) async fn revoked(&self, authority: &Authority, holds: impl Fn() -> bool) {
        let mut watch = authority.watch(self.bearer.clone());
        tokio::select! {
            () = watch.until(holds) => {}
            () = withdrawn(self.certified.as_deref()) => {}
        }
    }
}

async fn withdrawn(certified: Option<&Certified>) {
    match certified {
        Some(certified) => certified.withdrawn.cancelled().await,
        None => std::future::pending().await,
    }
}

impl Access {
    /// Returns once the certificate would be refused by which the connection came about, if by one.
    pub(crate) async fn withdrawn(&self) {
        match self {
            Self::Tcp(_, _, certified) => withdrawn(certified.as_deref()).await,
            Self::Peer(..) => std::future::pending().await,
        }
    }

    /// Who this request proves to come from, if it proves anything.
    pub(crate) fn prove(&self, headers: &HeaderMap) -> Result<Option<Proof>, Problem> {
        let named = headers.contains_key(header::AUTHORIZATION);
        match self {
            Self::Peer(identity, _) if !named => {
                Ok(Some(Proof { identity: identity.clone(), bearer: None, certified: None }))
            }
            Self::Peer(_, authority) => {
                Ok(Some(proof(authority, headers).ok_or_else(wrong_token)?))
            }
            Self::Tcp(_, _, certified) if !named => Ok(certified
                .as_ref()
                .filter(|certified| !certified.withdrawn.is_cancelled())
                .and_then(|certified| {
                    let identity = certified.principal.clone()?.into();
                    Some(Proof { identity, bearer: None, certified: Some(certified.clone()) })
                })),
            Self::Tcp(access, peer, _) => {
                if let Some(proof) = proof(&access.authority, headers) {
                    return Ok(Some(proof));
                }
                match access.failures.note(*peer) {
                    None => Err(wrong_token()),
                    Some(wait) => Err(Problem::new(
                        Code::TooManyFailures,
                        "Too many requests with a wrong token have come from this address. Those \
                         with a right one are served as ever.",
                    )
                    .retry_after(u32::try_from(wait.as_secs()).unwrap_or(1).max(1))),
                }
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
        let Self::Tcp(access, ..) = self else { return Ok(()) };
        let allowed = |host| {
            names(host, "localhost")
                || names(host, "127.0.0.1")
                || names(host, "[::1]")
                || access.allowed_hosts.iter().any(|name| names(host, name))
        };
        let named = [host, uri.authority().map(uri::Authority::as_str)];
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

fn proof(authority: &Authority, headers: &HeaderMap) -> Option<Proof> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    let bearer = Some(credentials.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
    let bearer = authority.bearer(bearer)?;
    let identity = bearer.principal.clone().into();
    Some(Proof { identity, bearer: Some(bearer), certified: None })
}

pub(crate) fn wrong_token() -> Problem {
    Problem::new(
        Code::Unauthenticated,
        "The Authorization header does not carry a token of this gateway (\"Bearer \" and the \
         token): it is unknown, has expired or was withdrawn.",
    )
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

/// Whether the `Accept` headers let the gateway answer in JSON, or as that path is answered.
/// A file is sent as it is, whatever it may be.
pub(crate) fn accepts_answer(path: &str, headers: &HeaderMap) -> bool {
    if path.ends_with("/files/content") {
        return true;
    }
    let more: &[&str] = match path {
        "/events" => &["text/event-stream", "text/*"],
        // Which of them, the handler looks at.
        "/metrics" => &["text/plain", "text/*", "application/openmetrics-text"],
        path if path.ends_with("/output") => {
            &["text/event-stream", "text/*", "application/octet-stream"]
        }
        _ => &[],
    };
    accepts(headers, more)
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    use crate::rights::Rules;

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
    fn a_token_is_compared_whole_and_counts_on_a_unix_socket_too() {
        let authority = Authority::new(Rules::default()).with_token("secret");
        let access = Access::Peer(Identity::unix(1, 1), authority);
        let with = |credentials: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(credentials).unwrap());
            access.prove(&headers).map(|proof| proof.unwrap().identity.principal)
        };
        let who = access.prove(&HeaderMap::new()).unwrap().unwrap().identity.principal;
        assert_eq!(who.as_str(), "unix:uid=1");
        assert_eq!(with("bearer secret").unwrap().as_str(), "token:default");
        for wrong in ["Bearer secre", "Bearer ", "Bearer secret2", "Basic secret", "secret"] {
            // Whoever names themselves wrongly is nobody, and not whom the socket would name.
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }
}
