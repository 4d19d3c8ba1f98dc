//! A name in a directory: what commands work on that change names.
//!
//! The directory is held open, so that whatever is looked at, made and renamed is in the same one,
//! wherever it is moved meanwhile, and so that the policy is asked once.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::failure::Failure;
use crate::policy::Policy;

#[derive(Debug)]
pub(super) struct Place {
    /// Only a place, not opened for reading.
    pub(super) dir: OwnedFd,
    /// Neither `.` nor `..`, and without a slash.
    pub(super) name: CString,
    /// A slash stood behind it, so that it must be a directory.
    pub(super) slash: bool,
}

impl Place {
    /// The place of `path`, links in its directory followed where the policy has nothing against it.
    /// `replaces`: what is done there is to give a file other content, and nothing else.
    pub(super) fn of(policy: &Policy, path: &Path, replaces: bool) -> Result<Self, Failure> {
        let bytes = path.as_os_str().as_bytes();
        let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        let start = bytes[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let (parent, name) = (&bytes[..start], &bytes[start..end]);
        if matches!(name, b"" | b"." | b"..") {
            return Err(NO_NAME);
        }
        let parent = if parent.is_empty() { b"." } else { parent };
        Ok(Self {
            dir: policy.open_parent(Path::new(OsStr::from_bytes(parent)), path, replaces)?,
            name: CString::new(name).map_err(|_| Errno::INVAL)?,
            slash: end < bytes.len(),
        })
    }

    /// What is there now, links not followed.
    pub(super) fn look(&self) -> Result<Option<Stat>, Errno> {
        match statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The place of what the link here leads to. The kernel follows it, by its rules for links in
    /// directories that everybody may write to.
    pub(super) fn behind_link(&self) -> Result<Self, Failure> {
        let lookup = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat(&self.dir, &self.name, lookup, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => Failure::new(e, "it is a link that leads nowhere"),
            e => e.into(),
        })?;
        let stat = fstat(&file)?;
        if kind(&stat) == FileType::Directory {
            return Err(IS_DIRECTORY);
        }
        let place = Self::of(&Policy::default(), &path_of(&file)?, true)?;
        let found = place.look()?.map(|found| (found.st_dev, found.st_ino));
        if found != Some((stat.st_dev, stat.st_ino)) {
            return Err(Failure::new(Errno::STALE, "what the link leads to was moved meanwhile"));
        }
        Ok(place)
    }
}

pub(super) const IS_DIRECTORY: Failure = Failure::new(Errno::ISDIR, "it is a directory");

pub(super) const NO_NAME: Failure = Failure::new(Errno::INVAL, "the path does not end in a name");

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Where this thread finds an open file. Its descriptors are not those of the process.
pub(super) fn proc_path(file: &OwnedFd) -> String {
    format!("/proc/thread-self/fd/{}", file.as_raw_fd())
}

/// The path that an open file has now.
pub(super) fn path_of(file: &OwnedFd) -> Result<PathBuf, Errno> {
    let path = readlinkat(rustix::fs::CWD, proc_path(file), Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

/// The target of a link; what is no UTF-8 is replaced.
pub(super) fn target(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Option<String> {
    let read = || readlinkat(dir, name, Vec::new()).ok();
    let target = (kind(stat) == FileType::Symlink).then(read)??;
    Some(target.to_string_lossy().into_owned())
}
