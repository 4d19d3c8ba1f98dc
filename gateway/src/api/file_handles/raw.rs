//! File commands that are sent as they are: they open and use handles as those with paths of their own
//! do, by the same table.

use qga_proto::ReplyText;
use qga_proto::command::{Command as _, CommandInfo, GuestFileOpen, Right, XFileCreate, XFileOpen};
use serde::Deserialize;
use serde_json::Value;

use super::held::{Held, Opening};
use crate::api::caller::{Caller, Vm};
use crate::api::error::Problem;
use crate::vm::{Access, CallError, CallOptions};

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

    pub(in crate::api) fn options(&self, options: CallOptions) -> CallOptions {
        match self {
            Self::Uses(held) => held.options(options),
            Self::Opens { .. } | Self::None => options,
        }
    }

    /// Enters what was opened, and forgets what is closed.
    pub(in crate::api) fn note(
        self,
        caller: &Caller,
        vm: &Vm,
        info: &CommandInfo,
        reply: &Result<Option<ReplyText>, CallError>,
    ) {
        match (self, reply) {
            (Self::Opens { place, path }, Ok(Some(text))) => {
                match serde_json::from_slice(text.json()) {
                    Ok(Opened::Number(handle) | Opened::Member { handle }) => {
                        place.enter(caller, vm, handle, &path);
                    }
                    // No handle that anybody could use.
                    Err(_) => {}
                }
            }
            (Self::Uses(held), reply) => held.note(vm, info, reply.as_ref().err()),
            _ => {}
        }
    }
}
