//! Loopback TCP: only when configured, and only with a token.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::Listener;
use crate::api::Failures;
use crate::api::access::{Access, TcpAccess};
use crate::rights::Authority;

/// Why TCP cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// Not loopback.
    #[error("{0}: only loopback addresses can be served without TLS")]
    NotLoopback(SocketAddr),
    /// The system refuses.
    #[error("{address}: {source}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A listening TCP socket on loopback.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    access: Arc<TcpAccess>,
}

impl Tcp {
    /// Listens on `address` for callers with a token that `authority` knows. `allowed_hosts` are
    /// taken in the Host header next to the loopback names.
    ///
    /// # Errors
    ///
    /// If the address is not loopback, or the system refuses.
    pub async fn bind(
        address: SocketAddr,
        authority: &Authority,
        allowed_hosts: &[String],
    ) -> Result<Self, TcpError> {
        if !address.ip().is_loopback() {
            return Err(TcpError::NotLoopback(address));
        }
        let access = Arc::new(TcpAccess {
            authority: authority.clone(),
            allowed_hosts: allowed_hosts.to_vec(),
            failures: Failures::default(),
        });
        let listener =
            TcpListener::bind(address).await.map_err(|source| TcpError::Io { address, source })?;
        Ok(Self { listener, access })
    }

    /// The address, with the port that the kernel chose for port 0.
    ///
    /// # Errors
    ///
    /// If the system refuses to tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Listener for Tcp {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Access)> {
        let (stream, peer) = self.listener.accept().await?;
        // Answers are small and whole; waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        Ok((stream, Access::Bearer(self.access.clone(), peer.ip())))
    }
}
