//! `/vms/{id}/processes`: programs in the guest, their output and their input.

mod attach;
mod body;
mod input;
mod output;
mod request;

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::http::{HeaderName, StatusCode, header};
use qga_proto::command::{
    Command, CommandInfo, Empty, GuestExec, Right, XExecForget, XExecSignal, XExecStart,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Shown, Vm};
use super::error::{Code, Outcome, Problem, guest};
use super::extract::{Json, NoBody, NoQuery, Path, Query};
use crate::rights::Invocation;
use crate::vm::{Full, Process, ProcessError, ProcessOrder};
use body::ProcessBody;
use request::{ProcessRequest, SignalRequest};

pub(super) use attach::*;
pub(super) use input::*;
pub(super) use output::*;
pub(super) use request::{MAX_START_BODY, signal_pattern};

/// What starting a program can run into.
const START_PROBLEMS: &[Code] = &[
    Code::VmNotFound,
    Code::AgentUnavailable,
    Code::QueueFull,
    Code::AgentTimeout,
    Code::AgentBadReply,
    Code::AgentError,
    Code::CommandUnsupported,
    Code::CommandDisabled,
    Code::VmFrozen,
    Code::VmPaused,
    Code::TooManyProcesses,
];

/// What anything else with a process can run into, if the guest is asked.
const PROCESS_PROBLEMS: &[Code] = &[
    Code::VmNotFound,
    Code::ProcessNotFound,
    Code::ProcessConflict,
    Code::AgentUnavailable,
    Code::QueueFull,
    Code::AgentTimeout,
    Code::AgentBadReply,
    Code::AgentError,
    Code::CommandUnsupported,
    Code::CommandDisabled,
    Code::VmFrozen,
    Code::VmPaused,
];

/// The process in the path; a struct, so that what is wrong is told by its name.
#[derive(Debug, Deserialize)]
pub(super) struct ProcessPath {
    id: String,
    pid: i64,
}

impl ProcessPath {
    /// The process, which may have to be looked for in the guest.
    async fn find(&self, caller: &Caller) -> Result<(Vm, Arc<Process>), Problem> {
        let vm = caller.programs(&self.id)?;
        // One that is not the caller's to use is not there for it.
        let known = || vm.handle.process(self.pid).filter(|found| caller.uses(&vm.handle, found));
        let mut found = known();
        if found.is_none() {
            vm.handle.find_processes().await;
            found = known();
        }
        match found {
            Some(process) => {
                caller.is_about(&process.program);
                Ok((vm, process))
            }
            None => Err(Problem::new(
                Code::ProcessNotFound,
                format!(
                    "The gateway knows no process {} of VM \"{}\": it was not started here, or its \
                     result was kept for long enough. GET /vms/{}/processes lists those that it \
                     knows.",
                    self.pid,
                    vm.handle.id(),
                    vm.handle.id()
                ),
            )
            .vm(vm.handle.id())),
        }
    }
}

/// How long the answer to a start may wait for the result.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StartQuery {
    /// Seconds that the answer waits for the end of the program: then it has the result. At most
    /// 3600 unless configured otherwise.
    #[param(minimum = 0, example = 10)]
    wait: Option<f64>,
    /// How long the guest may take for the start itself.
    #[param(exclusive_minimum = 0, example = 30)]
    timeout_seconds: Option<f64>,
}

/// All processes of a VM that are known.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProcessList {
    /// In the order of their numbers.
    processes: Vec<ProcessBody>,
}

/// Start a program
///
/// By `x-guest-exec-start` where the guest runs `qga-agent`, and by `guest-exec` elsewhere: what a
/// stock agent cannot do is refused with `command_unsupported` and the `member` that asks for it.
/// Who may run some programs only (`programs` of a grant) names one by its absolute path.
/// The program belongs to no request: a caller that hangs up changes nothing. With `?wait=` the
/// answer has the result if the program ends in that time; who loses the right meanwhile is refused at
/// once, and the program goes on. With `qga-agent`, what a program leaves
/// running in its session is killed once it is complete; what is to stay needs one of its own
/// (`setsid`, `systemd-run`).
#[utoipa::path(
    post,
    path = "/vms/{id}/processes",
    tag = "processes",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), StartQuery),
    request_body = ProcessRequest,
    responses((
        status = 201,
        description = "Started; with `wait` perhaps ended.",
        body = ProcessBody,
        headers(("location" = String, description = "`/vms/{id}/processes/{pid}`"))
    )),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-start or guest-exec")),
        ("x-qga-problems" = json!(START_PROBLEMS)),
    )
)]
pub(super) async fn start_process(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<StartQuery>,
    _: Shown,
    Json(request): Json<ProcessRequest, MAX_START_BODY>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Answer<ProcessBody>), Problem> {
    if let Some(program) = request.program() {
        caller.is_about(program);
    }
    let limit = CallTimeout::checked(caller.app(), query.timeout_seconds)?;
    let wait = wait(&caller, query.wait)?;
    let order = request.checked()?;
    let vm = caller.may_run(&id, &invocation(&order))?.within(limit);
    let extension = vm.listed(XExecStart::INFO.name).await?.is_some();
    if let Some(member) = order.beyond_stock().filter(|_| !extension) {
        return Err(beyond_stock(&vm, member));
    }
    let info: &'static CommandInfo =
        if extension { const { &XExecStart::INFO } } else { const { &GuestExec::INFO } };
    vm.admit(info).await?;
    vm.sends(info.name);
    let owner = caller.principal().clone();
    let process = vm.handle.start_process(order, owner, vm.options(info)).await;
    let process = process.map_err(|error| failed(&vm, error))?;
    // Its input is with the process now.
    caller.lets_go();
    if let Some(wait) = wait {
        let may = |caller: &Caller| still_uses(caller, &vm, &process);
        tokio::select! {
            // Its time may be over before.
            _ = timeout(wait, process.completed()) => caller.still(may),
            refusal = caller.refused(may) => Err(refusal),
        }
        // It was started: a repeat under its key must not start it again.
        .map_err(|refusal| refusal.outcome(Outcome::Unknown, false))?;
    }
    let location = format!("/vms/{}/processes/{}", vm.handle.id(), process.pid);
    let body = Answer(ProcessBody::whole(&process));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], body))
}

