//! `/vms/{id}/agent`, `/ping`, `/sync`: the guest agent itself.

use axum::Json;
use qga_proto::command::{AgentInfo, Command, Empty, GuestInfo, GuestPing, GuestSync, Right};

use super::caller::Caller;
use super::document::CALL_PROBLEMS;
use super::error::{Problem, guest};
use super::extract::{NoBody, NoQuery, Path};
use super::vms::LinkBody;

/// Ask the guest agent about itself
///
/// The answer of `guest-info`, as it came. While the VM is frozen, most commands are shown as
/// disabled; `capabilities` in `GET /vms/{id}` keeps the list from before.
#[utoipa::path(
    get,
    path = "/vms/{id}/agent",
    tag = "agent",
    params(("id" = String, Path, description = "The VM.", example = "web-1")),
    responses((
        status = 200,
        description = "Version and commands.",
        body = AgentInfo,
        example = json!({
            "version": "11.1.3",
            "supported_commands": [
                {"name": "guest-ping", "enabled": true, "success-response": true}
            ]
        })
    )),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-command" = json!("guest-info")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn show_agent(
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<AgentInfo>, Problem> {
    caller.vm(&id, Right::Observe)?.call(GuestInfo {}).await.map(Json)
}

/// Ping the guest agent
///
/// An answer proves that the agent lives: `guest-ping`.
#[utoipa::path(
    post,
    path = "/vms/{id}/ping",
    tag = "agent",
    params(("id" = String, Path, description = "The VM.", example = "web-1")),
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
    _: NoQuery,
    _: NoBody,
) -> Result<Json<Empty>, Problem> {
    caller.vm(&id, Right::Observe)?.call(GuestPing {}).await.map(Json)
}

/// Bring the link to the guest agent back into step
///
/// A sync with a random number, `guest-sync-delimited` where the agent has it. The gateway does
/// this by itself whenever it must; by hand it shows whether the link is in order.
#[utoipa::path(
    post,
    path = "/vms/{id}/sync",
    tag = "agent",
    params(("id" = String, Path, description = "The VM.", example = "web-1")),
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
    _: NoQuery,
    _: NoBody,
) -> Result<Json<LinkBody>, Problem> {
    let vm = caller.vm(&id, Right::Observe)?;
    caller.sends(GuestSync::INFO.name);
    let deadline = vm.handle.options(&GuestSync::INFO).timeout;
    match vm.handle.resync(deadline).await {
        Ok(()) => Ok(Json(vm.handle.link().into())),
        Err(error) => Err(guest::call_failed(&vm.handle, &GuestSync::INFO, false, error)),
    }
}
