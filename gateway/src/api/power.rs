//! `/vms/{id}/shutdown`.

use axum::http::StatusCode;
use qga_proto::command::{Command, GuestShutdown, Right, ShutdownMode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::Caller;
use super::document::CALL_PROBLEMS;
use super::error::Problem;
use super::extract::{Json, NoQuery, Path};
use crate::vm::CallError;

/// How to shut down.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ShutdownMode)]
pub(super) enum Mode {
    /// Power off.
    #[default]
    Powerdown,
    /// Halt and stay halted.
    Halt,
    /// Reboot.
    Reboot,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"mode": "powerdown"}))]
pub(super) struct ShutdownRequest {
    #[serde(default)]
    mode: Mode,
}

/// How the command ended, as far as can be seen from outside.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ShutdownOutcome {
    /// The agent took the command and reported no failure.
    Accepted,
    /// The command was sent, and nothing was heard afterwards. This too is how a shutdown that
    /// works can look, because agents do not answer it; the VM's link shows what became of it.
    Unknown,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"mode": "powerdown", "outcome": "accepted"}))]
pub(super) struct ShutdownAnswer {
    mode: Mode,
    outcome: ShutdownOutcome,
}

/// Shut the guest down
///
/// Powers off, halts or reboots by the guest's own means: `guest-shutdown`. A success is not
/// answered by agents, so 202 says that the command was sent and no failure came back; the link
/// in `GET /vms/{id}` shows the VM going down. Without a body the guest powers off.
#[utoipa::path(
    post,
    path = "/vms/{id}/shutdown",
    tag = "power",
    params(("id" = String, Path, description = "The VM.", example = "web-1")),
    request_body = ShutdownRequest,
    responses((status = 202, description = "Sent, and not refused.", body = ShutdownAnswer)),
    extensions(
        ("x-qga-right" = json!(Right::Power)),
        ("x-qga-command" = json!("guest-shutdown")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn shutdown_vm(
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
    Json(request): Json<ShutdownRequest>,
) -> Result<(StatusCode, axum::Json<ShutdownAnswer>), Problem> {
    let vm = caller.vm(&id, Right::Power)?;
    let mode = match request.mode {
        Mode::Powerdown => ShutdownMode::Powerdown,
        Mode::Halt => ShutdownMode::Halt,
        Mode::Reboot => ShutdownMode::Reboot,
    };
    let options = vm.handle.options(&GuestShutdown::INFO);
    let outcome = match vm.try_call(GuestShutdown { mode: Some(mode) }, options).await {
        Ok(_) => ShutdownOutcome::Accepted,
        Err(CallError::TimedOut { sent: true, .. } | CallError::Interrupted { .. }) => {
            ShutdownOutcome::Unknown
        }
        Err(error) => return Err(vm.failed::<GuestShutdown>(error)),
    };
    Ok((StatusCode::ACCEPTED, axum::Json(ShutdownAnswer { mode: request.mode, outcome })))
}
