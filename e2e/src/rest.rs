//! A small HTTP client over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::wait::check_interrupted;

/// How long a request may take, which is longer than any command that it waits for.
const REPLY_BOUND: Duration = Duration::from_secs(60);
/// How often a wait for a reply looks whether this program is to end.
const LOOK_UP: Duration = Duration::from_millis(250);

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as JSON, `Null` if it is none.
    pub json: Value,
    /// The body as it came.
    pub body: Bytes,
}

impl Reply {
    /// The JSON body of an answer that must have `status`.
    ///
    /// # Errors
    /// It has another; the message holds the body.
    pub fn expect(self, status: u16) -> Result<Value> {
        if self.status != status {
            bail!(
                "status {} instead of {status}: {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            );
        }
        Ok(self.json)
    }

    /// The stable `code` of a problem, empty if it is none.
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client that makes one connection per request, so that a server may vanish in between.
#[derive(Clone, Debug)]
pub struct Rest {
    socket: PathBuf,
}

impl Rest {
    /// A client of the server at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// GET.
    ///
    /// # Errors
    /// No answer; a status of any kind is one.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.request(&Method::GET, path, None)
    }

    /// POST with a JSON body.
    ///
    /// # Errors
    /// As [`Rest::get`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.request(&Method::POST, path, Some(body))
    }

    /// PATCH with a JSON body.
    ///
    /// # Errors
    /// As [`Rest::get`].
    pub fn patch(&self, path: &str, body: &Value) -> Result<Reply> {
        self.request(&Method::PATCH, path, Some(body))
    }

    /// Any method, with a JSON body or none.
    ///
    /// # Errors
    /// As [`Rest::get`].
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply> {
        self.request(&Method::from_bytes(method.as_bytes())?, path, body)
    }

    /// DELETE without a body.
    ///
    /// # Errors
    /// As [`Rest::get`].
    pub fn delete(&self, path: &str) -> Result<Reply> {
        self.request(&Method::DELETE, path, None)
    }

    fn request(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Reply> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(bytes)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reply = async {
            tokio::select! {
                done = tokio::time::timeout(REPLY_BOUND, self.exchange(request)) => {
                    done.context("no answer in time")?
                }
                stopped = interrupted() => stopped,
            }
        };
        runtime.block_on(reply).with_context(|| format!("{method} {path}"))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .with_context(|| format!("connecting to {}", self.socket.display()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
            body,
        })
    }
}

/// Ends once this program is to end.
async fn interrupted() -> Result<Reply> {
    loop {
        check_interrupted()?;
        tokio::time::sleep(LOOK_UP).await;
    }
}
