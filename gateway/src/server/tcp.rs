//! TCP: only when configured, with TLS beyond loopback, and only for who proves who they are.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{Listener, Tls};
use crate::api::Failures;
use crate::api::access::{Access, TcpAccess};
use crate::rights::Authority;

/// Why TCP cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The system refuses.
    #[error("{address}: {source}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    access: Arc<TcpAccess>,
    tls: Option<Tls>,
}

impl Tcp {
    /// Listens on `address` for callers with a token that `authority` knows. `allowed_hosts` are
    /// taken in the Host header next to the loopback names.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub async fn bind(
        address: SocketAddr,
        authority: &Authority,
        allowed_hosts: &[String],
        tls: Option<Tls>,
    ) -> Result<Self, TcpError> {
        let access = Arc::new(TcpAccess {
            authority: authority.clone(),
            allowed_hosts: allowed_hosts.to_vec(),
            failures: Failures::default(),
        });
        let listener =
            TcpListener::bind(address).await.map_err(|source| TcpError::Io { address, source })?;
        Ok(Self { listener, access, tls })
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

/// A connection before anything was said.
#[derive(Debug)]
pub struct Opening {
    stream: TcpStream,
    peer: IpAddr,
    access: Arc<TcpAccess>,
    tls: Option<Tls>,
}

impl Listener for Tcp {
    type Opening = Opening;
    type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

    async fn accept(&mut self) -> io::Result<Opening> {
        let (stream, peer) = self.listener.accept().await?;
        // Answers are small and whole; waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        let (access, tls) = (self.access.clone(), self.tls.clone());
        Ok(Opening { stream, peer: peer.ip(), access, tls })
    }

    async fn open(opening: Opening) -> io::Result<(Self::Stream, Access)> {
        let Opening { stream, peer, access, tls } = opening;
        let Some(tls) = tls else {
            return Ok((Either::Left(stream), Access::Tcp(access, peer, None)));
        };
        let acceptor = tls.acceptor();
        let stream = acceptor.accept(stream).await?;
        let certified = tls.certified(&acceptor, stream.get_ref().1);
        Ok((Either::Right(Box::new(stream)), Access::Tcp(access, peer, certified)))
    }
}
