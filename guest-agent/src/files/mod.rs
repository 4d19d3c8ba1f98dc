//! Open files, by handle.
//!
//! qemu-ga keeps C streams; these are bare descriptors with the same flags and results. What a
//! client sees differs in one way: written bytes are in the file at once, and an error of the
//! disk is reported by the write that met it, not by a later flush or close.

mod attributes;
mod extensions;
mod failure;
mod leftovers;
mod list;
mod mode;
mod names;
mod place;
mod stat;
mod upload;
mod writeback;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qga_proto::QgaError;
use qga_proto::command::{FileReadBuilder, MAX_READ_COUNT, Whence};
use rustix::fs::{Mode, OFlags, SeekFrom, fstat, seek};
use rustix::io::{self, Errno};

pub(crate) use self::attributes::{Attributes, MAX_MODE, number};
pub(crate) use self::extensions::Beneath;
pub(crate) use self::leftovers::Leftovers;
use self::mode::OpenMode;
use self::upload::Upload;
use crate::policy::{OpenError, Policy};
use crate::state::State;
use crate::{errno, log, sys};

/// Files that may be open at once: well below the usual limit of 1024 descriptors.
pub(crate) const MAX_OPEN: usize = 512;
/// What a read moves at once; a multiple of 3 leaves nothing over in base64.
const PIECE: usize = 96 << 10;
/// Reads up to this size get their buffer without asking for the file's size first.
const PLAIN_READ: usize = 1 << 20;

/// The open files, and the counter that numbers them. It belongs to the file worker, the only
/// thread that touches files.
#[derive(Debug)]
pub(crate) struct FileTable {
    state: State,
    policy: Arc<Policy>,
    files: BTreeMap<i64, OpenFile>,
    /// What new files do not get.
    umask: Mode,
    leftovers: Leftovers,
    /// What an earlier agent left has been removed.
    swept: bool,
}

#[derive(Debug)]
struct OpenFile {
    file: OwnedFd,
    origin: Origin,
}

/// How a file was opened.
#[derive(Debug)]
enum Origin {
    /// As with qemu-ga, whose errors have no member `errno`.
    Stock,
    Extension,
    Upload(Box<Upload>),
}

impl FileTable {
    /// Call it while there is only one thread.
    pub(crate) fn new(state: State, policy: Policy, umask: Mode) -> Self {
        let leftovers = Leftovers::new(state.path().parent().unwrap_or_else(|| Path::new("/")));
        let policy = Arc::new(policy);
        Self { state, policy, files: BTreeMap::new(), umask, leftovers, swept: false }
    }

    /// The rules that it keeps, for others who keep them too.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// Opens a file and returns its handle.
    pub(crate) fn open(&mut self, path: &str, mode: &str) -> Result<i64, QgaError> {
        if !self.has_room(1) {
            return Err(QgaError::generic(format!(
                "failed to open file '{path}' (mode: '{mode}'): {MAX_OPEN} files are open already"
            )));
        }
        let parsed = OpenMode::parse(mode)?;
        let file = open_or_create(&self.policy, path, parsed).map_err(|e| {
            let e = match e {
                OpenError::Errno(e) => errno::text(e),
                OpenError::Forbidden | OpenError::Outside => OpenError::FORBIDDEN.into(),
            };
            QgaError::generic(format!("failed to open file '{path}' (mode: '{mode}'): {e}"))
        })?;
        let unwritable = |_| QgaError::generic("failed to commit persistent state to disk");
        self.keep(OpenFile { file, origin: Origin::Stock }).map_err(unwritable)
    }

    /// Gives an open file its handle.
    fn keep(&mut self, file: OpenFile) -> std::io::Result<i64> {
        let handle = self.state.take_handle().inspect_err(|e| {
            let path = self.state.path().display();
            let e = errno::of(e);
            log::critical(format_args!("failed to write persistent state to {path}: {e}"));
            if let Origin::Upload(upload) = &file.origin {
                upload.discard(&self.leftovers);
            }
        })?;
        self.files.insert(handle, file);
        Ok(handle)
    }

    /// Whether that many descriptors more may be open. An upload has two.
    fn has_room(&self, descriptors: usize) -> bool {
        let uploads = |file: &&OpenFile| matches!(file.origin, Origin::Upload(_));
        let uploads = self.files.values().filter(uploads).count();
        self.files.len() + uploads + descriptors <= MAX_OPEN
    }

    /// Closes a handle. An upload that was not committed leaves nothing.
    pub(crate) fn close(&mut self, handle: i64) -> Result<(), QgaError> {
        self.file(handle)?;
        let Some(OpenFile { file, origin }) = self.files.remove(&handle) else { return Ok(()) };
        if let Origin::Upload(upload) = &origin {
            upload.discard(&self.leftovers);
        }
        sys::descriptor::close(file).map_err(|e| origin.failed("close handle", e))
    }

