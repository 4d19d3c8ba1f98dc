//! Requests and what is answered.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

pub use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::connect::Gateway;
use super::failure::{Failure, Refusal};

/// The largest answer that is read as a whole.
const MAX_ANSWER: usize = 64 << 20;

/// How often what may be sent again is, where nobody answers, and the first pause before it.
const AGAIN: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);

/// What a request carries.
pub type Streamed = UnsyncBoxBody<Bytes, io::Error>;

/// A request that is made up.
pub type Request = hyper::http::request::Builder;

/// A body without anything.
pub fn empty() -> Streamed {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Streamed {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes bit by bit.
pub fn streamed(bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Streamed {
    StreamBody::new(bytes.map(|bytes| bytes.map(Frame::data))).boxed_unsync()
}

/// As it stands in a path or a query.
pub fn encoded(text: impl AsRef<[u8]>) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.as_ref().iter().fold(String::new(), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

impl Gateway {
    /// The beginning of a request to a path of the API, with all that proves who asks.
    pub fn request(&self, method: Method, path: &str) -> Request {
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.place.base()))
            .header(header::HOST, self.place.authority());
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends it; an answer that is a success, whose body is still to come.
    ///
    /// # Errors
    /// There is none.
    pub async fn open(
        &self,
        request: Request,
        body: Streamed,
    ) -> Result<Response<Incoming>, Failure> {
        let request = request.body(body).map_err(|error| self.broken(error))?;
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.broken(error))?.to_bytes();
        Err(Failure::Refused(Box::new(Refusal::new(status, &body))))
    }

    /// Sends it, and reads the whole answer as JSON; `null` where there is none.
    ///
    /// # Errors
    /// There is no answer, or it is no success.
    pub async fn ask(&self, request: Request, body: Streamed) -> Result<Value, Failure> {
        let answer = self.open(request, body).await?;
        let none = answer.status() == StatusCode::NO_CONTENT;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.broken(error))?.to_bytes();
        if none {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| self.broken("it is no JSON"))
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Gateway::ask`].
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(self.request(Method::GET, path), empty()).await
    }

    /// A request with that JSON in it.
    ///
    /// # Errors
    /// As [`Gateway::ask`].
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(json(self.request(method, path)), full(body.to_string())).await
    }

    /// POST of something that is to take place once, however often it has to be sent until somebody
    /// answers.
    ///
    /// # Errors
    /// As [`Gateway::ask`].
    pub async fn post_once(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let key = key();
        let post = || {
            let request = self.request(Method::POST, path).header("idempotency-key", &key);
            self.ask(json(request), full(body.to_string()))
        };
        again(post, false).await
    }

    /// A request that may be sent again, and is while nobody answers; also if there is nobody yet.
    ///
    /// # Errors
    /// As [`Gateway::ask`].
    pub async fn insist(&self, method: Method, path: &str) -> Result<Value, Failure> {
        again(|| self.ask(self.request(method.clone(), path), empty()), true).await
    }
}

fn json(request: Request) -> Request {
    request.header(header::CONTENT_TYPE, "application/json")
}

async fn again<F: Future<Output = Result<Value, Failure>>>(
    mut send: impl FnMut() -> F,
    patient: bool,
) -> Result<Value, Failure> {
    let mut pause = PAUSE;
    for n in 0..AGAIN {
        match send().await {
            // Where nobody was at the beginning, there is none.
            Err(failure @ Failure::Unreachable { .. }) if n == 0 && !patient => {
                return Err(failure);
            }
            Err(failure) if failure.is_silence() => {}
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    send().await
}

/// Random, so that it is nobody else's.
fn key() -> String {
    let mut bytes = [0_u8; 16];
    // Where there is no chance, the time must do: two within a nanosecond are not to be feared.
    if getrandom::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        bytes = now.as_nanos().to_le_bytes();
    }
    bytes.iter().fold("cli-".to_owned(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_path() {
        assert_eq!(encoded("web-1.a_b"), "web-1.a_b");
        assert_eq!(encoded("a/b?c é"), "a%2Fb%3Fc%20%C3%A9");
        assert_eq!(encoded(b"/\xff+"), "%2F%FF%2B");
    }
}
