//! How long a renewal or a thaw is waited for. What the gateway has begun goes on without anybody who
//! waits.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::call_timeout::CallTimeout;
use super::error::Problem;
use super::extract::Query;
use crate::vm::{CallError, FreezeError, Lease};

/// What `timeout_seconds` means there.
pub(super) const PATIENCE: &str = "\
How long to wait for the guest, at most 3600 unless configured otherwise. Past it the answer is \
`agent_timeout`, and what was begun goes on: a thaw is tried until the guest is thawed. If absent, as \
long as one attempt may take.";

/// The query of what is done to a lease.
#[derive(Debug)]
pub(super) struct ForceQuery {
    /// Also if it is somebody else's.
    pub(super) force: bool,
    pub(super) patience: Patience,
}

impl FromRequestParts<App> for ForceQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Words {
            #[serde(default)]
            force: bool,
            timeout_seconds: Option<f64>,
        }
        let Query(Words { force, timeout_seconds }) = Query::from_request_parts(parts, app).await?;
        let patience = Patience(CallTimeout::checked(app, timeout_seconds)?.get());
        Ok(Self { force, patience })
    }
}

/// How long the caller waits; without a time, for one attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Option<Duration>);

impl Patience {
    /// Asks, and asks again when a guest was silent for longer than one attempt may take.
    pub(super) async fn ask<F>(self, mut ask: impl FnMut() -> F) -> Result<Lease, FreezeError>
    where
        F: Future<Output = Result<Lease, FreezeError>>,
    {
        let Some(patience) = self.0 else { return ask().await };
        let until = Instant::now() + patience;
        loop {
            match timeout_at(until, ask()).await {
                Ok(Err(error)) if is_silence(&error) => {}
                Ok(result) => return result,
                Err(_) => return Err(over(patience)),
            }
        }
    }

    /// Waits for what is asked once.
    pub(super) async fn once(
        self,
        asked: impl Future<Output = Result<Lease, FreezeError>>,
    ) -> Result<Lease, FreezeError> {
        let Some(patience) = self.0 else { return asked.await };
        let done = timeout_at(Instant::now() + patience, asked).await;
        done.unwrap_or_else(|_| Err(over(patience)))
    }
}

fn over(after: Duration) -> FreezeError {
    FreezeError::Call(CallError::TimedOut { sent: true, after })
}

fn is_silence(error: &FreezeError) -> bool {
    match error {
        FreezeError::Call(CallError::TimedOut { .. }) => true,
        FreezeError::Group { source, .. } => is_silence(source),
        _ => false,
    }
}
