//! Processes that the gateway has started in guests: followed, kept, and read by whoever may.
//!
//! ```text
//!   start ──▶ table: a place per process, bounded     readers: a place in what is kept each
//!               │                                          ▲
//!               └──▶ pump: one task per VM ── output ──▶ stream (bounded) ── news ──┘
//! ```
//!
//! A guest gives a result once; here it can be had for as long as it is kept. With our own agent
//! (`x-guest-exec-…`) output comes as it is written, and after a restart of the gateway processes
//! are found again in the guest, without an owner. With a stock one, output comes at the end, and
//! what has been started is forgotten with the process that started it.

mod extension;
mod input;
mod order;
mod process;
mod pump;
mod reader;
mod stock;
mod stream;
mod table;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qga_proto::command::{
    CaptureOutput, Command, CommandInfo, ExecStarted, ExecStatus, GuestExec, OutputState, Overflow,
    TerminalSize, XExecForget, XExecList, XExecProgram, XExecResize, XExecSignal, XExecStart,
};
use tokio::time::sleep;

use self::process::{Start, Way, kept};
use self::table::{EXTENSION, NoRoom, STOCK};
use super::call::{CallError, CallOptions};
use super::capabilities::CommandState;
use super::handle::VmHandle;
use crate::principal::Principal;
use crate::vm::{Full, LinkState};

pub use input::{InputError, InputWriter};
pub use order::ProcessOrder;
pub use process::{Input, Process, ProcessState, ProcessView};
pub use reader::{OutputReader, Piece, TooManyReaders};
pub(crate) use table::Processes;

/// Why nothing was started, or done to a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The guest's agent cannot do that.
    #[error("the agent cannot do that: {member}")]
    Unsupported {
        /// What of the order it is.
        member: &'static str,
    },
    /// As many processes run as may.
    #[error("{max} processes are all that there may be")]
    TooMany {
        /// How many.
        max: usize,
        /// Who has as many as that, or as its share of that; none for the VM's own limit.
        full: Option<Full>,
    },
    /// The process has ended, or is lost.
    #[error("the process does not run")]
    Ended,
    /// A call to the guest failed.
    #[error("{}: {source}", command.name)]
    Call {
        /// The command.
        command: &'static CommandInfo,
        /// Why.
        source: CallError,
    },
}

impl From<NoRoom> for ProcessError {
    fn from(NoRoom { max, full }: NoRoom) -> Self {
        Self::TooMany { max, full }
    }
}

impl VmHandle {
    /// Whether its agent has `x-guest-exec-…`, as far as is known.
    pub fn follows_programs(&self) -> bool {
        let word = self.capabilities().and_then(|known| known.command(XExecStart::INFO.name));
        matches!(word, Some(CommandState::Enabled | CommandState::Disabled))
    }

    /// Starts a program, and follows it from then on; so a caller that goes away in the midst of it
    /// loses nothing.
    pub async fn start_process(
        &self,
        order: ProcessOrder,
        owner: Principal,
        options: CallOptions,
    ) -> Result<Arc<Process>, ProcessError> {
        let extension = self.follows_programs();
        if let Some(member) = order.beyond_stock().filter(|_| !extension) {
            return Err(ProcessError::Unsupported { member });
        }
        let vm = self.clone();
        self.detached(const { &XExecStart::INFO }, async move {
            if extension {
                vm.start_extension(order, owner, options).await
            } else {
                vm.start_stock(order, owner, options).await
            }
        })
        .await
    }

    /// Starts a program by `guest-exec` with these arguments, and follows it as any other.
    pub async fn start_raw(
        &self,
        arguments: String,
        owner: Principal,
        options: CallOptions,
    ) -> Result<Arc<Process>, ProcessError> {
        let vm = self.clone();
        self.detached(const { &GuestExec::INFO }, async move {
            let program = serde_json::from_str::<GuestExec>(&arguments).ok();
            let capture = program.as_ref().and_then(|exec| exec.capture_output);
            let program = program.map(|exec| exec.path).unwrap_or_default();
            let capture = capture.unwrap_or(CaptureOutput::None);
            vm.start_with(arguments, program, capture, owner, options).await
        })
        .await
    }

