//! Where a gateway is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use axum::http::Uri;

/// Where a gateway is: a Unix socket's path, or a host with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `http://HOST[:PORT][/BASE]`, or `https://…`.
    Tcp {
        /// Whether TLS is spoken.
        tls: bool,
        /// A name or an address, that of IPv6 without brackets.
        host: String,
        /// 80 or 443 where none is said.
        port: u16,
        /// What stands in Host.
        authority: String,
        /// What stands before every path, where a proxy serves the gateway below one; no slash at
        /// its end.
        base: String,
    },
}

/// What is no place of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no gateway's address: https://HOST, http://HOST:PORT or unix:PATH is needed, as in \
     unix:/run/qga-gateway/api.sock"
)]
pub struct NoPlace(String);

impl Place {
    /// What stands in Host.
    pub(super) fn authority(&self) -> &str {
        match self {
            Self::Unix(_) => "localhost",
            Self::Tcp { authority, .. } => authority,
        }
    }

    /// What stands before every path.
    pub(super) fn base(&self) -> &str {
        match self {
            Self::Unix(_) => "",
            Self::Tcp { base, .. } => base,
        }
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let wrong = || NoPlace(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            // As curl and systemd write it, with and without an empty host.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(wrong)?;
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || uri.query().is_some() {
            return Err(wrong());
        }
        Ok(Self::Tcp {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_string(),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp { tls, authority, base, .. } => {
                write!(f, "{}://{authority}{base}", if *tls { "https" } else { "http" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_what_they_say() {
        for (text, host, port, base) in [
            ("https://gw.example", "gw.example", 443, ""),
            ("http://127.0.0.1:8642/", "127.0.0.1", 8642, ""),
            ("https://[::1]:8643/qga/", "::1", 8643, "/qga"),
        ] {
            let Place::Tcp { host: h, port: p, base: b, .. } = text.parse().unwrap() else {
                panic!("{text}")
            };
            assert_eq!((h.as_str(), p, b.as_str()), (host, port, base));
        }
        let unix = Place::Unix("/run/x.sock".into());
        assert_eq!("unix:/run/x.sock".parse(), Ok(unix.clone()));
        assert_eq!("unix:///run/x.sock".parse(), Ok(unix));
        for wrong in ["", "gw", "ftp://gw", "unix:x", "http://", "http://a@b", "http://a/?b", "/x"]
        {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
