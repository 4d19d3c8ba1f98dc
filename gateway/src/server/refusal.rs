//! Answers to what is no HTTP request. hyper notices before there is anything to hand on, and
//! writes a bare 4xx; on its way to the client that becomes a problem like any other.
//!
//! ```text
//!          a request is handed on            its body is with hyper
//!   idle -----------------------> answering -----------------------> ended
//!     ^                                                                |
//!     +------------------- hyper has written all that it had ----------+
//! ```
//!
//! What hyper writes in `idle` answers no request, so it is hyper's own. A connection that speaks
//! another protocol from now on (101) is `other` for ever: nothing on it is looked at.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::api::{Front, Refusal};

const IDLE: u8 = 0;
const ANSWERING: u8 = 1;
const ENDED: u8 = 2;
const OTHER: u8 = 3;

/// Whether a request is under way on a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange(Arc<AtomicU8>);

impl Exchange {
    /// A request is handed on.
    pub(super) fn begin(&self) -> Open {
        self.0.store(ANSWERING, Ordering::Relaxed);
        Open(self.clone())
    }

    /// Its connection speaks another protocol behind this answer.
    pub(super) fn hand_over(&self) {
        self.0.store(OTHER, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == IDLE
    }

    fn flushed(&self) {
        let _ = self.0.compare_exchange(ENDED, IDLE, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Open(Exchange);

impl Open {
    pub(super) fn until_sent(self, body: Body) -> Answer {
        Answer { body, _open: self }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.0.compare_exchange(ANSWERING, ENDED, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The body of an answer; hyper drops it once it has all of it.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    _open: Open,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream on which hyper's own answers are replaced.
#[derive(Debug)]
pub(super) struct Refusing<S> {
    stream: S,
    front: Front,
    exchange: Exchange,
    /// What is sent instead of hyper's own answer, which is the last on its connection.
    instead: Vec<u8>,
    sent: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Refusing<S> {
    pub(super) fn new(stream: S, front: Front, exchange: Exchange) -> Self {
        Self { stream, front, exchange, instead: Vec::new(), sent: 0 }
    }

    /// Writes why there was no request, unless hyper had its own answer or a request is under way.
    pub(super) async fn refuse(mut self, why: Refusal) -> io::Result<()> {
        if self.exchange.is_idle() && self.instead.is_empty() {
            self.stream.write_all(&answer(self.front.refuse(why))).await?;
            self.stream.shutdown().await?;
        }
        Ok(())
    }

    /// Takes hyper's own answer in. Its status line is all that counts.
    fn replace(&mut self, own: &[u8]) {
        if self.instead.is_empty() {
            let large = [b"HTTP/1.1 414", b"HTTP/1.1 431"].iter().any(|s| own.starts_with(*s));
            let why = if large { Refusal::TooLarge } else { Refusal::Malformed };
            self.instead = answer(self.front.refuse(why));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.instead.len() {
            let rest = &self.instead[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Refusing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.exchange.is_idle() {
            self.replace(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.exchange.is_idle() {
            self.replace(slices.first().map_or(&[], |first| first));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The answer as it goes over the wire.
fn answer(mut response: Response) -> Vec<u8> {
    let now = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&jiff::Timestamp::now())
        .ok()
        .and_then(|now| HeaderValue::try_from(now).ok());
    // A problem's body is there at once.
    let body = std::mem::take(response.body_mut()).collect().now_or_never();
    let body = body.and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.extend(now.map(|now| (header::DATE, now)));
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes
}
