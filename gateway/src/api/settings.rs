//! What can be set in a guest: `/time`, `/vcpus`, `/memory-blocks`, and `/fstrim`.

use axum::Json as Answer;
use qga_proto::command::{
    Command, CommandInfo, Empty, GuestFstrim, GuestSetMemoryBlocks, GuestSetTime, GuestSetVcpus,
    LogicalProcessor, MemoryBlock, MemoryBlockResponse, Right, TrimReport,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Vm};
use super::document::CALL_PROBLEMS;
use super::error::{Problem, printable};
use super::extract::{Json, Path};
use crate::vm::CallError;

/// What time it is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"time": 1763803200250000000i64}))]
pub(super) struct TimeRequest {
    /// Nanoseconds since 1970 UTC. If absent, the hardware clock's time is taken.
    #[schema(minimum = 0)]
    time: Option<i64>,
}

/// Processors and how they are to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"vcpus": [{"logical-id": 1, "online": false}]}))]
pub(super) struct VcpusRequest {
    /// Those that are to change, in the order in which they are set. `can-offline` is ignored.
    #[schema(min_items = 1)]
    vcpus: Vec<LogicalProcessor>,
}

/// What became of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum VcpuResult {
    /// It is as asked.
    Done,
    /// It is not, and `error` says why.
    Failed,
    /// One before it failed.
    NotTried,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct VcpuAnswer {
    logical_id: i64,
    online: bool,
    result: VcpuResult,
    /// The agent's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
}

/// What became of the processors, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "complete": true,
    "vcpus": [{"logical-id": 1, "online": false, "result": "done"}]
}))]
pub(super) struct VcpusAnswer {
    /// Whether all were done.
    complete: bool,
    vcpus: Vec<VcpuAnswer>,
}

/// Blocks of memory and how they are to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"mem-blks": [{"phys-index": 32, "online": true}]}))]
pub(super) struct MemoryBlocksRequest {
    /// Those that are to change, in the order in which they are set. `can-offline` is ignored.
    #[serde(rename = "mem-blks")]
    #[schema(min_items = 1)]
    mem_blks: Vec<MemoryBlock>,
}

/// How to trim.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"minimum": 0}))]
pub(super) struct TrimRequest {
    /// The smallest stretch worth telling the disk, in bytes; 0 if absent.
    #[schema(minimum = 0)]
    minimum: Option<i64>,
}

