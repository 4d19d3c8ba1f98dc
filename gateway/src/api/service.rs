//! `/livez`, `/readyz`, `/version`: the gateway itself.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{Code, Problem};
use super::extract::NoQuery;

/// The gateway's condition.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Which gateway this is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    #[schema(example = "qga-gateway")]
    name: &'static str,
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// Tell whether the gateway lives
///
/// An answer is the proof. No VM is looked at: a dead guest does not make the gateway dead.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "gateway",
    responses((status = 200, description = "It lives.", body = Health)),
    security(())
)]
pub(super) async fn livez(_: NoQuery) -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Tell whether the gateway takes requests
///
/// Once it is stopping it finishes what it has and takes nothing new.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "gateway",
    responses((status = 200, description = "It takes requests.", body = Health)),
    extensions(("x-qga-problems" = json!(["shutting_down"]))),
    security(())
)]
pub(super) async fn readyz(State(app): State<App>, _: NoQuery) -> Result<Json<Health>, Problem> {
    if app.stopping.is_cancelled() {
        return Err(Problem::new(
            Code::ShuttingDown,
            "The gateway is stopping: it finishes the requests that it has and takes no new ones.",
        )
        .retry_after(5));
    }
    Ok(Json(Health { status: "ok" }))
}

/// Show the gateway's version
#[utoipa::path(
    get,
    path = "/version",
    tag = "gateway",
    responses((status = 200, description = "Name and version.", body = Version)),
    security(())
)]
pub(super) async fn version(_: NoQuery) -> Json<Version> {
    Json(Version { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") })
}