    /// Goes on without whoever asked for it.
    async fn detached<T: Send + 'static>(
        &self,
        command: &'static CommandInfo,
        work: impl Future<Output = Result<T, ProcessError>> + Send + 'static,
    ) -> Result<T, ProcessError> {
        tokio::spawn(work).await.unwrap_or_else(|_| {
            let reason = "the gateway failed".into();
            Err(ProcessError::Call { command, source: CallError::Interrupted { reason } })
        })
    }

    async fn start_extension(
        &self,
        order: ProcessOrder,
        owner: Principal,
        options: CallOptions,
    ) -> Result<Arc<Process>, ProcessError> {
        let processes = &self.settings().processes;
        let limits = self.settings().limits();
        let place = processes.reserve(self.id(), Some(&owner), &limits)?;
        let started = self.call(order.extension(), options).await.map_err(failed::<XExecStart>)?;
        for other in processes.list(self.id(), &limits) {
            if matches!(&other.way, Way::Extension { instance, .. } if *instance != started.agent_instance)
            {
                other.lose("the guest's agent was started afresh, which ends its programs");
            }
        }
        let open = order.input_open || order.pty.is_some();
        let taken = order.input.as_ref().map_or(0, Vec::len) as u64;
        let start = Start {
            pid: started.pid,
            owner: Some(owner),
            program: order.argv.into_iter().next().unwrap_or_default(),
            started_at: SystemTime::now(),
            pty: order.pty.is_some(),
            way: Way::Extension { handle: started.handle, instance: started.agent_instance },
            overflow: order.overflow,
            streams: kept(order.capture, order.pty.is_some()),
            // Room is asked for by the first write.
            input: open.then(|| Input { taken, room: 1, ..Input::default() }),
            room: limits.process_output_bytes,
            pump: processes.wake(self.id(), EXTENSION),
        };
        let process = processes.enter(self.id(), start);
        drop(place);
        pump::start(self, EXTENSION);
        Ok(process)
    }

    async fn start_stock(
        &self,
        order: ProcessOrder,
        owner: Principal,
        options: CallOptions,
    ) -> Result<Arc<Process>, ProcessError> {
        let (arguments, capture) = (order.stock(), order.capture);
        let program = order.argv.into_iter().next().unwrap_or_default();
        self.start_with(arguments, program, capture, owner, options).await
    }

    async fn start_with(
        &self,
        arguments: String,
        program: String,
        capture: CaptureOutput,
        owner: Principal,
        options: CallOptions,
    ) -> Result<Arc<Process>, ProcessError> {
        let processes = &self.settings().processes;
        let limits = self.settings().limits();
        let place = processes.reserve(self.id(), Some(&owner), &limits)?;
        let reply = self.call_raw(const { &GuestExec::INFO }, arguments, options).await;
        let reply = reply.map_err(failed::<GuestExec>)?;
        let bad = |reason: String| failed::<GuestExec>(CallError::BadReply { reason });
        let reply = reply.ok_or_else(|| bad("no process id".into()))?;
        let ExecStarted { pid } = reply.decode::<GuestExec>().map_err(|e| bad(e.to_string()))?;
        let start = Start {
            pid,
            owner: Some(owner),
            program,
            started_at: SystemTime::now(),
            pty: false,
            way: Way::Stock { incarnation: self.incarnation() },
            overflow: Overflow::Drop,
            streams: kept(capture, false),
            input: None,
            room: limits.process_output_bytes,
            pump: processes.wake(self.id(), STOCK),
        };
        let process = processes.enter(self.id(), start);
        drop(place);
        pump::start(self, STOCK);
        Ok(process)
    }

    /// Its processes that are known, in the order of their numbers.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.settings().processes.list(self.id(), &self.settings().limits())
    }

    /// The process of that number.
    pub fn process(&self, pid: i64) -> Option<Arc<Process>> {
        self.settings().processes.get(self.id(), pid, &self.settings().limits())
    }

    /// Looks in the guest for processes that are not known here: of a gateway before this one. They
    /// have no owner, and only the output that nobody has read yet. If the guest cannot be asked,
    /// nothing is found.
    pub async fn find_processes(&self) {
        let processes = &self.settings().processes;
        let can = self.capabilities().and_then(|known| known.command(XExecList::INFO.name));
        if can != Some(CommandState::Enabled) || self.link().state != LinkState::Ready {
            return;
        }
        let Ok(list) = self.call(XExecList {}, self.options(&XExecList::INFO)).await else {
            return;
        };
        if processes.is_starting(self.id()) {
            return;
        }
        let limits = self.settings().limits();
        let known = processes.list(self.id(), &limits);
        for program in list.programs {
            let way = Way::Extension {
                handle: program.handle,
                instance: list.agent_instance.chars().take(64).collect(),
            };
            if known.iter().any(|process| process.way == way) {
                continue;
            }
            // No result gives way for it: it may be anybody's.
            if processes.list(self.id(), &limits).len() >= limits.processes_per_vm {
                break;
            }
            let Ok(place) = processes.reserve(self.id(), None, &limits) else { break };
            let process = processes.enter(self.id(), self.found(way, &program));
            drop(place);
            process.stands(&program);
            pump::start(self, EXTENSION);
        }
    }

    fn found(&self, way: Way, program: &XExecProgram) -> Start {
        let from = |state: Option<OutputState>| state.map(|state| state.start);
        let age = Duration::from_millis(program.age_ms);
        Start {
            pid: program.pid,
            owner: None,
            program: program.program.clone(),
            started_at: SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH),
            pty: program.pty,
            way,
            overflow: Overflow::Drop,
            streams: [from(program.stdout), from(program.stderr)],
            input: program.stdin.map(|input| Input {
                taken: input.taken,
                room: input.room,
                ..Input::default()
            }),
            room: self.settings().limits().process_output_bytes,
            pump: self.settings().processes.wake(self.id(), EXTENSION),
        }
    }

    /// Sends a signal to a process's group, or to the process alone.
    pub async fn signal_process(
        &self,
        process: &Process,
        signal: i64,
        alone: bool,
        options: CallOptions,
    ) -> Result<(), ProcessError> {
        let handle = process.handle().ok_or(ProcessError::Unsupported { member: "signal" })?;
        if process.is_complete() {
            return Err(ProcessError::Ended);
        }
        let signal = XExecSignal { handle, signal, alone: alone.then_some(true) };
        self.call(signal, options).await.map_err(failed::<XExecSignal>).map(drop)
    }

    /// Gives a process's terminal another size.
    pub async fn resize_process(
        &self,
        process: &Process,
        size: TerminalSize,
        options: CallOptions,
    ) -> Result<(), ProcessError> {
        let handle = process.handle().filter(|_| process.pty);
        let handle = handle.ok_or(ProcessError::Unsupported { member: "resize" })?;
        if process.is_complete() {
            return Err(ProcessError::Ended);
        }
        let resize = XExecResize { handle, rows: size.rows, cols: size.cols };
        self.call(resize, options).await.map_err(failed::<XExecResize>).map(drop)
    }

    /// Kills a process with its group if it runs, and forgets it.
    pub async fn remove_process(
        &self,
        process: &Arc<Process>,
        options: CallOptions,
    ) -> Result<(), ProcessError> {
        if !process.is_complete() {
            let handle = process.handle().ok_or(ProcessError::Unsupported { member: "kill" })?;
            let forgotten = self.call(XExecForget { handle }, options).await;
            forgotten.map_err(failed::<XExecForget>)?;
            process.lose("it was killed and forgotten as asked for");
            process.pump.notify_one();
        }
        self.settings().processes.remove(self.id(), process);
        Ok(())
    }
}

