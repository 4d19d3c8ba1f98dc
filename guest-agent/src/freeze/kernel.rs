//! What the engine asks of the kernel. A trait, because the engine's tests play a kernel in which
//! filesystems hang.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::mounts::Mounts;
use crate::errno;
use crate::sys::{fsfreeze, threads};

/// How a FIFREEZE ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frozen {
    /// This call froze it.
    Yes,
    /// It cannot freeze, or somebody else froze it before. Neither counts nor fails.
    Skipped,
    /// The freeze as a whole fails, with this text.
    Failed(String),
}

/// The calls may sleep for ever; [`freeze`](Self::freeze) and [`thaw`](Self::thaw) are each made
/// on a thread of their own.
pub(super) trait Kernel: Send + Sync + 'static {
    /// The mount table.
    fn mounts(&self) -> io::Result<Mounts>;
    /// Freezes what is mounted at `path`.
    fn freeze(&self, path: &Path) -> Frozen;
    /// Thaws what is mounted at `path`, however often it was frozen; whether it was at all.
    fn thaw(&self, path: &Path) -> bool;
}

/// The kernel that runs this process.
#[derive(Debug)]
pub(super) struct Linux;

impl Kernel for Linux {
    fn mounts(&self) -> io::Result<Mounts> {
        Mounts::read()
    }

    fn freeze(&self, path: &Path) -> Frozen {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let failed = |what: &str, error: Errno| {
            Frozen::Failed(format!("failed to {what} {}: {}", path.display(), errno::text(error)))
        };
        let directory = match open(path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(error) => return failed("open", error),
        };
        leave_the_channel(&directory);
        match fsfreeze::freeze(&directory) {
            Ok(()) => Frozen::Yes,
            Err(Errno::OPNOTSUPP | Errno::BUSY) => Frozen::Skipped,
            Err(error) => failed("freeze", error),
        }
    }

    fn thaw(&self, path: &Path) -> bool {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(directory) = open(path, flags, Mode::empty()) else { return false };
        leave_the_channel(&directory);
        let mut thawed = false;
        while fsfreeze::thaw(&directory).is_ok() {
            thawed = true;
        }
        thawed
    }
}

/// If this thread gets stuck and the agent is killed, the next agent must be able to open the
/// channel.
fn leave_the_channel(directory: &std::os::fd::OwnedFd) {
    // It fails only for lack of memory, and then nothing is worse than without it.
    let _ = threads::keep_only(directory);
}
