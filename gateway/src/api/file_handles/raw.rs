//! File commands that are sent as they are: they open and use handles as those with paths of their own
//! do, by the same table.

use qga_proto::ReplyText;
use qga_proto::command::{Command as _, CommandInfo, GuestFileOpen, Right, XFileCreate, XFileOpen};
use serde::Deserialize;
use serde_json::Value;

use super::held::{Held, Opening};
use crate::api::caller::{Caller, Vm};
use crate::api::error::Problem;
use crate::vm::{Access, CallError};

/// What a file command says, as far as it is to be known here; what is none of that is for the agent
/// to refuse.
#[derive(Debug, Deserialize)]
struct Said {
    handle: Option<i64>,
    #[serde(default)]
    path: Value,
    #[serde(default)]
    mode: Value,
    #[serde(default)]
    write: Value,
}

/// What a command has to do with handles.
pub(in crate::api) enum Claim {
    /// Nothing.
    None,
    /// It opens one.
    Opens { place: Opening, path: String },
    /// It uses one.
    Uses(Held),
}

/// A handle in an answer, by itself or as a member.
#[derive(Deserialize)]
#[serde(untagged)]
enum Opened {
    Number(i64),
    Member { handle: i64 },
}

/// The right that the command takes, which for an opening depends on its mode: that of writing if it
/// cannot be told.
pub(in crate::api) fn right(info: &CommandInfo, arguments: &str) -> Right {
    let said = || serde_json::from_str::<Said>(arguments).ok();
    opens(info, said).map_or(info.right, Access::right)
}

/// What it opens a file for, if it opens one.
fn opens(info: &CommandInfo, said: impl FnOnce() -> Option<Said>) -> Option<Access> {
    let both = Access { reads: true, writes: true };
    match info.name {
        name if name == GuestFileOpen::INFO.name => Some(match said().map(|said| said.mode) {
            Some(Value::Null) => Access::of_mode(None),
            Some(Value::String(mode)) => Access::of_mode(Some(&mode)),
            _ => both,
        }),
        name if name == XFileOpen::INFO.name => {
            let writes =
                said().is_none_or(|said| !matches!(said.write, Value::Null | Value::Bool(false)));
            Some(Access { reads: true, writes })
        }
        name if name == XFileCreate::INFO.name => Some(both),
        _ => None,
    }
}

impl Claim {
    /// Refuses a handle that the caller may not use, and one more than it may have.
    pub(in crate::api) fn of(
        caller: &Caller,
        vm: &Vm,
        info: &CommandInfo,
        arguments: &str,
    ) -> Result<Self, Problem> {
        if !info.name.contains("guest-file-") {
            return Ok(Self::None);
        }
        let said: Said = serde_json::from_str(arguments).map_err(|error| {
            Problem::bad_request(format!("{} does not take these arguments: {error}.", info.name))
        })?;
        let handle = said.handle;
        let path = said.path.as_str().unwrap_or_default().to_owned();
        if let Some(access) = opens(info, || Some(said)) {
            let place = Opening::begin(caller, vm, access)?;
            return Ok(Self::Opens { place, path });
        }
        match handle {
            Some(handle) => Held::by(caller, vm, handle, info).map(Self::Uses),
            None => Ok(Self::None),
        }
    }

    /// Sends the command; enters what it opens, and forgets what it closes.
    pub(in crate::api) async fn call(
        self,
        caller: &Caller,
        vm: &Vm,
        info: &'static CommandInfo,
        arguments: String,
    ) -> Result<Option<ReplyText>, CallError> {
        let (guest, options) = (vm.handle.clone(), vm.options(info));
        match self {
            Self::None => guest.call_raw(info, arguments, options).await,
            Self::Uses(held) => {
                let reply = guest.call_raw(info, arguments, held.options(options)).await;
                held.note(vm, info, reply.as_ref().err());
                reply
            }
            Self::Opens { place, path } => {
                let call = async move { guest.call_raw(info, arguments, options).await };
                let (place, reply) = place.open(&vm.handle, call, opened).await;
                if let Some(handle) = reply.as_ref().ok().and_then(opened) {
                    place.enter(caller, vm, handle, &path);
                }
                reply
            }
        }
    }
}

/// The handle in an answer; of none could anybody make use.
fn opened(reply: &Option<ReplyText>) -> Option<i64> {
    match serde_json::from_slice(reply.as_ref()?.json()) {
        Ok(Opened::Number(handle) | Opened::Member { handle }) => Some(handle),
        Err(_) => None,
    }
}
