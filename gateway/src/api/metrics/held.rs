//! A body that counts as under way until it was taken.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// How much is given to the connection at a time: what it has not sent, it does not ask for more of.
const CHUNK: usize = 64 << 10;

/// A whole text, in pieces, and what its reader holds meanwhile.
pub(super) struct Held {
    left: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    pub(super) fn new(text: String, permit: OwnedSemaphorePermit) -> Self {
        Self { left: text.into(), _permit: permit }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let at = self.left.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(at)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
