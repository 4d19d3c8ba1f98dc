//! A file on its way into a guest.
//!
//! ```text
//!   Upload::begin ─▶ created (no name yet) ── bytes ── Finish::Commit ─▶ in its place, whole
//!                │        └─ the sender goes away: kept for a while, Upload::resume goes on
//!                └─▶ direct (written in place) ─ bytes ── Finish::Close ─▶ written
//! ```

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qga_proto::command::{
    Command as _, FileStat, GuestFileFlush, GuestFileOpen, GuestFileWrite, XFileCommit,
    XFileCreate, XFileOpen, XFileSync,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::chunk::Write;
use super::closing::GuestFile;
use super::kept::{self, Claim};
use super::patience::Patience;
use super::slots::Transfers;
use super::spare::Spare;
use super::{ASKED, Beneath, Digests, GuestPath, TransferError, UploadKey, detached};
use crate::principal::Principal;
use crate::vm::call::CallError;
use crate::vm::handle::VmHandle;

/// Between looks whether the guest's disk has what was uploaded: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// How a file is opened that is written where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InPlace {
    /// By an agent without extensions; what is there is cut off.
    Whole,
    /// By an agent without extensions; what is there stays.
    Part,
    /// By an agent with extensions; what is there stays.
    PartExtended,
}

/// How an upload is brought to its end.
#[derive(Debug)]
pub(crate) enum Finish {
    /// Puts a created file in its place.
    Commit {
        /// How.
        commit: XFileCommit,
        /// By an agent that writes it to disk beforehand, beside everything else.
        write_first: bool,
    },
    /// Writes out and closes one that is written in place.
    Close,
    /// There is more to come, in another request.
    Keep,
}

/// What came of an upload.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The file, once it is in its place.
    pub(crate) stat: Option<FileStat>,
    /// Up to where the content is there.
    pub(crate) received: u64,
}

/// What ends an upload before its end, and how much of it the guest has.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) error: TransferError,
    pub(crate) received: u64,
}

/// An upload, from its sender's side. Dropped, it is broken off.
#[derive(Debug)]
pub(crate) struct Upload {
    pieces: Option<mpsc::Sender<Vec<u8>>>,
    finish: Option<oneshot::Sender<Finish>>,
    done: oneshot::Receiver<Result<Written, Broken>>,
    /// What it will replace, as it was at the beginning.
    pub(crate) replaces: Option<FileStat>,
    pub(crate) handle: i64,
    /// Where it begins.
    pub(crate) from: u64,
    received: Arc<AtomicU64>,
    spare: Spare,
}

impl Upload {
    /// Begins a file that appears in its place when it is whole. What breaks off can be gone on
    /// with under `key`.
    pub(crate) async fn create(
        vm: &VmHandle,
        path: &GuestPath,
        key: UploadKey,
        digests: Digests,
    ) -> Result<Self, TransferError> {
        let slot = Transfers::begin(vm, &key.principal)?;
        let (vm, path) = (vm.clone(), path.clone());
        detached(async move {
            let (path, path_b64) = path.members();
            let beneath = key.beneath.argument();
            let create = XFileCreate { path, path_b64, beneath };
            let (file, created) =
                GuestFile::open(&vm, slot, create, |created| created.handle).await?;
            let writer = Writer::new(file, 0, digests, created.replaces);
            Ok(writer.start(Some(key)))
        })
        .await
    }

    /// Begins to write a file where it is, from `offset` on.
    pub(crate) async fn in_place(
        vm: &VmHandle,
        owner: &Principal,
        path: &GuestPath,
        offset: u64,
        beneath: &Beneath,
        how: InPlace,
        digests: Digests,
    ) -> Result<Self, TransferError> {
        let slot = Transfers::begin(vm, owner)?;
        let place = vm.settings().transfers.places.enter(vm.id(), path, how).await?;
        let (vm, path, beneath) = (vm.clone(), path.clone(), beneath.argument());
        detached(async move {
            let mut file = if how == InPlace::PartExtended {
                let (path, path_b64) = path.members();
                let open = XFileOpen { path, path_b64, write: Some(true), beneath };
                GuestFile::open(&vm, slot, open, |opened| opened.handle).await?.0
            } else {
                let mode = if how == InPlace::Whole { "w" } else { "r+" };
                let open = GuestFileOpen { path: path.lossy().into(), mode: Some(mode.into()) };
                GuestFile::open(&vm, slot, open, |handle| *handle).await?.0
            };
            file.keep(place);
            if how != InPlace::Whole {
                // Behind the end there would be a hole that nobody has sent.
                let end = file.end().await?;
                if let Some(end) = end.filter(|end| *end < offset) {
                    return Err(TransferError::Hole { end });
                }
                file.seek(offset).await?;
            }
            Ok(Writer::new(file, offset, digests, None).start(None))
        })
        .await
    }