/// Refuses who has lost the program that it started.
fn still_uses(caller: &Caller, vm: &Vm, process: &Process) -> Result<(), Problem> {
    if caller.uses(&vm.handle, process) {
        return Ok(());
    }
    caller.programs(vm.handle.id().as_str())?;
    Err(Problem::new(
        Code::Forbidden,
        "The right to run this program was taken away while its end was waited for. It was started, \
         and goes on.",
    )
    .vm(vm.handle.id()))
}

/// The order that a request's body is, if it is a good one.
pub(super) fn order(body: &[u8]) -> Option<ProcessOrder> {
    serde_json::from_slice::<ProcessRequest>(body).ok()?.checked().ok()
}

/// What of an order the rules for programs are about.
pub(super) fn invocation(order: &ProcessOrder) -> Invocation<'_> {
    Invocation {
        argv: &order.argv,
        env: order.env.as_deref(),
        cwd: order.cwd.as_deref(),
        user: order.user.as_deref(),
        stdin: order.input.is_some() || order.input_open,
        pty: order.pty.is_some(),
    }
}

fn wait(caller: &Caller, seconds: Option<f64>) -> Result<Option<Duration>, Problem> {
    let most = caller.app().limits().call_timeout_max;
    let checked = |seconds| {
        let wait = Duration::try_from_secs_f64(seconds).ok().filter(|wait| *wait <= most);
        wait.ok_or_else(|| {
            Problem::bad_request(format!(
                "Query parameter \"wait\" must be at least 0 and at most {}.",
                most.as_secs_f64()
            ))
        })
    };
    seconds.map(checked).transpose()
}

/// List the processes that are known
///
/// Those that this gateway has started, as long as they run and for a while after their end
/// (`limits.process_results_seconds`), and those that it finds in a guest with `qga-agent`. Whoever
/// has the right `exec` on the VM sees and uses all of them; who has it for some programs only, those
/// that it has started itself.
#[utoipa::path(
    get,
    path = "/vms/{id}/processes",
    tag = "processes",
    params(("id" = String, Path, description = "The VM.", example = "web-1")),
    responses((status = 200, description = "The processes, without output.", body = ProcessList)),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-list")),
        ("x-qga-problems" = json!(["vm_not_found"])),
    )
)]
pub(super) async fn list_processes(
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Answer<ProcessList>, Problem> {
    let vm = caller.programs(&id)?;
    vm.handle.find_processes().await;
    let processes = vm.handle.processes();
    let own = processes.iter().filter(|process| caller.uses(&vm.handle, process));
    let processes = own.map(|process| ProcessBody::brief(process)).collect();
    Ok(Answer(ProcessList { processes }))
}

/// Show a process, or its result
///
/// Once it is complete, with what is kept of its output: as often as it is asked for, though the
/// guest gives it once.
#[utoipa::path(
    get,
    path = "/vms/{id}/processes/{pid}",
    tag = "processes",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("pid" = i64, Path, description = "Its number in the guest.", example = 4711),
    ),
    responses((status = 200, description = "The process.", body = ProcessBody)),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-list")),
        ("x-qga-problems" = json!(["vm_not_found", "process_not_found"])),
    )
)]
pub(super) async fn show_process(
    caller: Caller,
    Path(path): Path<ProcessPath>,
    _: NoQuery,
) -> Result<Answer<ProcessBody>, Problem> {
    let (_, process) = path.find(&caller).await?;
    Ok(Answer(ProcessBody::whole(&process)))
}