impl Process {
    /// What `guest-exec-status` would say of it.
    pub fn as_status(&self) -> ExecStatus {
        use qga_proto::command::OutputStream::{Stderr, Stdout};
        let view = self.view();
        let ProcessState::Exited { exit_code, signal, .. } = view.state else {
            return ExecStatus::default();
        };
        let data = |stream| {
            let (start, bytes) = self.output(stream).filter(|(_, bytes)| !bytes.is_empty())?;
            Some((qga_proto::base64::Base64(bytes), (start > 0).then_some(true)))
        };
        let (out, err) = (data(Stdout), data(Stderr));
        let out_truncated = out.as_ref().and_then(|(_, cut)| *cut);
        let err_truncated = err.as_ref().and_then(|(_, cut)| *cut);
        ExecStatus {
            exited: view.complete,
            exitcode: exit_code,
            signal,
            out_data: out.map(|(data, _)| data),
            err_data: err.map(|(data, _)| data),
            out_truncated,
            err_truncated,
        }
    }
}

fn failed<C: Command>(source: CallError) -> ProcessError {
    ProcessError::Call { command: const { &C::INFO }, source }
}

/// Forgets results when their time is over.
fn sweep_later(vm: &VmHandle) {
    let settings = Arc::downgrade(vm.settings());
    let kept = vm.settings().limits().process_results;
    tokio::spawn(async move {
        sleep(kept + Duration::from_millis(10)).await;
        if let Some(settings) = settings.upgrade() {
            let limits = settings.limits();
            settings.processes.sweep(&limits);
        }
    });
}
