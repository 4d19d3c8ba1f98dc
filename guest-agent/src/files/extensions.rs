//! What the table does for `x-guest-file-…`. Errors say the number by its name.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use qga_proto::QgaError;
use qga_proto::command::{CreatedFile, Expected, FileList, FileStat, OpenFile as Opened};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::failure::Failure;
use super::list::{MAX_ENTRIES, list};
use super::place::{kind, target};
use super::stat::describe;
use super::upload::Upload;
use super::{FileTable, MAX_OPEN, OpenFile, Origin, names, unknown};
use crate::policy::Policy;
use crate::{errno, log};

/// The directories that a request is to stay beneath, if it says any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beneath<'a>(pub(crate) Option<&'a [PathBuf]>);

/// Too many are open.
const NO_ROOM: Failure = Failure::new(Errno::MFILE, {
    assert!(MAX_OPEN == 512);
    "512 files are open already (an upload counts twice)"
});

impl FileTable {
    /// Removes what an earlier agent left. At the start, unless filesystems are frozen then.
    pub(crate) fn sweep(&mut self) {
        self.swept = true;
        drop(self.leftovers.sweep());
    }

    /// The rules for a request.
    fn rules(&self, beneath: Beneath<'_>) -> Cow<'_, Policy> {
        match beneath.0 {
            None => Cow::Borrowed(&self.policy),
            Some(prefixes) => Cow::Owned(self.policy.narrowed_to(prefixes)),
        }
    }

    /// Whether a path is there, and may be reached.
    pub(crate) fn reach(&self, beneath: Beneath<'_>, path: &Path) -> Result<(), QgaError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reached = self.rules(beneath).open(path, flags, Mode::empty());
        reached
            .map(drop)
            .map_err(|e| Failure::from(e).to(format_args!("reach '{}'", path.display())))
    }

    pub(crate) fn stat(
        &self,
        beneath: Beneath<'_>,
        path: &Path,
        follow: bool,
    ) -> Result<FileStat, QgaError> {
        let look = || {
            let flags = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
            let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
            let file = self.rules(beneath).open(path, flags, Mode::empty())?;
            let stat = fstat(&file)?;
            let target = target(&file, c"", &stat);
            Ok(describe(&stat, target))
        };
        look().map_err(|e: Failure| e.to(format_args!("look at '{}'", path.display())))
    }

    pub(crate) fn stat_open(&self, handle: i64) -> Result<FileStat, QgaError> {
        let file = self.files.get(&handle).ok_or_else(|| not_open(handle))?;
        let stat = fstat(&file.file).map_err(|e| file.origin.failed("look at file", e))?;
        Ok(describe(&stat, None))
    }

    pub(crate) fn list(
        &self,
        beneath: Beneath<'_>,
        path: &Path,
        after: &[u8],
        limit: Option<i64>,
    ) -> Result<FileList, QgaError> {
        let limit = limit.map_or(Some(MAX_ENTRIES), |limit| {
            usize::try_from(limit).ok().filter(|limit| (1..=MAX_ENTRIES).contains(limit))
        });
        let read = || {
            let Some(limit) = limit else {
                return Err(Failure::new(Errno::INVAL, "the limit is not between 1 and 1000"));
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = self.rules(beneath).open(path, flags, Mode::empty())?;
            Ok(list(&dir, after, limit)?)
        };
        read().map_err(|e: Failure| e.to(format_args!("list '{}'", path.display())))
    }

    /// Opens a file that is there, and never waits.
    pub(crate) fn open_existing(
        &mut self,
        beneath: Beneath<'_>,
        path: &Path,
        write: bool,
    ) -> Result<Opened, QgaError> {
        let mut open = || {
            if !self.has_room(1) {
                return Err(NO_ROOM);
            }
            let access = if write { OFlags::WRONLY } else { OFlags::RDONLY };
            let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let file = self.rules(beneath).open(path, flags, Mode::empty())?;
            let stat = fstat(&file)?;
            if kind(&stat) == FileType::Directory {
                let text = "it is a directory; x-guest-file-list lists it";
                return Err(Failure::new(Errno::ISDIR, text));
            }
            let file = OpenFile { file, origin: Origin::Extension };
            Ok(Opened { handle: self.keep(file)?, stat: describe(&stat, None) })
        };
        open().map_err(|e: Failure| e.to(format_args!("open '{}'", path.display())))
    }

    /// Begins an upload.
    pub(crate) fn create(
        &mut self,
        beneath: Beneath<'_>,
        path: &Path,
    ) -> Result<CreatedFile, QgaError> {
        if !self.swept {
            self.sweep();
        }
        let mut begin = || {
            if !self.has_room(2) {
                return Err(NO_ROOM);
            }
            let rules = self.rules(beneath);
            let (upload, file, old) = Upload::begin(&rules, &self.leftovers, path)?;
            let handle = self.keep(OpenFile { file, origin: Origin::Upload(Box::new(upload)) })?;
            Ok(CreatedFile { handle, replaces: old.map(|old| describe(&old, None)) })
        };
        begin().map_err(|e: Failure| e.to(format_args!("create '{}'", path.display())))
    }

    /// Has an upload written to disk, beside everything else. True once that is done.
    pub(crate) fn sync(&self, handle: i64) -> Result<bool, QgaError> {
        let OpenFile { file, origin } = self.files.get(&handle).ok_or_else(|| not_open(handle))?;
        let Origin::Upload(upload) = origin else { return Err(no_upload(handle)) };
        let path = upload.path.display();
        upload.sync(file).map_err(|e| e.to(format_args!("write '{path}' to disk")))
    }

    /// Ends an upload by putting the file into its place.
    pub(crate) fn commit(
        &mut self,
        handle: i64,
        attributes: Attributes,
        expected: &Expected,
    ) -> Result<FileStat, QgaError> {
        let OpenFile { file, origin } =
            self.files.get_mut(&handle).ok_or_else(|| not_open(handle))?;
        let Origin::Upload(upload) = origin else {
            return Err(no_upload(handle));
        };
        let result = upload.commit(file, attributes, expected, self.umask, &self.leftovers);
        let path = upload.path.display();
        let result = result.map_err(|e| e.to(format_args!("commit '{path}'")));
        if result.is_ok() {
            log::info(format_args!("x-guest-file-commit, handle: {handle}, filepath: {path}"));
        }
        if upload.is_committed {
            self.files.remove(&handle);
        }
        result
    }

    pub(crate) fn rename(
        &self,
        beneath: Beneath<'_>,
        from: &Path,
        to: &Path,
        replace: bool,
    ) -> Result<(), QgaError> {
        names::rename(&self.rules(beneath), from, to, replace)
            .map_err(|e| e.to(format_args!("rename '{}' to '{}'", from.display(), to.display())))
    }

    pub(crate) fn remove(
        &self,
        beneath: Beneath<'_>,
        path: &Path,
        expected: &Expected,
    ) -> Result<(), QgaError> {
        names::remove(&self.rules(beneath), path, expected)
            .map_err(|e| e.to(format_args!("remove '{}'", path.display())))
    }

    pub(crate) fn make_directory(
        &self,
        beneath: Beneath<'_>,
        path: &Path,
        mode: Option<u32>,
        parents: bool,
    ) -> Result<(), QgaError> {
        names::make_directory(&self.rules(beneath), path, mode, parents)
            .map_err(|e| e.to(format_args!("make directory '{}'", path.display())))
    }
}

/// The error for a handle of a file that has its name already.
fn no_upload(handle: i64) -> QgaError {
    let text = format!("handle '{handle}' is none of x-guest-file-create");
    QgaError::generic(text).with_errno(errno::name(Errno::INVAL))
}

fn not_open(handle: i64) -> QgaError {
    unknown(handle).with_errno(errno::name(Errno::BADF))
}
