//! A file on its way out of a guest.

use std::collections::VecDeque;

use bytes::Bytes;
use qga_proto::command::{
    Command as _, FileKind, FileStat, GuestFileOpen, GuestFileRead, XFileOpen,
};
use tokio::sync::mpsc;

use super::chunk::Read;
use super::closing::GuestFile;
use super::patience::Patience;
use super::slots::Transfers;
use super::{ASKED, Beneath, GuestPath, PART, TransferError, detached};
use crate::principal::Principal;
use crate::vm::handle::VmHandle;

/// A file that is open to be read.
#[derive(Debug)]
pub(crate) struct Opened {
    file: GuestFile,
    /// What the guest's kernel says of it, if the agent can tell.
    pub(crate) stat: Option<FileStat>,
    /// Its bytes, where that can be known beforehand.
    pub(crate) size: Option<u64>,
    /// The handle's position.
    at: Option<u64>,
}

impl Opened {
    /// Opens a file; `stat` by an agent that can tell about it.
    pub(crate) async fn open(
        vm: &VmHandle,
        owner: &Principal,
        path: &GuestPath,
        beneath: &Beneath,
        stat: bool,
    ) -> Result<Self, TransferError> {
        let slot = Transfers::begin(vm, owner)?;
        let (vm, path, beneath) = (vm.clone(), path.clone(), beneath.argument());
        detached(async move {
            if stat {
                let (path, path_b64) = path.members();
                let open = XFileOpen { path, path_b64, write: None, beneath };
                let (file, opened) =
                    GuestFile::open(&vm, slot, open, |opened| opened.handle).await?;
                Self::known(file, opened.stat).await
            } else {
                let open = GuestFileOpen { path: path.lossy().into(), mode: Some("r".into()) };
                let (file, _) = GuestFile::open(&vm, slot, open, |handle| *handle).await?;
                let end = file.end().await?;
                // Without an end, it has at least a position: `/proc` and devices. What has none
                // either is a pipe, a socket or a terminal. Read, a pipe without a writer would look
                // like a file without content.
                if end.is_none() && !file.has_positions().await? {
                    return Err(TransferError::NoPositions);
                }
                // Where there is no end to go to, the position is where it was.
                let at = end.is_none().then_some(0);
                Ok(Self { file, stat: None, size: end.filter(is_size), at })
            }
        })
        .await
    }

    async fn known(file: GuestFile, stat: FileStat) -> Result<Self, TransferError> {
        let (size, at) = match stat.kind {
            // In `/proc` and its like files say 0 and have more.
            FileKind::File => (Some(stat.size).filter(|size| *size > 0), Some(0)),
            FileKind::BlockDevice => (file.end().await?.filter(is_size), None),
            FileKind::CharDevice | FileKind::Unknown => (None, Some(0)),
            kind
            @ (FileKind::Directory | FileKind::Symlink | FileKind::Fifo | FileKind::Socket) => {
                return Err(TransferError::NotAFile { kind });
            }
        };
        Ok(Self { file, stat: Some(stat), size, at })
    }

    /// Begins to read at `offset`: `length` bytes, or all there are.
    pub(crate) fn start(self, offset: u64, length: Option<u64>) -> Download {
        let (give, pieces) = mpsc::channel(1);
        let stop = self.file.vm.settings().transfers.stopping().clone();
        let reader = Reader {
            patience: Patience::new(&self.file.vm),
            file: self.file,
            to_ask: length,
            missing: length,
            sent: VecDeque::with_capacity(ASKED),
        };
        let seek = self.at != Some(offset);
        tokio::spawn(async move {
            let gone = give.clone();
            tokio::select! {
                () = gone.closed() => {}
                () = stop.cancelled() => {
                    let _ = give.send(Err(TransferError::Stopping)).await;
                }
                () = reader.run(seek.then_some(offset), give.clone()) => {}
            }
        });
        Download { pieces }
    }
}

