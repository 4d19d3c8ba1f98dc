//! `/vms/{id}/commands/{name}`: any command that an agent offers, as it is.

use std::iter;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use qga_proto::command::{
    Command as _, CommandInfo, GuestExec, GuestExecStatus, Right, XExecList, any_command_info,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Shown, Vm};
use super::document::CALL_PROBLEMS;
use super::error::{Code, Outcome, Problem, guest, printable};
use super::extract::{Json, Path};
use super::file_handles::{self, Claim};
use super::strict::StrictObject;
use crate::rights::Invocation;
use crate::vm::{ProcessState, VmId, foreign};

/// What a command about a file's handle can run into besides.
const HANDLE_PROBLEMS: &[Code] =
    &[Code::FileHandleUnknown, Code::FileHandleConflict, Code::TooManyFileHandles];

/// Room for what agents take in one message.
pub(super) const MAX_COMMAND_BODY: usize = 68 << 20;

/// The name in the path; a struct, so that what is wrong is told by its name.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct CommandPath {
    /// The VM.
    #[param(example = "web-1")]
    id: String,
    /// The command.
    #[param(example = "guest-file-open")]
    name: String,
}

/// A command's arguments, as the agent takes them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"arguments": {"path": "/etc/hostname", "mode": "r"}}))]
pub(super) struct CommandRequest {
    /// None if absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>, nullable = false)]
    arguments: StrictObject,
}

/// What the agent answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CommandAnswer, example = json!({"return": 1000}))]
pub(super) struct CommandBody {
    /// The guest's own words: what it says here was not looked at.
    #[serde(rename = "return")]
    value: serde_json::Value,
}

/// Send any command
///
/// Whatever the guest's agent offers, with the answer as it came: for commands and members that this
/// API does not have. Commands that the agent's list does not name are not sent. Freezing, thawing,
/// syncing and `x-guest-exec-…` have owners in the gateway and are refused here; the problem names
/// their path. So are names of more than 64 characters or with others than `a-z 0-9 _ -`. What
/// `guest-exec` starts is one of `/vms/{id}/processes`, where its result is kept; what opens a file gives a
/// handle as `/vms/{id}/file-handles` does, and handles of the gateway's own transfers are refused. A command that is not
/// answered on success answers `{"return": {}}`.
#[utoipa::path(
    post,
    path = "/vms/{id}/commands/{name}",
    tag = "guest",
    params(CommandPath, CallTimeout),
    request_body = CommandRequest,
    responses((status = 200, description = "The agent's answer.", body = CommandBody)),
    extensions(
        ("x-qga-right" = json!("raw, and the command's own unless that is observe")),
        ("x-qga-command" = json!("the one named")),
        ("x-qga-problems" = json!([CALL_PROBLEMS, HANDLE_PROBLEMS].concat())),
    )
)]
pub(super) async fn send_command(
    caller: Caller,
    Path(CommandPath { id, name }): Path<CommandPath>,
    timeout: CallTimeout,
    _: Shown,
    Json(request): Json<CommandRequest, MAX_COMMAND_BODY>,
) -> Result<Response, Problem> {
    let vm = caller.vm(&id, Right::Raw)?.within(timeout);
    refuse_owned(&id, &name)?;
    let info = facts(&vm, &name).await?;
    let arguments = request.arguments.text();
    permit(&caller, vm.handle.id(), info, &arguments)?;
    vm.admit(info).await?;
    let claim = Claim::of(&caller, &vm, info, &arguments)?;
    caller.sends(info.name);
    let timed = vm.time(info);
    if let Some(value) = program(&caller, &vm, info, &arguments).await? {
        return Ok(axum::Json(CommandBody { value }).into_response());
    }
    let reply = claim.call(&caller, &vm, info, arguments).await;
    drop(timed);
    let reply = reply.map_err(|error| vm.failed(info, error))?;
    let value = reply.as_ref().map_or(&b"{}"[..], |text| text.json());
    let body = [b"{\"return\":", value, b"}"].concat();
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], body).into_response())
}