    /// Goes on at `offset` with one that was broken off, or is about to be.
    pub(crate) async fn resume(
        vm: &VmHandle,
        key: UploadKey,
        offset: u64,
        digests: &Digests,
    ) -> Result<Self, TransferError> {
        let slot = Transfers::begin(vm, &key.principal)?;
        let mut writer = kept::take(vm, &key, offset, digests).await?;
        detached(async move {
            if !writer.file.resume(slot) {
                return Err(TransferError::Forgotten);
            }
            // What was on its way when the link broke may or may not have been written.
            match writer.file.seek(offset).await {
                Ok(()) => Ok(writer.start(Some(key))),
                Err(TransferError::Call { source: CallError::Agent(_), .. }) => {
                    Err(TransferError::Forgotten)
                }
                Err(error) => {
                    let claim = writer.claim(key, CancellationToken::new());
                    claim.keep(*writer);
                    Err(error)
                }
            }
        })
        .await
    }

    /// Up to where the guest has written so far.
    pub(crate) fn written(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A buffer for the next piece.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.spare.take()
    }

    /// Sends a piece; waits until there is room. False: it has ended, ask [`finish`](Self::finish).
    pub(crate) async fn send(&self, piece: Vec<u8>) -> bool {
        match &self.pieces {
            Some(pieces) => pieces.send(piece).await.is_ok(),
            None => false,
        }
    }

    /// Becomes ready when it has ended.
    pub(crate) async fn ended(&self) {
        if let Some(pieces) = &self.pieces {
            pieces.closed().await;
        }
    }

    /// Everything was sent.
    pub(crate) async fn finish(mut self, finish: Finish) -> Result<Written, Broken> {
        let from = self.from;
        if let Some(told) = self.finish.take() {
            let _ = told.send(finish);
        }
        self.pieces = None;
        let lost = Broken { error: TransferError::Lost, received: from };
        self.done.await.unwrap_or(Err(lost))
    }
}

/// The guest's side of an upload.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) file: GuestFile,
    patience: Patience,
    /// Up to where the guest has written.
    received: Arc<AtomicU64>,
    pub(super) digests: Digests,
    pub(super) replaces: Option<FileStat>,
    sent: VecDeque<Write>,
    /// How many may be sent at once.
    ahead: usize,
    spare: Spare,
}

