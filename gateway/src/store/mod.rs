//! What outlives the process: freeze leases, and the first answers to repeated requests.
//!
//! The tables in memory are the truth, and this keeps a copy of them on disk. Whoever changes a
//! record says so (`Store::note`, `Store::sync`); a thread of its own asks the table how the
//! record reads *now* and writes all that have changed in one transaction, with one fsync. So a
//! thousand changes that wait at once cost one write, and a record that changes ten times in a
//! moment is written once.
//!
//! ```text
//!   note, sync --> pending --> writer thread: read records, one transaction, fsync
//!                     ^               |
//!                     |               +--- written: whoever waits is told
//!                     +--- failed: those who wait are told, the records stay pending,
//!                          the file is opened anew and tried again
//! ```

mod dir;
mod file;
mod handles;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

pub use dir::{DirError, StateDir};
pub use file::LoadError;
pub(crate) use handles::{HandleLog, LeftOpen};

use crate::metrics::WriteFigures;
use file::File;
use writer::{Pending, Writer};

/// How long a caller waits for the disk. One that takes longer is as good as broken: the caller is
/// told so, and the record is written when the disk is back.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which table a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Freeze leases, by id.
    Lease,
    /// First answers, by the digest of who asked for what under which key.
    Reply,
}

/// Names one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) name: Arc<str>,
}

/// A table whose records are kept on disk.
pub(crate) trait Records: Send + Sync {
    /// How the record reads now; `None`: there is none any more.
    fn record(&self, name: &str) -> Option<Vec<u8>>;
}

/// Everything that was on disk when the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) leases: Vec<(String, Vec<u8>)>,
    pub(crate) replies: Vec<(String, Vec<u8>)>,
}

/// Why a record is not on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway's state cannot be written: {reason}")]
pub struct Unwritable {
    /// The cause.
    pub reason: Arc<str>,
}

/// Keeps tables on disk. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Writer>);

impl Store {
    /// Opens the state in a directory that is held by nobody else. What it holds is taken from it
    /// once, by the tables.
    ///
    /// # Errors
    /// The file is damaged, or a later release wrote it. Nothing in it is changed then.
    pub fn open(dir: StateDir) -> Result<Self, LoadError> {
        let (file, loaded) = File::open(&dir.file())?;
        Ok(Self(Writer::start(file, Some(dir), loaded)))
    }

    /// One that forgets everything with the process.
    pub fn in_memory() -> Self {
        Self(Writer::start(File::in_memory(), None, Loaded::default()))
    }

    /// Where it is kept.
    pub fn path(&self) -> Option<&Path> {
        self.0.dir.as_ref().map(StateDir::path)
    }

    /// How writing goes.
    pub(crate) fn figures(&self) -> &WriteFigures {
        self.0.figures()
    }

    /// How often it has been written to, with one fsync each.
    pub fn commits(&self) -> u64 {
        self.0.commits()
    }

    /// A record that its table cannot read.
    pub(crate) fn damaged(&self, reason: &str) -> LoadError {
        let file = self.0.dir.as_ref().map(StateDir::file).unwrap_or_default();
        LoadError::Damaged { file, reason: reason.to_owned() }
    }

    /// What was on disk at the start; each table asks once.
    pub(crate) fn take(&self, kind: Kind) -> Vec<(String, Vec<u8>)> {
        let mut loaded = self.0.loaded();
        match kind {
            Kind::Lease => std::mem::take(&mut loaded.leases),
            Kind::Reply => std::mem::take(&mut loaded.replies),
        }
    }

    /// From now on, records of this kind are read from that table.
    pub(crate) fn mirror(&self, kind: Kind, records: Weak<dyn Records>) {
        self.0.mirror(kind, records);
    }

    /// A record has changed: it is written before long, and until it is written.
    pub(crate) fn note(&self, key: Key) {
        self.0.push(|pending: &mut Pending| pending.note(key));
    }

    /// As [`note`](Self::note), without waiting for others that could be written with it.
    pub(crate) fn hasten(&self, key: Key) {
        self.0.push(|pending: &mut Pending| pending.hasten(key));
    }

    /// Has these records written together, as they read then, and waits for it. After an error
    /// they may be written later all the same, as they read by then.
    pub(crate) async fn sync(&self, keys: impl IntoIterator<Item = Key>) -> Result<(), Unwritable> {
        let (told, written) = oneshot::channel();
        self.0.push(|pending: &mut Pending| pending.sync(keys, told));
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Unwritable { reason: "the gateway is going down".into() }),
            Err(_) => {
                let reason = format!("the disk has not answered for {} s", PATIENCE.as_secs());
                Err(Unwritable { reason: reason.into() })
            }
        }
    }

    /// Whether the thread that writes still takes up work, within seconds. An error is an answer, and a
    /// disk that hangs is the disk's matter: a gateway that were ended for it could not start again,
    /// and the one that runs still thaws.
    pub(crate) async fn turns(&self) -> bool {
        let (told, written) = oneshot::channel();
        self.0.push(|pending: &mut Pending| pending.sync([], told));
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(answer) => answer.is_ok(),
            Err(_) => self.0.is_at_the_disk(),
        }
    }

    /// Waits until everything that was noted is on disk.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn flush(&self) -> Result<(), Unwritable> {
        self.sync([]).await
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.path()).finish()
    }
}

#[cfg(test)]
mod tests;
