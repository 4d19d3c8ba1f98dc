//! Connections whose clients have shown a certificate: one that the authorities of now would not
//! accept is withdrawn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use crate::api::access::Certified;

/// Those that are open, or on which something has begun that goes on.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<Vec<Client>>);

#[derive(Debug)]
struct Client {
    chain: Vec<CertificateDer<'static>>,
    certified: Weak<Certified>,
}

impl Clients {
    /// Somebody with these certificates. `newer` checks them where they were accepted by authorities
    /// that have been replaced meanwhile.
    pub(super) fn enter(
        &self,
        chain: &[CertificateDer<'static>],
        certified: &Arc<Certified>,
        newer: impl FnOnce() -> Option<Arc<dyn ClientCertVerifier>>,
    ) {
        let client = Client { chain: chain.to_vec(), certified: Arc::downgrade(certified) };
        let mut open = self.open();
        open.retain(|client| client.certified.strong_count() > 0);
        // Under the lock: a change that is not seen here finds this client there.
        if let Some(verifier) = newer() {
            client.check(&*verifier);
        }
        open.push(client);
    }

    /// These authorities count from now on.
    pub(super) fn check(&self, verifier: &dyn ClientCertVerifier) {
        self.open().iter().for_each(|client| client.check(verifier));
    }

    /// Nothing panics under this lock.
    fn open(&self) -> MutexGuard<'_, Vec<Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn check(&self, verifier: &dyn ClientCertVerifier) {
        let Some(certified) = self.certified.upgrade() else { return };
        let good = self.chain.split_first().is_some_and(|(own, between)| {
            verifier.verify_client_cert(own, between, UnixTime::now()).is_ok()
        });
        if !good {
            certified.withdrawn.cancel();
        }
    }
}
