//! The directory that holds the state: one gateway at a time, and nobody else's business.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A state directory, locked for this process until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It cannot be made, opened or written to.
    #[error("state_dir {}: {source}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may write to it.
    #[error(
        "state_dir {}: it can be written by others than its owner (mode {mode:04o}); chmod 0700 it",
        path.display()
    )]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another gateway runs on it.
    #[error(
        "state_dir {}: another gateway is using it; two would thaw each other's VMs",
        path.display()
    )]
    Taken {
        /// The directory.
        path: PathBuf,
    },
}

impl StateDir {
    /// Makes the directory if it is missing, checks that it can be written to, and locks it.
    ///
    /// # Errors
    /// It cannot be used; the message says what to do.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        let unusable = |source| DirError::Unusable { path: path.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let mode = fs::metadata(path).map_err(unusable)?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(DirError::Open { path: path.into(), mode });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DirError::Taken { path: path.into() }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path.join("state.redb")
    }
}
