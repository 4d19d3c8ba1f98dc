//! The way to the gateway: its Unix socket, or TCP with a token.

use std::fmt;
use std::path::Path;
use std::pin::Pin;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, http};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Place;

/// The largest answer that is read.
const MAX_ANSWER: usize = 32 << 20;

/// A gateway that can be asked.
pub struct Gateway {
    place: Place,
    /// What stands in Host.
    host: String,
    token: Option<String>,
}

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) type Socket = WebSocketStream<Pin<Box<dyn Stream>>>;

impl Gateway {
    /// The gateway at that place.
    ///
    /// # Errors
    /// The URL is none, or the token's file cannot be read.
    pub fn at(place: Place) -> anyhow::Result<Self> {
        let (host, token) = match &place {
            Place::Socket(_) => ("localhost".into(), None),
            Place::Url(url, file) => {
                let rest = url.strip_prefix("http://");
                let host = rest
                    .map(|rest| rest.trim_end_matches('/'))
                    .filter(|host| !host.is_empty() && !host.contains('/') && host.contains(':'));
                let host = host.with_context(|| {
                    format!("--url {url}: http://HOST:PORT is needed, as in http://127.0.0.1:8642")
                })?;
                (host.to_owned(), Some(token(file)?))
            }
        };
        Ok(Self { place, host, token })
    }

    async fn connect(&self) -> anyhow::Result<Pin<Box<dyn Stream>>> {
        Ok(match &self.place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                Box::pin(stream.with_context(|| {
                    format!(
                        "{}: no gateway answers there; is it running, and may you use its socket? \
                         --socket names another",
                        path.display()
                    )
                })?)
            }
            Place::Url(url, _) => {
                let stream = TcpStream::connect(&self.host).await;
                let stream = stream.with_context(|| format!("{url}: no gateway answers there"))?;
                let _ = stream.set_nodelay(true);
                Box::pin(stream)
            }
        })
    }

    /// A POST with that body; the body of the answer.
    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        let mut request = Request::post(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        let body = body.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).context("the gateway's answer is no JSON");
        }
        bail!("{}", problem(status, &body))
    }

    /// Opens a WebSocket.
    pub(super) async fn websocket(&self, path: &str) -> anyhow::Result<Socket> {
        let mut request = format!("ws://{}{path}", self.host).into_client_request()?;
        if let Some(token) = &self.token {
            let value = http::HeaderValue::try_from(format!("Bearer {token}"))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        match client_async(request, self.connect().await?).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                bail!("{}", problem(answer.status(), body))
            }
            Err(error) => Err(error).context("the gateway opens no WebSocket"),
        }
    }
}

/// What the gateway says is wrong.
fn problem(status: http::StatusCode, body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    match problem["detail"].as_str() {
        Some(detail) => detail.to_owned(),
        None => format!("the gateway refuses: {status}"),
    }
}

fn token(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(text.trim().to_owned())
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gateway").field(&self.place).finish()
    }
}
