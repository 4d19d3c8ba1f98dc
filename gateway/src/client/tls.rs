//! Whose certificates are believed, and which one is shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config::SecretFile;
use crate::server::{TlsError, certificates, private_key};

/// Where distributions keep the certificates that everybody believes: Debian, Red Hat, SUSE, BSDs.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The files that TLS needs.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Who may have signed the gateway's certificate, in place of those whom the system believes.
    pub authorities: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] TlsError),
    /// Certificate and key do not go together.
    #[error("{}: {source}", certificate.display())]
    Unusable {
        /// The certificate.
        certificate: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Nobody is believed.
    #[error(
        "this host has no list of certificate authorities; name the one that signed the gateway's \
         certificate with --cacert"
    )]
    Nobody,
}

impl Trust {
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        let mut roots = RootCertStore::empty();
        let bundle = BUNDLES.into_iter().map(Path::new).find(|path| path.is_file());
        let file = self.authorities.as_deref().or(bundle).ok_or(TrustError::Nobody)?;
        // A system's list may hold some that this library does not take.
        let (added, _) = roots.add_parsable_certificates(certificates(file)?);
        if added == 0 {
            return Err(TlsError::Empty { path: file.into() }.into());
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| TrustError::Unusable { certificate: file.into(), source })?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    certificates(certificate)?,
                    private_key(&SecretFile::Path(key.clone()))?,
                )
                .map_err(|source| TrustError::Unusable {
                    certificate: certificate.clone(),
                    source,
                })?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
