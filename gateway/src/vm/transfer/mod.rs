//! Whole files, to and from guests, in chunks.
//!
//! ```text
//!   api ── open ──▶ GuestFile ── start ──▶ task: ≤ 2 parts in the queue ──▶ actor ──▶ guest
//!    ▲                 │                     │
//!    │                 │ dropped, at the     └─ frozen, paused: waits, then goes on
//!    │                 ▼ end or anywhere
//!    │              close, again until the guest says so
//!    └──── at most 1 part waits for a client that does not read
//! ```
//!
//! A transfer is a task that owns its handle in the guest: however the request ends, the handle is
//! closed. Its parts have a lane of their own in the VM's queue, behind everything else, and of all
//! transfers of a VM together one chunk is on its way, in [`AHEAD`] parts: while one is answered the
//! next one lies with the agent already. So a freeze or a ping waits for one chunk at most, the link
//! is never idle, and transfers take turns.

mod beneath;
mod chunk;
mod closing;
mod digests;
mod download;
mod error;
mod guest_path;
mod kept;
mod left_open;
mod patience;
mod places;
mod slots;
mod spare;
mod upload;

use std::future::Future;

pub(crate) use self::beneath::Beneath;
pub(crate) use self::digests::Digests;
pub(crate) use self::download::{Download, Opened, Piece};
pub(crate) use self::error::TransferError;
pub(crate) use self::guest_path::GuestPath;
pub(crate) use self::kept::{UploadKey, partial};
pub(crate) use self::left_open::close_left_open;
pub(crate) use self::slots::Transfers;
pub(crate) use self::upload::{Broken, Finish, InPlace, Upload, Written};

/// The most bytes of files that are on their way between a VM's agent and the gateway, and so what
/// anybody else waits for.
pub(crate) const CHUNK: usize = 3 << 16;

/// In how many commands: while one is answered the next is asked for.
pub(in crate::vm) const AHEAD: usize = 2;

/// How many a transfer has asked for: one waits for its turn in the VM's queue, so that the link need not
/// wait for the transfer's task.
const ASKED: usize = AHEAD + 1;

/// Bytes of a file, or of a program's output, in one command. A multiple of three, so that nothing is
/// padded before the end.
pub(crate) const PART: usize = CHUNK / AHEAD;

const _: () = assert!(PART.is_multiple_of(3));

/// Carries something through whose result has to be put away properly, also if nobody waits for
/// it any more.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, TransferError>> + Send + 'static,
) -> Result<T, TransferError> {
    tokio::spawn(work).await.unwrap_or(Err(TransferError::Lost))
}
