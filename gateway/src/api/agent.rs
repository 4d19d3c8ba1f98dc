//! `/vms/{id}/ping`, `/sync`: whether the guest agent lives.

use axum::Json;
use qga_proto::command::{Command, Empty, GuestPing, GuestSync, Right};

use super::call_timeout::CallTimeout;
use super::caller::Caller;
use super::document::CALL_PROBLEMS;
use super::error::{Problem, guest};
use super::extract::{NoBody, Path};
use super::vms::LinkBody;

/// Ping the guest agent
///
/// An answer proves that the agent lives: `guest-ping`.
#[utoipa::path(
    post,
    path = "/vms/{id}/ping",
    tag = "agent",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    responses((status = 200, description = "The agent answered.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-command" = json!("guest-ping")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn ping_agent(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    _: NoBody,
) -> Result<Json<Empty>, Problem> {
    caller.vm(&id, Right::Observe)?.within(timeout).call(GuestPing {}).await.map(Json)
}

/// Bring the link to the guest agent back into step
///
/// A sync with a random number, `guest-sync-delimited` where the agent has it. The gateway does
/// this by itself whenever it must; by hand it shows whether the link is in order.
#[utoipa::path(
    post,
    path = "/vms/{id}/sync",
    tag = "agent",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    responses((status = 200, description = "In step: the link afterwards.", body = LinkBody)),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-command" = json!("guest-sync-delimited")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn sync_agent(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    _: NoBody,
) -> Result<Json<LinkBody>, Problem> {
    let vm = caller.vm(&id, Right::Observe)?.within(timeout);
    caller.sends(GuestSync::INFO.name);
    let deadline = vm.options(&GuestSync::INFO).timeout;
    match vm.handle.resync(deadline).await {
        Ok(()) => Ok(Json(vm.handle.link().into())),
        Err(error) => Err(guest::call_failed(&vm.handle, &GuestSync::INFO, false, error)),
    }
}
