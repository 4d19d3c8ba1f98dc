//! TLS for TCP: which certificates are shown and asked for. Files are read at the start and on each
//! reload; connections that are open go on with what they began with, but for clients whose certificate
//! would not be accepted any more.

mod clients;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, ServerConnection};
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

use self::clients::Clients;
use crate::api::access::Certified;
use crate::config::{NoCredentials, SecretFile, TlsConfig};
use crate::principal::Principal;

/// The longest name in a certificate that becomes a principal.
const MAX_NAME: usize = 128;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM of the wanted kind.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// It is a credential, and there are none.
    #[error("listen.tls: {0}")]
    NoCredentials(#[from] NoCredentials),
    /// Everybody can read the key.
    #[error(
        "{}: others than its owner and group can read this private key (mode {mode:04o}); take a \
         new one and keep it to 0640 at most",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file holds none of what it should.
    #[error("{}: holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What TCP is encrypted with now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: TlsConfig,
    current: RwLock<Current>,
    clients: Clients,
}

#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// Of clients' certificates, where they are asked for.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used.
    pub fn load(files: &TlsConfig) -> Result<Self, TlsError> {
        let current = RwLock::new(read(files)?);
        Ok(Self(Arc::new(Shared { files: files.clone(), current, clients: Clients::default() })))
    }

    /// Reads the files again; new connections get what they hold now. Those that began with a client's
    /// certificate which would be refused now finish the request in hand, and end.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used; then all stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = read(&self.0.files)?;
        let verifier = new.verifier.clone();
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        if let Some(verifier) = verifier {
            self.0.clients.check(&*verifier);
        }
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current().config)
    }

    /// Whom the other end of a connection that `acceptor` made has proved to be, by a certificate.
    pub(super) fn certified(
        &self,
        acceptor: &TlsAcceptor,
        connection: &ServerConnection,
    ) -> Option<Arc<Certified>> {
        let chain = connection.peer_certificates().filter(|chain| !chain.is_empty())?;
        let (principal, withdrawn) = (principal(connection), CancellationToken::new());
        let certified = Arc::new(Certified { principal, withdrawn });
        self.0.clients.enter(chain, &certified, || {
            let Current { config, verifier } = self.current();
            verifier.filter(|_| !Arc::ptr_eq(&config, acceptor.config()))
        });
        Some(certified)
    }

    fn current(&self) -> Current {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(files: &TlsConfig) -> Result<Current, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Unusable { path, source }
    };
    let certificate = files.certificate.locate()?;
    let chain = certificates(&certificate)?;
    let key = private_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable(&certificate))?;
    let required = files.client_certificate_required;
    let verifier =
        files.client_ca.as_ref().map(|ca| verifier(ca, required, provider)).transpose()?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable(&certificate))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), verifier })
}

/// Checks clients' certificates against those that sign them.
fn verifier(
    ca: &Path,
    required: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        let added = roots.add(certificate);
        added.map_err(|source| TlsError::Unusable { path: ca.into(), source })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| TlsError::Unusable {
        path: ca.into(),
        source: rustls::Error::General(error.to_string()),
    })
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.into(), source };
    let found = CertificateDer::pem_file_iter(path).map_err(pem)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.into() });
    }
    Ok(found)
}

pub(crate) fn private_key(file: &SecretFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    let path = file.locate()?;
    let io = |source| TlsError::Io { path: path.clone(), source };
    let mode = fs::metadata(&path).map_err(io)?.permissions().mode() & 0o7777;
    // A credential's mode says nothing: systemd grants it by an access list, below a directory that
    // nobody else may enter.
    if mode & 0o027 != 0 && matches!(file, SecretFile::Path(_)) {
        return Err(TlsError::Exposed { path, mode });
    }
    PrivateKeyDer::from_pem_file(&path).map_err(|source| TlsError::Pem { path, source })
}

/// Who the other end has proved to be by a certificate that was checked: its common name, or
/// without one its first DNS name or address.
fn principal(connection: &ServerConnection) -> Option<Principal> {
    let certificate = connection.peer_certificates()?.first()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let common = certificate.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
    let alternative = || {
        let names = &certificate.subject_alternative_name().ok()??.value.general_names;
        names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some(*name)
            }
            _ => None,
        })
    };
    let name = common.or_else(alternative).filter(|name| is_name(name))?;
    Some(Principal::new(format!("cert:{name}")))
}

/// Whether a certificate's name can be a principal: what a configuration could not write, or a log
/// would show as something else, is nobody.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}