/// Directories have their end at the greatest number, and files without a size at none.
fn is_size(end: &u64) -> bool {
    (1..1 << 62).contains(end)
}

/// A file that is being read.
#[derive(Debug)]
pub(crate) struct Download {
    pieces: mpsc::Receiver<Result<Piece, TransferError>>,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    /// There is no more: all that was asked for is there, or the file ends here. Only of a first
    /// piece does that need to be told apart; later, a file that ends too soon is an error.
    pub(crate) last: bool,
}

impl Download {
    /// The next piece. There is at least one, and after the last nothing is to be asked for.
    pub(crate) async fn next(&mut self) -> Result<Piece, TransferError> {
        self.pieces.recv().await.unwrap_or(Err(TransferError::Lost))
    }
}

struct Reader {
    file: GuestFile,
    patience: Patience,
    /// Bytes to be asked for; without a number, until there are no more.
    to_ask: Option<u64>,
    /// Bytes not there yet.
    missing: Option<u64>,
    sent: VecDeque<Read>,
}

impl Reader {
    async fn run(mut self, seek: Option<u64>, give: mpsc::Sender<Result<Piece, TransferError>>) {
        let mut first = true;
        let begun = match seek {
            Some(offset) => self.file.seek(offset).await,
            None => Ok(()),
        };
        if let Err(error) = begun {
            let _ = give.send(Err(error)).await;
            return;
        }
        loop {
            let piece = self.next(first).await;
            first = false;
            let last = !matches!(piece, Ok(Piece { last: false, .. }));
            if let Err(error) = &piece {
                let id = self.file.vm.id();
                tracing::info!(vm.id = %id, "{id}: a download ends early: {error}");
            }
            if give.send(piece).await.is_err() || last {
                return;
            }
        }
    }

    async fn next(&mut self, first: bool) -> Result<Piece, TransferError> {
        loop {
            self.ask().await?;
            // Nothing was to be asked for: a length of none.
            let Some(read) = self.sent.pop_front() else {
                return Ok(Piece { bytes: Bytes::new(), last: true });
            };
            let asked = read.asked;
            let chunk = match read.done().await {
                Ok(chunk) => chunk,
                // It did not run, so whatever runs next reads from where it would have.
                Err(error) => {
                    self.ask_again(asked);
                    self.patience.wait(&GuestFileRead::INFO, error).await?;
                    continue;
                }
            };
            self.patience.renew();
            let count = chunk.bytes.len();
            self.ask_again(asked - count);
            // A `usize` has at most 64 bits.
            self.missing = self.missing.map(|missing| missing - count as u64);
            let ended = chunk.eof || count == 0;
            match self.missing {
                Some(missing @ 1..) if ended && !first => {
                    return Err(TransferError::Shorter { missing });
                }
                _ => {}
            }
            let last = ended || self.missing == Some(0);
            let bytes = Bytes::from(chunk.buffer).slice(chunk.bytes);
            return Ok(Piece { bytes, last });
        }
    }

    /// Keeps reads on their way.
    async fn ask(&mut self) -> Result<(), TransferError> {
        while self.sent.len() < ASKED {
            let count = match self.to_ask {
                Some(left) => usize::try_from(left).map_or(PART, |left| left.min(PART)),
                None => PART,
            };
            if count == 0 {
                break;
            }
            // What is on its way is answered first: the wait is for the next.
            if self.sent.is_empty() {
                self.patience.moving().await?;
            } else if self.patience.is_needed() {
                break;
            }
            match Read::send(&self.file, count) {
                Ok(read) => {
                    self.sent.push_back(read);
                    self.to_ask = self.to_ask.map(|left| left - count as u64);
                }
                Err(_) if !self.sent.is_empty() => break,
                Err(error) => self.patience.wait(&GuestFileRead::INFO, error).await?,
            }
        }
        Ok(())
    }

    fn ask_again(&mut self, count: usize) {
        self.to_ask = self.to_ask.map(|left| left + count as u64);
    }
}
