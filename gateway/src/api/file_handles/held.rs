//! Whose a handle is, asked before every operation on it: a handle is a number, and any number can be
//! tried.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::BoxFuture;
use qga_proto::command::{
    Command, CommandInfo, Empty, GuestFileClose, GuestFileRead, GuestFileWrite, Right,
};
use tokio::runtime::Handle;

use crate::api::caller::{Caller, Vm};
use crate::api::error::{Code, Outcome, Problem};
use crate::vm::{
    Access, CallError, CallOptions, OpenFile, OpenFiles, TooManyOpen, VmHandle, Whose,
};

/// A handle that the caller may do this with.
pub(in crate::api) struct Held {
    /// Absent of one that nobody here has opened.
    file: Option<Arc<OpenFile>>,
    /// It was the caller's behind this connection: another one may lead to another guest.
    disruptions: u64,
}

impl Held {
    /// Refuses a handle that is not the caller's, nor in its reach by the right `raw`, or that was not
    /// opened for this.
    pub(super) fn by(
        caller: &Caller,
        vm: &Vm,
        handle: i64,
        info: &CommandInfo,
    ) -> Result<Self, Problem> {
        let disruptions = vm.handle.disruptions();
        let refuse = |code, text: String| {
            let problem = Problem::new(code, text).command(info.name).vm(vm.handle.id());
            Err(problem.outcome(Outcome::NotSent, code == Code::FileHandleConflict))
        };
        let id = vm.handle.id();
        let file = match vm.handle.open_files().whose(handle) {
            Whose::Callers(file) if file.owner == *caller.principal() => file,
            _ if !caller.may(&vm.handle, Right::Raw) => {
                return refuse(
                    Code::FileHandleUnknown,
                    format!(
                        "You have no file open on VM \"{id}\" by the handle {handle}. It was closed, or \
                         somebody else opened it, or it was opened before the gateway or the guest's \
                         agent was started. Open the file again. Nothing was sent."
                    ),
                );
            }
            Whose::Nobodys => return Ok(Self { file: None, disruptions }),
            Whose::Callers(file) => {
                if file.access.writes {
                    caller.authorise(id, Right::FilesWrite)?;
                }
                file
            }
            Whose::Own => {
                return refuse(
                    Code::Forbidden,
                    format!(
                        "Handle {handle} on VM \"{id}\" belongs to a file that the gateway transfers at \
                         the moment, or closes: nobody else uses it. Nothing was sent."
                    ),
                );
            }
            Whose::Untold => {
                return refuse(
                    Code::FileHandleConflict,
                    format!(
                        "The gateway is opening a file on VM \"{id}\" for a transfer, and handle {handle}, \
                         which nobody here has opened, may turn out to be that file's. Try again. Nothing \
                         was sent."
                    ),
                );
            }
        };
        caller.is_about(&file.path);
        let Access { reads, writes } = file.access;
        let (fits, wanted) = match info.name {
            name if name == GuestFileRead::INFO.name => (reads, "reading"),
            name if name == GuestFileWrite::INFO.name => (writes, "writing"),
            _ => (true, ""),
        };
        if !fits {
            let problem = Problem::new(
                Code::FileHandleConflict,
                format!(
                    "Handle {handle} on VM \"{id}\" was not opened for {wanted}: open the file once \
                     more with another mode. Nothing was sent."
                ),
            );
            return Err(problem.command(info.name).outcome(Outcome::NotSent, false).vm(id));
        }
        Ok(Self { file: Some(file), disruptions })
    }

    pub(super) fn options(&self, options: CallOptions) -> CallOptions {
        CallOptions { unless_disrupted: Some(self.disruptions), ..options }
    }

    /// Forgets a handle that the guest has no more.
    pub(super) fn note(&self, vm: &Vm, info: &CommandInfo, error: Option<&CallError>) {
        let Some(file) = &self.file else { return };
        let ended = match error {
            None => ENDING.contains(&info.name),
            Some(CallError::Agent(error)) => {
                !error.is_not_found() && error.desc.contains("has not been found")
            }
            Some(_) => false,
        };
        if ended {
            vm.handle.open_files().forget(file);
        }
    }
}

/// Commands after which a handle is none any more.
const ENDING: [&str; 2] = [GuestFileClose::INFO.name, qga_proto::command::XFileCommit::INFO.name];

/// One command about a handle.
pub(super) async fn call<C: Command>(
    caller: &Caller,
    vm: &Vm,
    handle: i64,
    arguments: C,
) -> Result<C::Return, Problem> {
    call_with(caller, vm, handle, arguments, vm.options(&C::INFO)).await
}

pub(super) async fn call_with<C: Command>(
    caller: &Caller,
    vm: &Vm,
    handle: i64,
    arguments: C,
    options: CallOptions,
) -> Result<C::Return, Problem> {
    let info = const { &C::INFO };
    let held = Held::by(caller, vm, handle, info)?;
    vm.admit(info).await?;
    let answer = vm.try_call(arguments, held.options(options)).await;
    held.note(vm, info, answer.as_ref().err());
    answer.map_err(|error| vm.failed(info, error))
}

