//! Connections to a gateway.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::header;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::failure::{Failure, Refusal};
use super::{Place, Trust, TrustError};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(15);

/// A gateway that can be asked; each question has a connection of its own.
#[derive(Clone)]
pub struct Gateway {
    pub(super) place: Place,
    pub(super) token: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

/// Bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) type Socket = WebSocketStream<Pin<Box<dyn Stream>>>;

impl Gateway {
    /// The gateway at that place, which is not called yet.
    ///
    /// # Errors
    /// A file of `trust` cannot be used.
    pub fn new(place: Place, token: Option<String>, trust: &Trust) -> Result<Self, TrustError> {
        let tls = match place {
            Place::Tcp { tls: true, .. } => Some(trust.config()?),
            _ => None,
        };
        Ok(Self { place, token, tls })
    }

    pub(super) async fn connect(&self) -> Result<Pin<Box<dyn Stream>>, Failure> {
        let connected = timeout(CONNECT, self.dial()).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        connected.map_err(|error| Failure::Unreachable {
            place: self.place.to_string(),
            why: match (&self.place, error.kind()) {
                (Place::Unix(_), io::ErrorKind::PermissionDenied) => format!(
                    "{error}; its socket is for members of the group qga (newgrp, or a new login, \
                     after usermod -aG), or name another way with --url"
                ),
                (Place::Unix(_), _) => {
                    format!(
                        "{error}; is it running (systemctl status qga-gateway)? --url names another"
                    )
                }
                _ => error.to_string(),
            },
        })
    }

    async fn dial(&self) -> io::Result<Pin<Box<dyn Stream>>> {
        let (host, port) = match &self.place {
            Place::Unix(path) => return Ok(Box::pin(UnixStream::connect(path).await?)),
            Place::Tcp { host, port, .. } => (host.as_str(), *port),
        };
        let stream = if host.eq_ignore_ascii_case("localhost") {
            // By its definition; a static program may have no resolver that would say so.
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => stream,
                Err(first) => TcpStream::connect(("::1", port)).await.map_err(|_| first)?,
            }
        } else {
            TcpStream::connect((host, port)).await?
        };
        let _ = stream.set_nodelay(true);
        // What is waited for may take an hour. A gateway that is gone without a word shows by this.
        let _ = sockopt::set_tcp_keepidle(&stream, Duration::from_secs(30));
        let _ = sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(10));
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let Some(tls) = &self.tls else { return Ok(Box::pin(stream)) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::pin(TlsConnector::from(tls.clone()).connect(name, stream).await?))
    }

    pub(super) fn broken(&self, why: impl fmt::Display) -> Failure {
        Failure::Broken { place: self.place.to_string(), why: why.to_string() }
    }

    /// Opens a WebSocket.
    pub(crate) async fn websocket(&self, path: &str) -> Result<Socket, Failure> {
        let url = format!("ws://{}{}{path}", self.place.authority(), self.place.base());
        let mut request = url.into_client_request().map_err(|error| self.broken(error))?;
        if let Some(token) = &self.token {
            let value = http::HeaderValue::try_from(format!("Bearer {token}"));
            let value = value.map_err(|error| self.broken(error))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        match client_async(request, self.connect().await?).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err(Failure::Refused(Box::new(Refusal::new(answer.status(), body))))
            }
            Err(error) => Err(self.broken(error)),
        }
    }
}

/// Not the token.
impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gateway").field(&self.place).finish()
    }
}
