//! `…/stdin`: a request's body, streamed into a process.

use std::time::Duration;

use axum::Json as Answer;
use axum::extract::FromRequest;
use axum::extract::Request;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use qga_proto::command::Right;
use serde::Deserialize;

use super::body::InputBody;
use super::{PROCESS_PROBLEMS, ProcessPath};
use crate::api::App;
use crate::api::caller::{Caller, Vm};
use crate::api::error::{Code, Outcome, Problem, guest};
use crate::api::extract::{Path, Query};
use crate::vm::{InputError, Process};

/// How long a body may bring nothing before its sender counts as gone.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the body stands in the input.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct InputQuery {
    /// Where the body's first byte stands, from the very first byte of input. What the guest has
    /// taken already is left out, so that a request that broke off can be sent again. If absent,
    /// behind all that was taken.
    offset: Option<u64>,
    /// Whether the input ends behind the body. If absent it does, save on a terminal, which ends by
    /// the character that its reader takes for the end (Ctrl-D).
    close: Option<bool>,
}

/// A body that is taken as it comes.
pub(in crate::api) struct Incoming(axum::body::Body);

impl FromRequest<App> for Incoming {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        Ok(Self(request.into_body()))
    }
}

/// Write to a process's standard input
///
/// The body goes to the program as fast as the program reads. One request writes at a time: a new
/// one takes the input over, and the one before ends with `process_conflict`. A request that broke
/// off goes on with `offset`: `taken` of `GET …/{pid}` says how far it came. A freeze is waited out.
/// Only of a process that was started with `stdin_open` or `pty`.
#[utoipa::path(
    put,
    path = "/vms/{id}/processes/{pid}/stdin",
    tag = "processes",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("pid" = i64, Path, description = "Its number in the guest.", example = 4711),
        InputQuery,
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "The bytes, of any length."),
    responses((status = 200, description = "All of it was taken.", body = InputBody)),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-write")),
        ("x-qga-problems" = json!(PROCESS_PROBLEMS)),
    )
)]
pub(in crate::api) async fn write_stdin(
    caller: Caller,
    Path(path): Path<ProcessPath>,
    Query(query): Query<InputQuery>,
    Incoming(body): Incoming,
) -> Result<Answer<InputBody>, Problem> {
    let (vm, process) = path.find(&caller).await?;
    vm.sends("x-guest-exec-write");
    let (handle, program) = (vm.handle.clone(), process.clone());
    let mut body = caller.while_allowed(body, move |caller| caller.uses(&handle, &program));
    let refused = |error| input_failed(&vm, &process, error);
    let mut writer = vm.handle.write_process(&process, query.offset).map_err(refused)?;
    loop {
        let frame = match tokio::time::timeout(PATIENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => {
                return Err(Problem::bad_request(format!(
                    "The request's body broke off. The guest has taken {} bytes of input; go on \
                     with \"?offset=\" there.",
                    writer.taken()
                )));
            }
        };
        let bytes = frame.into_data().unwrap_or_else(|_| Bytes::new());
        writer.write(&bytes, false).await.map_err(refused)?;
    }
    if query.close.unwrap_or(!process.pty) {
        writer.write(&[], true).await.map_err(refused)?;
    }
    let input = process.view().input.unwrap_or_default();
    Ok(Answer(InputBody { taken: input.taken, closed: input.closed }))
}

pub(super) fn input_failed(vm: &Vm, process: &Process, error: InputError) -> Problem {
    let id = vm.handle.id();
    let pid = process.pid;
    let taken = process.view().input.map_or(0, |input| input.taken);
    let detail = match error {
        InputError::Call { command, source } => {
            return guest::call_failed(&vm.handle, command, vm.lease().is_some(), source);
        }
        InputError::Closed if process.view().input.is_none() => format!(
            "Process {pid} of VM \"{id}\" has no standard input to write to: it was not started \
             with \"stdin_open\" or \"pty\"."
        ),
        InputError::Closed => format!(
            "Process {pid} of VM \"{id}\" takes no more input: it has closed it, or has ended. It \
             took {taken} bytes in all."
        ),
        InputError::Ahead { taken } => format!(
            "The \"offset\" lies behind the {taken} bytes that process {pid} of VM \"{id}\" has \
             taken: what lies between would be missing."
        ),
        InputError::TakenOver => format!(
            "Another request writes to the standard input of process {pid} of VM \"{id}\" now. It \
             had taken {taken} bytes."
        ),
    };
    Problem::new(Code::ProcessConflict, detail).outcome(Outcome::Failed, false).vm(id)
}