/// Send a process a signal
///
/// To its process group, or with `alone` to the process only. With a stock agent that is not
/// possible.
#[utoipa::path(
    post,
    path = "/vms/{id}/processes/{pid}/signal",
    tag = "processes",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("pid" = i64, Path, description = "Its number in the guest.", example = 4711),
        CallTimeout,
    ),
    request_body = SignalRequest,
    responses((status = 200, description = "Sent.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-signal")),
        ("x-qga-problems" = json!(PROCESS_PROBLEMS)),
    )
)]
pub(super) async fn signal_process(
    caller: Caller,
    Path(path): Path<ProcessPath>,
    limit: CallTimeout,
    Json(request): Json<SignalRequest>,
) -> Result<Answer<Empty>, Problem> {
    let signal = request.number()?;
    let (vm, process) = path.find(&caller).await?;
    let vm = vm.within(limit);
    vm.sends(XExecSignal::INFO.name);
    let options = vm.options(&XExecSignal::INFO);
    let sent = vm.handle.signal_process(&process, signal, request.alone, options).await;
    sent.map_err(|error| about(&vm, &process, error))?;
    Ok(Answer(Empty {}))
}

/// Kill a process and forget it
///
/// One that runs is killed with its process group, which with a stock agent is not possible. What
/// has ended, or is lost, is forgotten.
#[utoipa::path(
    delete,
    path = "/vms/{id}/processes/{pid}",
    tag = "processes",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("pid" = i64, Path, description = "Its number in the guest.", example = 4711),
        CallTimeout,
    ),
    responses((status = 200, description = "Killed, or forgotten.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-forget")),
        ("x-qga-problems" = json!(PROCESS_PROBLEMS)),
    )
)]
pub(super) async fn delete_process(
    caller: Caller,
    Path(path): Path<ProcessPath>,
    limit: CallTimeout,
    _: NoBody,
) -> Result<Answer<Empty>, Problem> {
    let (vm, process) = path.find(&caller).await?;
    let vm = vm.within(limit);
    vm.sends(XExecForget::INFO.name);
    let removed = vm.handle.remove_process(&process, vm.options(&XExecForget::INFO)).await;
    removed.map_err(|error| about(&vm, &process, error))?;
    Ok(Answer(Empty {}))
}

/// What a stock agent cannot do.
fn beyond_stock(vm: &Vm, member: &'static str) -> Problem {
    let version = vm.handle.capabilities().map(|known| super::error::printable(&known.version));
    let which = version.map(|version| format!(" (version {version})")).unwrap_or_default();
    let what = match member {
        "signal" | "kill" => {
            "cannot send signals to a program, so nothing was done to it: it runs until it ends"
                .to_owned()
        }
        member => format!("cannot do what the member \"{member}\" asks for. Nothing was started"),
    };
    Problem::new(
        Code::CommandUnsupported,
        format!(
            "The guest agent of VM \"{}\"{which} {what}; that takes qga-agent in the guest.",
            vm.handle.id()
        ),
    )
    .member(member)
    .outcome(Outcome::NotSent, false)
    .vm(vm.handle.id())
}

/// Why a program was not started.
pub(super) fn failed(vm: &Vm, error: ProcessError) -> Problem {
    match error {
        ProcessError::Unsupported { member } => beyond_stock(vm, member),
        ProcessError::TooMany { max, full } => too_many(vm, max, full),
        ProcessError::Ended => {
            Problem::new(Code::ProcessConflict, "The process does not run any more.")
                .outcome(Outcome::NotSent, false)
                .vm(vm.handle.id())
        }
        ProcessError::Call { command, source } => {
            guest::call_failed(&vm.handle, command, vm.lease().is_some(), source)
        }
    }
}

fn too_many(vm: &Vm, max: usize, full: Option<Full>) -> Problem {
    let id = vm.handle.id();
    let why = match full {
        None => {
            format!("{max} processes run on VM \"{id}\", as many as may (limits.processes_per_vm)")
        }
        Some(Full::Everybody) => format!("{max} processes run, as many as may (limits.processes)"),
        Some(Full::Vm) => format!(
            "VM \"{id}\" has its share of the {max} processes that may run at once (limits.processes): the \
             rest is kept for other VMs"
        ),
        Some(Full::Principal) => format!(
            "You have your share of the {max} processes that may run at once (limits.processes): the rest \
             is kept for others"
        ),
    };
    let text =
        format!("{why}. Nothing was started; try again when one of them has ended, or end one.");
    Problem::new(Code::TooManyProcesses, text)
        .outcome(Outcome::NotSent, true)
        .retry_after(10)
        .vm(id)
}

/// Why something could not be done to a process.
fn about(vm: &Vm, process: &Process, error: ProcessError) -> Problem {
    match error {
        ProcessError::Ended => {
            let state = process.view().state;
            Problem::new(
                Code::ProcessConflict,
                format!(
                    "Process {} of VM \"{}\" does not run any more: it is {state}. Nothing was sent.",
                    process.pid,
                    vm.handle.id()
                ),
            )
            .outcome(Outcome::NotSent, false)
            .vm(vm.handle.id())
        }
        error => failed(vm, error),
    }
}