    /// Reads up to `count` bytes and returns the answer's JSON text. Short of `count`, the file's
    /// end was met, unless a pipe or a terminal has no more for now.
    pub(crate) fn read(&mut self, handle: i64, count: i64) -> Result<Vec<u8>, QgaError> {
        let OpenFile { file, origin } = self.file(handle)?;
        let count = usize::try_from(count)
            .ok()
            .filter(|_| count <= MAX_READ_COUNT)
            .ok_or_else(|| invalid_count(count))?;
        let mut answer = FileReadBuilder::new(expected(file, count));
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE.min(count));
        let mut eof = false;
        while answer.count() < count && !eof {
            let wanted = (count - answer.count()).min(PIECE);
            match io::read(file, &mut piece.spare_capacity_mut()[..wanted]) {
                Ok(([], _)) => eof = true,
                Ok((bytes, _)) => answer.push(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if answer.count() > 0 => break,
                Err(e) => return Err(origin.failed("read file", e)),
            }
        }
        Ok(answer.finish(eof))
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&mut self, handle: i64, mut bytes: &[u8]) -> Result<(), QgaError> {
        let OpenFile { file, origin } = self.file(handle)?;
        while !bytes.is_empty() {
            match io::write(file, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::INTR) => {}
                Err(e) => return Err(origin.failed("write to file", e)),
            }
        }
        Ok(())
    }

    /// Moves the position, and returns it.
    pub(crate) fn seek(
        &mut self,
        handle: i64,
        offset: i64,
        whence: Whence,
    ) -> Result<i64, QgaError> {
        let OpenFile { file, origin } = self.file(handle)?;
        let invalid = || origin.failed("seek file", Errno::INVAL);
        let to = match whence.number() {
            0 => SeekFrom::Start(u64::try_from(offset).map_err(|_| invalid())?),
            1 => SeekFrom::Current(offset),
            2 => SeekFrom::End(offset),
            number => return Err(QgaError::generic(format!("invalid whence code {number}"))),
        };
        let position = seek(file, to).map_err(|e| origin.failed("seek file", e))?;
        i64::try_from(position).map_err(|_| invalid())
    }

    /// Whether the handle exists: the first thing that every command checks. A flush has nothing to
    /// do beyond it, since every write went to the kernel.
    pub(crate) fn exists(&self, handle: i64) -> Result<(), QgaError> {
        self.file(handle).map(drop)
    }

    fn file(&self, handle: i64) -> Result<&OpenFile, QgaError> {
        self.files.get(&handle).ok_or_else(|| unknown(handle))
    }
}

fn unknown(handle: i64) -> QgaError {
    QgaError::generic(format!("handle '{handle}' has not been found"))
}

impl Origin {
    fn failed(&self, what: &str, e: Errno) -> QgaError {
        let error = QgaError::generic(format!("failed to {what}: {}", errno::text(e)));
        match self {
            Self::Stock => error,
            _ => error.with_errno(errno::name(e)),
        }
    }
}

/// qemu-ga's answer to a count that is negative or too large.
pub(crate) fn invalid_count(count: i64) -> QgaError {
    QgaError::generic(format!("value '{count}' is invalid for argument count"))
}

/// Creating comes first and alone, so that a dangling link or another's file is never created
/// through. The mode is 0666 less the umask; qemu-ga leaves every file that it creates at 0666.
fn open_or_create(policy: &Policy, path: &str, mode: OpenMode) -> Result<OwnedFd, OpenError> {
    // qemu-ga carries U+0000 as two bytes that C does not take for an end.
    let bytes = path.as_bytes().iter().flat_map(|byte| match byte {
        0 => &[0xC0, 0x80],
        byte => std::slice::from_ref(byte),
    });
    let path = PathBuf::from(OsString::from_vec(bytes.copied().collect()));
    let open_with = |flags| policy.open(&path, flags, Mode::from_raw_mode(0o666));
    if mode.create {
        match open_with(mode.flags | OFlags::CREATE | OFlags::EXCL) {
            Err(OpenError::Errno(Errno::EXIST)) => {}
            result => return result,
        }
    }
    open_with(mode.flags)
}

/// How many bytes a read is likely to get: a client may ask for 48 MiB of a small file.
fn expected(file: &OwnedFd, count: usize) -> usize {
    if count <= PLAIN_READ {
        return count;
    }
    let left = || {
        let size = u64::try_from(fstat(file).ok()?.st_size).ok()?;
        let left = size.saturating_sub(seek(file, SeekFrom::Current(0)).ok()?);
        usize::try_from(left).ok()
    };
    count.min(left().unwrap_or(0).max(PLAIN_READ))
}
