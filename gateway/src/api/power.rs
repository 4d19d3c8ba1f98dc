//! `/vms/{id}/shutdown`, `/suspend`.

use axum::http::StatusCode;
use qga_proto::command::{
    Command, GuestShutdown, GuestSuspendDisk, GuestSuspendHybrid, GuestSuspendRam, Right,
    ShutdownMode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Vm};
use super::document::CALL_PROBLEMS;
use super::error::Problem;
use super::extract::{Json, Path};
use crate::vm::{CallError, PowerOrder};

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

/// How to suspend.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SuspendMode {
    /// Hibernate: memory goes to the disk, and the machine off.
    Disk,
    /// Sleep: memory stays powered.
    Ram,
    /// Sleep, with an image on the disk to fall back on.
    Hybrid,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"mode": "ram"}))]
pub(super) struct SuspendRequest {
    mode: SuspendMode,
}

/// How the command ended, as far as can be seen from outside.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum PowerOutcome {
    /// The agent took the command and reported no failure.
    Accepted,
    /// The command was sent, and nothing was heard afterwards. This too is how one that works can
    /// look, because agents do not answer it.
    Unknown,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"mode": "powerdown", "outcome": "accepted"}))]
pub(super) struct ShutdownAnswer {
    mode: Mode,
    outcome: PowerOutcome,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"mode": "ram", "outcome": "accepted"}))]
pub(super) struct SuspendAnswer {
    mode: SuspendMode,
    outcome: PowerOutcome,
}

/// Shut the guest down
///
/// Powers off, halts or reboots by the guest's own means: `guest-shutdown`. A success is not
/// answered by agents, so 202 says that the command was sent and no failure came back. What became
/// of it is an event, `power.done` or `power.failed`; the link in `GET /vms/{id}` shows the VM going
/// down too. Without a body the guest powers off.
#[utoipa::path(
    post,
    path = "/vms/{id}/shutdown",
    tag = "power",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
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
    timeout: CallTimeout,
    Json(request): Json<ShutdownRequest>,
) -> Result<(StatusCode, axum::Json<ShutdownAnswer>), Problem> {
    let vm = caller.vm(&id, Right::Power)?.within(timeout);
    let (mode, name) = match request.mode {
        Mode::Powerdown => (ShutdownMode::Powerdown, "powerdown"),
        Mode::Halt => (ShutdownMode::Halt, "halt"),
        Mode::Reboot => (ShutdownMode::Reboot, "reboot"),
    };
    let order = PowerOrder { operation: "shutdown", mode: name };
    let outcome = give(&vm, GuestShutdown { mode: Some(mode) }, order).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(ShutdownAnswer { mode: request.mode, outcome })))
}

/// Suspend the guest
///
/// To disk, to memory or both, by the guest's own means: `guest-suspend-disk`, `-ram`, `-hybrid`. As
/// with a shutdown, success is not answered: 202 says that no failure came back, and what became of
/// it is an event, `power.done` or `power.failed`. Waking the guest is the hypervisor's affair.
#[utoipa::path(
    post,
    path = "/vms/{id}/suspend",
    tag = "power",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    request_body = SuspendRequest,
    responses((status = 202, description = "Sent, and not refused.", body = SuspendAnswer)),
    extensions(
        ("x-qga-right" = json!(Right::Power)),
        ("x-qga-command" = json!("guest-suspend-disk, -ram or -hybrid")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn suspend_vm(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    Json(request): Json<SuspendRequest>,
) -> Result<(StatusCode, axum::Json<SuspendAnswer>), Problem> {
    let vm = caller.vm(&id, Right::Power)?.within(timeout);
    let order = |mode| PowerOrder { operation: "suspend", mode };
    let outcome = match request.mode {
        SuspendMode::Disk => give(&vm, GuestSuspendDisk {}, order("disk")).await?,
        SuspendMode::Ram => give(&vm, GuestSuspendRam {}, order("ram")).await?,
        SuspendMode::Hybrid => give(&vm, GuestSuspendHybrid {}, order("hybrid")).await?,
    };
    Ok((StatusCode::ACCEPTED, axum::Json(SuspendAnswer { mode: request.mode, outcome })))
}

async fn give<C>(vm: &Vm, arguments: C, order: PowerOrder) -> Result<PowerOutcome, Problem>
where
    C: Command + Send + 'static,
    C::Return: Send,
{
    vm.admit(&C::INFO).await?;
    vm.sends(C::INFO.name);
    match vm.handle.power(arguments, order, vm.options(&C::INFO)).await {
        Ok(()) => Ok(PowerOutcome::Accepted),
        Err(CallError::TimedOut { sent: true, .. } | CallError::Interrupted { .. }) => {
            Ok(PowerOutcome::Unknown)
        }
        Err(error) => Err(vm.failed(&C::INFO, error)),
    }
}
