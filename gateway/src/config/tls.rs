//! `[listen.tls]` in the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::SecretFile;

/// How TCP is encrypted. The files are read again on SIGHUP; a credential is as old as the unit's start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and its chain, PEM.
    #[serde(deserialize_with = "located")]
    pub certificate: SecretFile,
    /// Its private key, PEM; not to be read by everybody.
    #[serde(deserialize_with = "located")]
    pub key: SecretFile,
    /// Who signs clients' certificates, PEM; without it none is asked for.
    #[serde(default, deserialize_with = "super::fields::absolute_or_none")]
    pub client_ca: Option<PathBuf>,
    /// Connections without a certificate of theirs are refused.
    #[serde(default)]
    pub client_certificate_required: bool,
}

/// An absolute path, or a credential.
fn located<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretFile, D::Error> {
    let file = SecretFile::deserialize(deserializer)?;
    match &file {
        SecretFile::Path(path) if !path.is_absolute() || path.file_name().is_none() => {
            Err(de::Error::custom(format_args!("`{file}` is not an absolute path")))
        }
        _ => Ok(file),
    }
}
