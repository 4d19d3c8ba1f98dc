//! Whole files, to and from guests, in chunks.
//!
//! ```text
//!   api ── open ──▶ GuestFile ── start ──▶ task: ≤ 2 chunks in the queue ──▶ actor ──▶ guest
//!    ▲                 │                     │
//!    │                 │ dropped, at the     └─ frozen, paused: waits, then goes on
//!    │                 ▼ end or anywhere
//!    │              close, again until the guest says so
//!    └──── at most 1 chunk waits for a client that does not read
//! ```
//!
//! A transfer is a task that owns its handle in the guest: however the request ends, the handle is
//! closed. Its chunks have a lane of their own in the VM's queue, behind everything else, so that a
//! freeze or a ping waits for the chunks on the wire and no more, and transfers take turns.

mod beneath;
mod chunk;
mod closing;
mod digests;
mod download;
mod error;
mod guest_path;
mod kept;
mod patience;
mod slots;
mod upload;

use std::future::Future;

pub(crate) use self::beneath::Beneath;
pub(crate) use self::digests::Digests;
pub(crate) use self::download::{Download, Opened, Piece};
pub(crate) use self::error::TransferError;
pub(crate) use self::guest_path::GuestPath;
pub(crate) use self::kept::{UploadKey, partial};
pub(crate) use self::slots::Transfers;
pub(crate) use self::upload::{Broken, Finish, InPlace, Upload, Written};

/// Bytes of a file in one command. A multiple of three, so that nothing is padded before the end.
pub(crate) const CHUNK: usize = 3 << 16;

/// Chunks of one transfer that are on their way: while one is answered the next is asked for.
const AHEAD: usize = 2;

/// Carries something through whose result has to be put away properly, also if nobody waits for
/// it any more.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, TransferError>> + Send + 'static,
) -> Result<T, TransferError> {
    tokio::spawn(work).await.unwrap_or(Err(TransferError::Lost))
}
