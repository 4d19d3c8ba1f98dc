//! `[listen.tls]` in the configuration.

use std::path::PathBuf;

use serde::Deserialize;

/// How TCP is encrypted. The files are read again on SIGHUP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and its chain, PEM.
    #[serde(deserialize_with = "super::fields::absolute")]
    pub certificate: PathBuf,
    /// Its private key, PEM; not to be read by everybody.
    #[serde(deserialize_with = "super::fields::absolute")]
    pub key: PathBuf,
    /// Who signs clients' certificates, PEM; without it none is asked for.
    #[serde(default, deserialize_with = "super::fields::absolute_or_none")]
    pub client_ca: Option<PathBuf>,
    /// Connections without a certificate of theirs are refused.
    #[serde(default)]
    pub client_certificate_required: bool,
}
