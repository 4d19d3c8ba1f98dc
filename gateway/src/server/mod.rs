//! Listeners and their connections: bounded in number, in headers and in time.

mod descriptors;
mod patient;
mod tcp;
mod token;
mod unix;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::descriptors::max_connections;
use self::patient::Patient;
use crate::api::Front;
use crate::api::access::Access;

pub use descriptors::raise_descriptors;
pub use tcp::{Tcp, TcpError};
pub use token::TokenError;
pub use unix::{Unix, UnixError};

/// Connections at once on one listener, descriptors permitting. Each listener has its own number, so that nobody on
/// loopback can keep those out who may use the Unix socket.
const MAX_CONNECTIONS: usize = 1024;

/// How long a request's headers may take, and how long a connection may be idle between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take none of its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

const MAX_HEADERS: usize = 64;

/// Request line and headers together.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Where connections come from.
pub trait Listener: Send + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and how its callers prove who they are.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, Access)>> + Send;
}

/// Serves a listener until `stopping` is cancelled. Its connections are tasks of `tracker`: once
/// stopping, each ends after the request in hand.
pub async fn serve<L: Listener>(
    mut listener: L,
    front: Front,
    tracker: TaskTracker,
    stopping: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(max_connections()));
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = accept(&mut listener, &slots) => accepted,
        };
        let (stream, access, slot) = match accepted {
            Ok(accepted) => accepted,
            // Out of descriptors or memory: what is open goes on, and will give some back.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (front, stopping) = (front.clone(), stopping.clone());
        tracker.spawn(async move {
            connection(stream, &access, &front, &stopping).await;
            drop(slot);
        });
    }
}

/// Waits for a free slot first: without one, connections stay in the kernel's queue.
async fn accept<L: Listener>(
    listener: &mut L,
    slots: &Arc<Semaphore>,
) -> io::Result<(L::Stream, Access, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, access) = listener.accept().await?;
    Ok((stream, access, slot))
}

async fn connection<S>(stream: S, access: &Access, front: &Front, stopping: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: hyper::Request<Incoming>| async move {
        Ok::<_, Infallible>(front.handle(access, request).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, WRITE_PATIENCE)), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // What a client sends or leaves out is its own affair.
        tracing::debug!(%error, "a connection ended early");
    }
}
