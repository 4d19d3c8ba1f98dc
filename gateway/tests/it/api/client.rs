//! A small HTTP client: one connection per request, and raw bytes where a test wants them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Where to.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A request that is being put together.
#[derive(Debug)]
pub(crate) struct Ask {
    target: Target,
    request: Request<Full<Bytes>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn new(target: Target, method: &str, path: &str) -> Self {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("host", "localhost")
            .body(Full::default())
            .unwrap();
        Self { target, request }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.text(body.to_string()).header("content-type", "application/json")
    }

    pub(crate) fn text(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = Full::new(body.into());
        self
    }

    /// Sends, and gives the head of the answer with its body yet to come.
    pub(crate) async fn open(self) -> Response<Incoming> {
        match &self.target {
            Target::Unix(path) => begin(connect(path).await, self.request).await,
            Target::Tcp(at) => begin(TcpStream::connect(at).await.unwrap(), self.request).await,
        }
    }

    pub(crate) async fn send(self) -> Answer {
        match &self.target {
            Target::Unix(path) => exchange(connect(path).await, self.request).await,
            Target::Tcp(at) => exchange(TcpStream::connect(at).await.unwrap(), self.request).await,
        }
    }
}

async fn connect(path: &Path) -> UnixStream {
    UnixStream::connect(path).await.unwrap()
}

async fn begin<S>(stream: S, request: Request<Full<Bytes>>) -> Response<Incoming>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (parts, body) = begin(stream, request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Sends bytes as they are, and gives what comes back until the server closes.
pub(crate) async fn raw(target: &Target, request: &[u8]) -> String {
    match target {
        Target::Unix(path) => speak(connect(path).await, request).await,
        Target::Tcp(address) => speak(TcpStream::connect(address).await.unwrap(), request).await,
    }
}

/// A server may refuse early and close while there is still something to be written.
async fn speak<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &[u8]) -> String {
    let mut answer = Vec::new();
    let _ = stream.write_all(request).await;
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), "application/json");
        self.check_headers();
        self.value()
    }

    /// The body of a problem, whose shape is checked whole.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        self.check_headers();
        let problem = self.value();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("urn:qga:problem:{code}"));
        assert!(problem["title"].as_str().is_some_and(|t| !t.is_empty()), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|t| t.len() > 20), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|t| t.ends_with(['.', ')'])), "{problem}");
        assert_eq!(status == 503 || status == 429, self.headers.contains_key("retry-after"));
        assert_eq!(status == 401, self.headers.contains_key("www-authenticate"));
        assert_eq!(status == 405, self.headers.contains_key("allow"));
        problem
    }

    #[track_caller]
    pub(crate) fn check_headers(&self) {
        assert!(!self.header("x-request-id").is_empty());
        assert_eq!(self.header("x-content-type-options"), "nosniff");
        assert!(!self.header("cache-control").is_empty());
    }
}
