//! One request on a connection of its own, and whether its answer is one that is documented.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::Run;

/// Longer than anything that a request here waits for, on a machine that has other things to do.
const BOUND: Duration = Duration::from_secs(60);

/// A request; `route` is its path as the document lists it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
}

impl Ask {
    pub(crate) fn new(method: &'static str, route: &'static str, path: String) -> Self {
        Self { method, route, path, headers: Vec::new(), body: None }
    }

    /// Of a route about one VM.
    pub(crate) fn vm(method: &'static str, route: &'static str, id: &str) -> Self {
        Self::new(method, route, route.replace("{id}", id))
    }

    /// Of a route about one lease.
    pub(crate) fn lease(method: &'static str, id: &str) -> Self {
        Self::new(method, "/freezes/{lease}", format!("/freezes/{id}"))
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut request =
            Request::builder().method(self.method).uri(&self.path).header("host", "localhost");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let mut body = String::new();
        if let Some(json) = &self.body {
            request = request.header("content-type", "application/json");
            body = json.to_string();
        }
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
    pub(crate) bytes: Bytes,
}

impl Answer {
    /// The stable code of a problem, empty if it is none.
    pub(crate) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }
}

impl Run {
    /// Sends it and looks at the answer; `None` if a gateway that was killed or stopped meanwhile
    /// owes it.
    pub(crate) async fn send(&self, ask: &Ask) -> Option<Answer> {
        let life = self.host.life();
        let begun = Instant::now();
        let answer = match tokio::time::timeout(BOUND, self.exchange(ask)).await {
            Ok(answer) => answer,
            Err(late) => Err(late.into()),
        };
        match answer {
            Ok(answer) => {
                self.book.answered(ask, &answer, begun.elapsed());
                if let Some(why) = self.contract.broken(ask, &answer) {
                    self.book.wrong(format!("{} {}: {why}", ask.method, ask.path));
                }
                Some(answer)
            }
            Err(error) => {
                if life.is_multiple_of(2) && self.host.life() == life {
                    let (method, path) = (ask.method, &ask.path);
                    self.book.wrong(format!("{method} {path}: no answer: {error:#}"));
                }
                self.book.unanswered();
                None
            }
        }
    }

    async fn exchange(&self, ask: &Ask) -> Result<Answer> {
        let (head, body) = self.open(ask).await?.into_parts();
        let bytes = body.collect().await.context("reading the answer")?.to_bytes();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            json: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            bytes,
        })
    }

    /// The answer's head, with its body yet to come.
    pub(crate) async fn open(&self, ask: &Ask) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(self.host.socket()).await.context("connecting")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the exchange, or with whoever drops that.
        tokio::spawn(connection);
        sender.send_request(ask.request()?).await.context("sending")
    }
}