impl Writer {
    fn new(file: GuestFile, at: u64, digests: Digests, replaces: Option<FileStat>) -> Self {
        let patience = Patience::new(&file.vm);
        let received = Arc::new(AtomicU64::new(at));
        let (sent, spare) = (VecDeque::with_capacity(ASKED), Spare::default());
        // An agent without extensions gets one at a time anyway, into the file itself: nothing is to
        // be written behind a part that could not be.
        let ahead = if file.vm.shared().has_extensions() { ASKED } else { 1 };
        Self { file, patience, received, digests, replaces, sent, ahead, spare }
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Writes what comes, as a task of its own.
    fn start(self, key: Option<UploadKey>) -> Upload {
        let (pieces, coming) = mpsc::channel(1);
        let (finish, finished) = oneshot::channel();
        let (told, done) = oneshot::channel();
        let taken_over = CancellationToken::new();
        let (replaces, handle, from) = (self.replaces.clone(), self.file.handle, self.received());
        let (received, spare) = (self.received.clone(), self.spare.clone());
        let claim = key.map(|key| self.claim(key, taken_over.clone()));
        let stop = self.file.vm.settings().transfers.stopping().clone();
        tokio::spawn(async move {
            let mut writer = self;
            let written = {
                let write = pin!(writer.write(coming, finished));
                tokio::select! {
                    written = write => written,
                    () = stop.cancelled() => Err(TransferError::Stopping),
                    () = taken_over.cancelled() => Err(TransferError::TakenOver),
                }
            };
            let received = writer.received();
            if let Err(error) = &written {
                let id = writer.file.vm.id();
                tracing::info!(vm.id = %id, "{id}: an upload ends early: {error}");
            }
            let answer = match written {
                Ok(finish) => writer.finish(finish, claim).await,
                Err(error) => {
                    writer.put_aside(&error, claim).await;
                    Err(Broken { error, received })
                }
            };
            // Nobody need be there any more.
            let _ = told.send(answer);
        });
        let (pieces, finish) = (Some(pieces), Some(finish));
        Upload { pieces, finish, done, replaces, handle, from, received, spare }
    }

    fn claim(&self, key: UploadKey, taken_over: CancellationToken) -> Claim {
        Claim::new(&self.file.vm, key, self.received.clone(), taken_over)
    }

    /// Writes all pieces, until the sender says how it ends.
    async fn write(
        &mut self,
        mut coming: mpsc::Receiver<Vec<u8>>,
        finished: oneshot::Receiver<Finish>,
    ) -> Result<Finish, TransferError> {
        let mut open = true;
        while open || !self.sent.is_empty() {
            tokio::select! {
                piece = coming.recv(), if open && self.sent.len() < self.ahead => match piece {
                    Some(piece) => self.send(piece).await?,
                    None => open = false,
                },
                done = first_done(&mut self.sent) => self.done(done).await?,
            }
        }
        finished.await.map_err(|_| TransferError::SenderGone)
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), TransferError> {
        let bytes = Arc::new(bytes);
        loop {
            // What is on its way comes first, so that nothing is ever written out of order.
            if self.patience.is_needed() {
                self.settle().await?;
                self.patience.moving().await?;
            }
            match Write::send(&self.file, &bytes) {
                Ok(write) => {
                    self.sent.push_back(write);
                    return Ok(());
                }
                Err(error) => {
                    self.settle().await?;
                    self.patience.wait(&GuestFileWrite::INFO, error).await?;
                }
            }
        }
    }

    /// Waits for the answers to all that is on its way.
    async fn settle(&mut self) -> Result<(), TransferError> {
        while !self.sent.is_empty() {
            let done = first_done(&mut self.sent).await;
            self.done(done).await?;
        }
        Ok(())
    }

    /// The first of what was sent is answered.
    async fn done(&mut self, mut done: Result<u64, CallError>) -> Result<(), TransferError> {
        loop {
            let error = match done {
                Ok(wrote) => {
                    let Some(Write { bytes, .. }) = self.sent.pop_front() else { return Ok(()) };
                    self.wrote(&bytes, wrote)?;
                    self.spare.give(bytes);
                    return Ok(());
                }
                Err(error) => error,
            };
            // It did not run, but what was sent behind it may have, in its place. So everything
            // is written anew from where the guest surely is.
            let mut again: Vec<Arc<Vec<u8>>> = Vec::with_capacity(ASKED);
            again.extend(self.sent.pop_front().map(|write| write.bytes));
            while let Some(mut write) = self.sent.pop_front() {
                let _ = write.done().await;
                again.push(write.bytes);
            }
            self.patience.wait(&GuestFileWrite::INFO, error).await?;
            self.file.seek(self.received()).await?;
            for bytes in again {
                loop {
                    match Write::send(&self.file, &bytes) {
                        Ok(write) => break self.sent.push_back(write),
                        Err(error) if self.sent.is_empty() => {
                            self.patience.wait(&GuestFileWrite::INFO, error).await?;
                        }
                        // Told when the one before it is answered.
                        Err(_) => break self.sent.push_back(Write::unsent(bytes)),
                    }
                }
            }
            done = first_done(&mut self.sent).await;
        }
    }

    fn wrote(&mut self, bytes: &[u8], wrote: u64) -> Result<(), TransferError> {
        self.patience.renew();
        let count = usize::try_from(wrote).unwrap_or(usize::MAX).min(bytes.len());
        self.digests.update(&bytes[..count]);
        self.received.fetch_add(wrote, Ordering::Relaxed);
        if count < bytes.len() {
            return Err(TransferError::ShortWrite { wrote, of: bytes.len() });
        }
        Ok(())
    }

    async fn finish(mut self, finish: Finish, claim: Option<Claim>) -> Result<Written, Broken> {
        let received = self.received();
        let broken = |error| Broken { error, received };
        if matches!(finish, Finish::Keep) {
            if let Some(claim) = claim {
                self.spare = Spare::default();
                claim.keep(self);
            }
            return Ok(Written { stat: None, received });
        }
        if let Some(algorithm) = self.digests.mismatch() {
            return Err(broken(TransferError::Digest { algorithm }));
        }
        match finish {
            Finish::Commit { commit, write_first } => {
                if write_first {
                    self.write_out().await.map_err(broken)?;
                }
                let stat = self.file.call(commit).await;
                if stat.is_ok() {
                    self.file.forget();
                }
                stat.map(|stat| Written { stat: Some(stat), received }).map_err(broken)
            }
            Finish::Close | Finish::Keep => {
                let flush = GuestFileFlush { handle: self.file.handle };
                self.file.call(flush).await.map_err(broken)?;
                self.file.close().await.map_err(broken)?;
                Ok(Written { stat: None, received })
            }
        }
    }

    /// Has the guest write to its disk what it has, which may take minutes, before the commit: that
    /// is a change of the guest, and everybody else would wait for it.
    async fn write_out(&self) -> Result<(), TransferError> {
        let until = Instant::now() + self.file.options::<XFileCommit>().timeout;
        let mut pause = FIRST_LOOK;
        // After that the commit tries it.
        while Instant::now() < until {
            if self.file.call(XFileSync { handle: self.file.handle }).await?.done {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
        Ok(())
    }

    /// Keeps what is there for a sender that comes back, if there can be a way to go on.
    async fn put_aside(mut self, error: &TransferError, claim: Option<Claim>) {
        let Some(claim) = claim.filter(|_| error.may_go_on()) else { return };
        // What was sent will be answered, or not.
        while !self.sent.is_empty() {
            let done = first_done(&mut self.sent).await;
            let Some(write) = self.sent.pop_front() else { break };
            if !done.is_ok_and(|wrote| self.wrote(&write.bytes, wrote).is_ok()) {
                break;
            }
        }
        self.sent.clear();
        self.spare = Spare::default();
        claim.keep(self);
    }
}

/// The answer to the first of what was sent; never, if nothing was.
async fn first_done(sent: &mut VecDeque<Write>) -> Result<u64, CallError> {
    match sent.front_mut() {
        Some(write) => write.done().await,
        None => std::future::pending().await,
    }
}