/// A place for a handle that is about to be opened.
pub(in crate::api) struct Opening {
    place: crate::vm::Opening,
    access: Access,
}

impl Opening {
    /// Refuses if the caller has as many as it may.
    pub(super) fn begin(caller: &Caller, vm: &Vm, access: Access) -> Result<Self, Problem> {
        let place = OpenFiles::begin(&vm.handle, caller.principal());
        let place = place.map_err(|full| too_many(vm, full))?;
        Ok(Self { place, access })
    }

    /// Calls what opens the file. Should the caller go away first, the call is seen to its end and the
    /// file is closed again: nobody would know by what handle.
    pub(super) async fn open<T: Send + 'static>(
        self,
        vm: &VmHandle,
        call: impl Future<Output = Result<T, CallError>> + Send + 'static,
        handle: fn(&T) -> Option<i64>,
    ) -> (Self, Result<T, CallError>) {
        let (vm, disruptions) = (vm.clone(), vm.disruptions());
        let call = Box::pin(async move { (self, call.await) });
        let mut watched = Watched { vm, disruptions, handle, call: Some(call) };
        let answer = poll_fn(|context| match &mut watched.call {
            Some(call) => call.as_mut().poll(context),
            // It is taken only when this is dropped.
            None => Poll::Pending,
        })
        .await;
        watched.call = None;
        answer
    }

    /// It is open. With the right it is closed.
    pub(super) fn enter(self, caller: &Caller, vm: &Vm, handle: i64, path: &str) {
        let Some(file) = self.place.enter(handle, self.access, path) else { return };
        let lost = caller.loses(&vm.handle, self.access.right());
        let vm = vm.handle.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = file.gone() => {}
                () = lost => close(&vm, &file).await,
            }
        });
    }
}

/// A call that opens a file, and somebody who waits for it.
struct Watched<T: Send + 'static> {
    vm: VmHandle,
    disruptions: u64,
    /// Of an answer.
    handle: fn(&T) -> Option<i64>,
    /// Absent once it is answered.
    call: Option<BoxFuture<'static, (Opening, Result<T, CallError>)>>,
}

impl<T: Send> Drop for Watched<T> {
    fn drop(&mut self) {
        let (Some(call), Ok(runtime)) = (self.call.take(), Handle::try_current()) else { return };
        let (vm, disruptions, handle) = (self.vm.clone(), self.disruptions, self.handle);
        runtime.spawn(async move {
            // Until it is closed it takes its place among the caller's.
            let (_place, answer) = call.await;
            let Some(handle) = answer.ok().as_ref().and_then(handle) else { return };
            let id = vm.id();
            match close_unless_disrupted(&vm, handle, disruptions).await {
                Ok(_) => tracing::info!(
                    vm.id = %id,
                    "{id}: file handle {handle} is closed, since its opener had gone before it was open"
                ),
                Err(error) => tracing::warn!(
                    vm.id = %id,
                    "{id}: file handle {handle}, whose opener had gone before it was open, could not be \
                     closed: {error}"
                ),
            }
        });
    }
}

async fn close_unless_disrupted(
    vm: &VmHandle,
    handle: i64,
    disruptions: u64,
) -> Result<Empty, CallError> {
    let options = vm.options(&GuestFileClose::INFO);
    let options = CallOptions { unless_disrupted: Some(disruptions), ..options };
    vm.call(GuestFileClose { handle }, options).await
}

/// Closes what its owner may not use any more, if the guest lets it be closed now.
async fn close(vm: &VmHandle, file: &OpenFile) {
    let disruptions = vm.disruptions();
    vm.open_files().forget(file);
    let (id, handle, owner) = (vm.id(), file.handle, &file.owner);
    match close_unless_disrupted(vm, handle, disruptions).await {
        Ok(_) => tracing::info!(
            vm.id = %id,
            "{id}: file handle {handle} is closed, since {owner} has lost the right to it"
        ),
        Err(error) => tracing::warn!(
            vm.id = %id,
            "{id}: file handle {handle}, to which {owner} has lost the right, could not be closed: {error}"
        ),
    }
}

fn too_many(vm: &Vm, full: TooManyOpen) -> Problem {
    let (id, limit) = (vm.handle.id(), full.limit);
    let text = match full.everybodys {
        false => format!(
            "You have {limit} files open on VM \"{id}\", as many as limits.transfers_vm in the gateway's \
             configuration allows: close some. Nothing was sent."
        ),
        true => format!(
            "{limit} files are open on VM \"{id}\" through the gateway, as many as may be: try again when \
             some have been closed. Nothing was sent."
        ),
    };
    Problem::new(Code::TooManyFileHandles, text)
        .outcome(Outcome::NotSent, true)
        .retry_after(10)
        .vm(id)
}
