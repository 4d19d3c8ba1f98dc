//! Listeners and their connections: bounded in number, in headers and in time.

mod descriptors;
mod inherited;
mod newcomers;
mod patient;
mod refusal;
mod tcp;
mod tls;
mod token;
mod unix;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::descriptors::max_connections;
use self::newcomers::{Newcomer, Newcomers};
use self::patient::Patient;
use self::refusal::{Exchange, Refusing};
use crate::api::access::{Access, is_public};
use crate::api::{Front, MAX_HEAD_BYTES, MAX_HEADERS, Refusal};

pub use descriptors::raise_descriptors;
pub use inherited::Inherited;
pub use tcp::{Opening, Tcp, TcpError};
pub use tls::{Tls, TlsError};
pub(crate) use tls::{certificates, private_key};
pub use token::{TokenError, load_token};
pub use unix::{Unix, UnixError};

/// Connections at once on one listener, descriptors permitting. Each listener has its own number, so that nobody on
/// loopback can keep those out who may use the Unix socket.
const MAX_CONNECTIONS: usize = 1024;

/// How long a request's headers may take, and how long a connection may be idle between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long TLS may take to agree.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read why it is refused.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take none of its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// Where connections come from.
pub trait Listener: Send + 'static {
    /// A connection before anything was said on it.
    type Opening: Send + 'static;
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Opening>> + Send;

    /// What must be agreed on first, at the client's pace; and how its callers prove who they are.
    fn open(
        opening: Self::Opening,
    ) -> impl Future<Output = io::Result<(Self::Stream, Access)>> + Send;
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
    let newcomers = Newcomers::default();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = accept(&mut listener, &slots, &newcomers) => accepted,
        };
        let (opening, slot) = match accepted {
            Ok(accepted) => accepted,
            // Out of descriptors or memory: what is open goes on, and will give some back.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (front, stopping) = (front.clone(), stopping.clone());
        let newcomer = newcomers.enter();
        tracker.spawn(async move {
            let served = async {
                match timeout(HANDSHAKE_TIMEOUT, L::open(opening)).await {
                    Ok(Ok((stream, access))) => {
                        connection(stream, &access, &front, &stopping, &newcomer).await;
                    }
                    // What a client does not agree to is its own affair.
                    Ok(Err(error)) => tracing::debug!(%error, "no connection came about"),
                    Err(_) => tracing::debug!("no connection came about in time"),
                }
            };
            tokio::select! {
                () = served => {}
                () = newcomer.gives_way() => {
                    tracing::debug!("a silent connection gave way to a new one");
                }
            }
            drop(slot);
        });
    }
}

/// The next connection, once there is a slot for it. When all are taken, one that has proved
/// nothing gives its own up; if there is none, the next waits, and all behind it in the kernel's
/// queue.
async fn accept<L: Listener>(
    listener: &mut L,
    slots: &Arc<Semaphore>,
    newcomers: &Newcomers,
) -> io::Result<(L::Opening, OwnedSemaphorePermit)> {
    let opening = listener.accept().await?;
    if slots.available_permits() == 0 {
        newcomers.make_room();
    }
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((opening, slot))
}

async fn connection<S>(
    stream: S,
    access: &Access,
    front: &Front,
    stopping: &CancellationToken,
    newcomer: &Newcomer,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = Exchange::default();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let open = exchange.begin();
        let exchange = &exchange;
        let public = is_public(request.uri().path());
        newcomer.asks();
        async move {
            let response = front.handle(access, request).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                exchange.hand_over();
            }
            newcomer.answered(response.status(), public);
            Ok::<_, Infallible>(response.map(|body| open.until_sent(body)))
        }
    });
    let stream = Patient::new(stream, WRITE_PATIENCE);
    let stream = Refusing::new(stream, front.clone(), exchange.clone());
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let over = async {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = access.withdrawn() => {}
        }
    };
    let result = tokio::select! {
        result = &mut connection => result,
        () = over => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = result {
        // What a client sends or leaves out is its own affair.
        tracing::debug!(%error, "a connection ended early");
        // What has become something else has ended well.
        let Some(http1::Parts { io, read_buf, .. }) = connection.into_parts() else { return };
        // A connection that was merely idle is closed without a word.
        let why = match &error {
            error if error.is_timeout() && !read_buf.is_empty() => Refusal::TooSlow,
            error if error.is_parse() => Refusal::Malformed,
            _ => return,
        };
        let _ = timeout(REFUSAL_TIMEOUT, io.into_inner().refuse(why)).await;
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::metrics::RequestFigures;
    use crate::rights::{Authority, Identity, Rules};

    fn peer() -> Access {
        Access::Peer(Identity::unix(1, 1), Authority::new(Rules::default()))
    }

    /// What a client gets that sends this and waits.
    async fn told(sent: &[u8]) -> String {
        let (mut client, stream) = tokio::io::duplex(1 << 16);
        let (front, access) =
            (Front::new(Router::new(), Arc::new(RequestFigures::new([]))), peer());
        let stopping = CancellationToken::new();
        let mut answer = String::new();
        let talk = async {
            client.write_all(sent).await.expect("takes it");
            client.read_to_string(&mut answer).await.expect("ends");
        };
        let newcomer = Newcomers::default().enter();
        tokio::join!(connection(stream, &access, &front, &stopping, &newcomer), talk);
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn headers_that_stop_are_timed_out_with_a_problem_and_idleness_without() {
        let answer = told(b"GET / HTTP/1.1\r\nhost: a\r\nx-hal").await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(answer.contains("x-request-id: ") && answer.contains("request_timeout"));
        assert_eq!(told(b"").await, "");
        let served = told(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(served.matches("HTTP/1.1 ").count(), 1, "{served}");
    }
}
