//! Loopback TCP: only when configured, and only with a token.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::Listener;
use super::token::{TokenError, load_or_create};
use crate::api::access::{Access, BearerToken, TcpAccess};
use crate::principal::Principal;

/// Why TCP cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// Not loopback.
    #[error("{0}: only loopback addresses can be served without TLS")]
    NotLoopback(SocketAddr),
    /// The token is not to be had.
    #[error(transparent)]
    Token(#[from] TokenError),
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
    access: Access,
}

impl Tcp {
    /// Listens on `address` for callers with the token in `token_file`, which is made if it is
    /// missing. `allowed_hosts` are taken in the Host header next to the loopback names.
    ///
    /// # Errors
    ///
    /// If the address is not loopback, the token file is unusable, or the system refuses.
    pub async fn bind(
        address: SocketAddr,
        token_file: &Path,
        allowed_hosts: &[String],
    ) -> Result<Self, TcpError> {
        if !address.ip().is_loopback() {
            return Err(TcpError::NotLoopback(address));
        }
        let token = load_or_create(token_file)?;
        let token = BearerToken::new(&token, Principal::new("token:default"));
        let access = TcpAccess { token, allowed_hosts: allowed_hosts.to_vec() };
        let listener =
            TcpListener::bind(address).await.map_err(|source| TcpError::Io { address, source })?;
        Ok(Self { listener, access: Access::Bearer(Arc::new(access)) })
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
        let (stream, _) = self.listener.accept().await?;
        // Answers are small and whole; waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        Ok((stream, self.access.clone()))
    }
}
