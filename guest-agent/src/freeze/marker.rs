//! `qga.state.isfrozen`: that filesystems are frozen, for the agent that is started next.
//!
//! Created before the first filesystem freezes and removed when the last one is thawed. It is
//! empty; that it exists is the message.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

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
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(())
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
