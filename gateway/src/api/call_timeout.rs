//! `?timeout_seconds=`: how long a request lets the guest take.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::error::Problem;
use super::extract::Query;

/// The query of operations that send a guest command and take nothing else there.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CallTimeout {
    /// How long the guest may take, waiting for its turn included. If absent, as long as is
    /// configured for this kind of command; at most 3600 unless configured otherwise.
    #[param(exclusive_minimum = 0, example = 30)]
    timeout_seconds: Option<f64>,
}

impl CallTimeout {
    pub(super) fn get(self) -> Option<Duration> {
        // Checked when the request was taken apart. What rounds to nothing is some time still.
        let timeout = self.timeout_seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
        timeout.map(|timeout| timeout.max(Duration::from_nanos(1)))
    }

    /// The same from a number, for operations with more in their query.
    pub(super) fn checked(app: &App, timeout_seconds: Option<f64>) -> Result<Self, Problem> {
        let most = app.limits().call_timeout_max;
        let fits = |seconds: f64| {
            seconds > 0.0 && Duration::try_from_secs_f64(seconds).is_ok_and(|d| d <= most)
        };
        if timeout_seconds.is_some_and(|seconds| !fits(seconds)) {
            return Err(Problem::bad_request(format!(
                "Query parameter \"timeout_seconds\" must be more than 0 and at most {}.",
                most.as_secs_f64()
            )));
        }
        Ok(Self { timeout_seconds })
    }
}

impl FromRequestParts<App> for CallTimeout {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Query(Self { timeout_seconds }) = Query::from_request_parts(parts, app).await?;
        Self::checked(app, timeout_seconds)
    }
}