/// Whoever may send anything still needs what the command by itself needs.
pub(super) fn permit(
    caller: &Caller,
    vm: &VmId,
    info: &CommandInfo,
    arguments: &str,
) -> Result<(), Problem> {
    match (info.right, info.name) {
        (Right::Observe, _) => Ok(()),
        // Only the agent knows it.
        (Right::Raw, name) => caller.is_unlimited(vm, name),
        (Right::Exec, name) if name == GuestExec::INFO.name => {
            // What cannot be understood is for the agent to refuse, and nothing that rules allow.
            let Ok(exec) = serde_json::from_str::<GuestExec>(arguments) else {
                return caller.authorise(vm, Right::Exec);
            };
            let path = iter::once(&exec.path);
            let argv: Vec<_> = path.chain(exec.arg.iter().flatten()).cloned().collect();
            let wanted = Invocation {
                argv: &argv,
                env: exec.env.as_deref(),
                cwd: None,
                user: None,
                stdin: exec.input_data.is_some(),
                pty: false,
            };
            caller.runs(vm, &wanted)
        }
        (Right::Exec, name) if name == GuestExecStatus::INFO.name => {
            let asked = serde_json::from_str::<GuestExecStatus>(arguments).ok();
            match asked.is_some_and(|status| caller.uses_number(vm, status.pid)) {
                true => Ok(()),
                false => caller.authorise(vm, Right::Exec),
            }
        }
        _ => caller.authorise(vm, file_handles::raw_right(info, arguments)),
    }
}

/// Programs that are started and asked for by their bare commands: they have a place among the
/// VM's processes, and their results, which are fetched from the guest once, are answered from there.
async fn program(
    caller: &Caller,
    vm: &Vm,
    info: &CommandInfo,
    arguments: &str,
) -> Result<Option<serde_json::Value>, Problem> {
    if info.name == GuestExec::INFO.name {
        let owner = caller.principal().clone();
        let started = vm.handle.start_raw(arguments.to_owned(), owner, vm.options(info)).await;
        let process = started.map_err(|error| super::processes::failed(vm, error))?;
        return Ok(Some(serde_json::json!({"pid": process.pid})));
    }
    if info.name != GuestExecStatus::INFO.name {
        return Ok(None);
    }
    let asked = serde_json::from_str::<GuestExecStatus>(arguments).ok();
    let Some(process) = asked.and_then(|status| vm.handle.process(status.pid)) else {
        return Ok(None);
    };
    if matches!(process.view().state, ProcessState::Lost { .. }) {
        return Ok(None);
    }
    // Strings, numbers and booleans: their serialization cannot fail.
    Ok(Some(serde_json::to_value(process.as_status()).unwrap_or_default()))
}

/// What others in the gateway own, and with which it could be got round their bounds.
fn refuse_owned(id: &str, name: &str) -> Result<(), Problem> {
    let instead = match name {
        "guest-sync" | "guest-sync-delimited" => format!("POST /vms/{id}/sync"),
        "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" => {
            format!("POST /vms/{id}/fsfreeze")
        }
        "guest-fsfreeze-thaw" => format!("DELETE /vms/{id}/fsfreeze"),
        name if name.starts_with("x-guest-fsfreeze-") => {
            format!("GET, POST, PATCH or DELETE /vms/{id}/fsfreeze")
        }
        name if name.starts_with("x-guest-exec-") && name != XExecList::INFO.name => {
            format!("/vms/{id}/processes")
        }
        _ => return Ok(()),
    };
    Err(Problem::new(
        Code::Forbidden,
        format!(
            "{name} is not sent as it is, because the gateway keeps account of it: use {instead}. \
             Nothing was sent."
        ),
    )
    .outcome(Outcome::NotSent, false))
}

/// The facts of a command: from the tables, or for one that only the agent knows, from its list.
async fn facts(vm: &Vm, name: &str) -> Result<&'static CommandInfo, Problem> {
    if let Some(info) = any_command_info(name) {
        return Ok(info);
    }
    let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    let sane = (1..=64).contains(&name.len()) && name.bytes().all(named);
    let listed = if sane { vm.listed(name).await? } else { None };
    let info =
        listed.and_then(|command| foreign(&command.name, command.success_response.unwrap_or(true)));
    info.ok_or_else(|| {
        let unsupported = guest::unsupported(&vm.handle, &printable(name));
        unsupported.outcome(Outcome::NotSent, false).vm(vm.handle.id())
    })
}
