//! `qga.state.isfrozen`: that filesystems are frozen, for the agent that is started next.
//!
//! Created before the first filesystem freezes and removed when the last one is thawed. That it
//! exists is the message; in it stands which process made it (see [`predecessor`]).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::predecessor;

/// The marker in one state directory.
#[derive(Clone, Debug)]
pub(crate) struct Marker {
    state_dir: PathBuf,
    path: PathBuf,
}

impl Marker {
    /// The marker in `state_dir`.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), path: state_dir.join("qga.state.isfrozen") }
    }

    /// Whether it is there. As for qemu-ga, a marker that cannot be looked at counts as there.
    pub(crate) fn exists(&self) -> bool {
        !matches!(std::fs::metadata(&self.path), Err(e) if e.kind() == io::ErrorKind::NotFound)
    }

    /// The directory that it lies in.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn create(&self) -> io::Result<()> {
        let flags =
            OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let temporary = self.path.with_extension("isfrozen.new");
        let file = rustix::fs::open(&temporary, flags, Mode::RUSR | Mode::WUSR)?;
        File::from(file).write_all(predecessor::myself().as_bytes())?;
        // An agent that is killed here leaves no empty marker, which would be qemu-ga's.
        std::fs::rename(temporary, &self.path)
    }

    /// Whether an agent of this kind made it. qemu-ga leaves it empty.
    pub(super) fn is_ours(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| found.len() > 0)
    }

    /// The process that made it, if it is still there: killed, but with a call in the kernel.
    pub(super) fn predecessor(&self) -> Option<OwnedFd> {
        predecessor::find(&std::fs::read_to_string(&self.path).ok()?)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn comes_and_goes_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker::new(dir.path());
        assert!(!marker.exists());
        marker.create().unwrap();
        assert!(marker.exists());
        let mode = std::fs::metadata(marker.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        marker.remove().unwrap();
        marker.remove().unwrap();
        assert!(!marker.exists());
    }
}