/// Set the guest's clock
///
/// `guest-set-time`: the system's clock and the hardware clock, or without a time the system's clock
/// from the hardware clock.
#[utoipa::path(
    put,
    path = "/vms/{id}/time",
    tag = "guest",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    request_body = TimeRequest,
    responses((status = 200, description = "Set.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::Configure)),
        ("x-qga-command" = json!("guest-set-time")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn set_time(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    Json(TimeRequest { time }): Json<TimeRequest>,
) -> Result<Answer<Empty>, Problem> {
    if time.is_some_and(|time| time < 0) {
        return Err(Problem::bad_member("time", "must be 0 or more"));
    }
    let vm = caller.vm(&id, Right::Configure)?.within(timeout);
    vm.call(GuestSetTime { time }).await.map(Answer)
}

/// Take processors on- and offline
///
/// `guest-set-vcpus`, repeated for those that an agent has left over, until one fails. If the very
/// first fails nothing was changed, and that is a problem; otherwise the answer says what became of
/// each.
#[utoipa::path(
    patch,
    path = "/vms/{id}/vcpus",
    tag = "guest",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    request_body = VcpusRequest,
    responses((status = 200, description = "What became of each.", body = VcpusAnswer)),
    extensions(
        ("x-qga-right" = json!(Right::Configure)),
        ("x-qga-command" = json!("guest-set-vcpus")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn set_vcpus(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    Json(VcpusRequest { vcpus }): Json<VcpusRequest>,
) -> Result<Answer<VcpusAnswer>, Problem> {
    if vcpus.is_empty() {
        return Err(Problem::bad_member("vcpus", "must name at least one"));
    }
    let vm = caller.vm(&id, Right::Configure)?.within(timeout);
    vm.admit(&GuestSetVcpus::INFO).await?;
    let mut tail = Tail::new(&vm, &GuestSetVcpus::INFO);
    let mut failure = None;
    while tail.done < vcpus.len() && failure.is_none() {
        let left = vcpus[tail.done..].to_vec();
        let most = left.len();
        match tail.call(GuestSetVcpus { vcpus: left }).await {
            Ok(count) => tail.advance(usize::try_from(count).ok(), most)?,
            // Only the first of a list fails with an error: the one that is the next to be done.
            Err(CallError::Agent(error)) if tail.done > 0 => failure = Some(error.desc),
            Err(error) => return Err(tail.failed(error)),
        }
    }
    let answer = |(at, cpu): (usize, LogicalProcessor)| {
        let (result, error) = match at {
            _ if at < tail.done => (VcpuResult::Done, None),
            _ if at == tail.done => (VcpuResult::Failed, failure.as_deref().map(printable)),
            _ => (VcpuResult::NotTried, None),
        };
        let LogicalProcessor { logical_id, online, .. } = cpu;
        VcpuAnswer { logical_id, online, result, error }
    };
    let complete = failure.is_none();
    let vcpus = vcpus.into_iter().enumerate().map(answer).collect();
    Ok(Answer(VcpusAnswer { complete, vcpus }))
}

/// Take blocks of memory on- and offline
///
/// `guest-set-memory-blocks`, repeated for those that an agent has left over. The answer says what
/// became of each, in the order of the request.
#[utoipa::path(
    patch,
    path = "/vms/{id}/memory-blocks",
    tag = "guest",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    request_body = MemoryBlocksRequest,
    responses((
        status = 200,
        description = "What became of each.",
        body = Vec<MemoryBlockResponse>,
        example = json!([{"phys-index": 32, "response": "success"}])
    )),
    extensions(
        ("x-qga-right" = json!(Right::Configure)),
        ("x-qga-command" = json!("guest-set-memory-blocks")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn set_memory_blocks(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    Json(MemoryBlocksRequest { mem_blks }): Json<MemoryBlocksRequest>,
) -> Result<Answer<Vec<MemoryBlockResponse>>, Problem> {
    if mem_blks.is_empty() {
        return Err(Problem::bad_member("mem-blks", "must name at least one"));
    }
    let vm = caller.vm(&id, Right::Configure)?.within(timeout);
    vm.admit(&GuestSetMemoryBlocks::INFO).await?;
    let mut tail = Tail::new(&vm, &GuestSetMemoryBlocks::INFO);
    let mut results = Vec::new();
    while tail.done < mem_blks.len() {
        let left = mem_blks[tail.done..].to_vec();
        let most = left.len();
        let part = tail.call(GuestSetMemoryBlocks { mem_blks: left }).await;
        let part = part.map_err(|error| tail.failed(error))?;
        tail.advance(Some(part.len()), most)?;
        results.extend(part);
    }
    Ok(Answer(results))
}

/// Tell the disks what is unused
///
/// `guest-fstrim`. It can take minutes, and is given ten unless configured otherwise. What could not
/// be trimmed has an `error` in its entry.
#[utoipa::path(
    post,
    path = "/vms/{id}/fstrim",
    tag = "guest",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    request_body = TrimRequest,
    responses((
        status = 200,
        description = "What became of each filesystem.",
        body = TrimReport,
        example = json!({"paths": [{"path": "/", "trimmed": 8589934592i64, "minimum": 0}]})
    )),
    extensions(
        ("x-qga-right" = json!(Right::Freeze)),
        ("x-qga-command" = json!("guest-fstrim")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn trim_filesystems(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    Json(TrimRequest { minimum }): Json<TrimRequest>,
) -> Result<Answer<TrimReport>, Problem> {
    if minimum.is_some_and(|minimum| minimum < 0) {
        return Err(Problem::bad_member("minimum", "must be 0 or more"));
    }
    let vm = caller.vm(&id, Right::Freeze)?.within(timeout);
    vm.call(GuestFstrim { minimum }).await.map(Answer)
}

/// A list of which an agent does the first part per command: all the commands share one deadline.
struct Tail<'a> {
    vm: &'a Vm,
    info: &'static CommandInfo,
    until: Instant,
    done: usize,
}

impl<'a> Tail<'a> {
    fn new(vm: &'a Vm, info: &'static CommandInfo) -> Self {
        Self { vm, info, until: Instant::now() + vm.options(info).timeout, done: 0 }
    }

    async fn call<C: Command>(&self, arguments: C) -> Result<C::Return, CallError> {
        let mut options = self.vm.options(&C::INFO);
        options.timeout = self.until.saturating_duration_since(Instant::now());
        self.vm.try_call(arguments, options).await
    }

    /// The agent says that it did `count` of `most`. None at all would go on for ever.
    fn advance(&mut self, count: Option<usize>, most: usize) -> Result<(), Problem> {
        match count.filter(|count| (1..=most).contains(count)) {
            Some(count) => self.done += count,
            None => {
                let said = count.map_or_else(|| "a negative number".into(), |n| n.to_string());
                let reason = format!("of {most} it says that it did {said}");
                return Err(self.failed(CallError::BadReply { reason }));
            }
        }
        Ok(())
    }

    fn failed(&self, error: CallError) -> Problem {
        let problem = self.vm.failed(self.info, error);
        match self.done {
            0 => problem,
            n => problem.preceded_by(&format!("The first {n} of the list were done.")),
        }
    }
}
