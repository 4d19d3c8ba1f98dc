//! `-d`: into the background.
//!
//! One fork, then a session of its own, `/` as directory and /dev/null as standard streams. The
//! parent stays until the child says that it is ready, and ends with its verdict. Unlike with
//! qemu-ga, whose files ignore the umask, the umask of the daemon is 022: a file that it creates
//! for a client gets the same mode whether it runs in the background or under a service manager.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::{fs, io, pipe, process, stdio};

use crate::sys::process::{Side, fork};

/// What becomes of the process that asked for a daemon.
pub(crate) enum Background {
    /// This is the one that was started; the daemon runs, or has said why not.
    Started(bool),
    /// This is the daemon. It reports success by [`Readiness::report`].
    Daemon(Readiness),
}

/// The daemon's line to the process that waits for it. Dropped without a report, it is a failure.
pub(crate) struct Readiness(File);

impl Readiness {
    /// Lets go of the terminal and tells the waiting process that all is well.
    pub(crate) fn report(mut self) -> std::io::Result<()> {
        let null = fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        stdio::dup2_stdin(&null)?;
        stdio::dup2_stdout(&null)?;
        stdio::dup2_stderr(&null)?;
        self.0.write_all(b"+")
    }
}

/// Forks the daemon. Call it while there is only one thread.
pub(crate) fn become_daemon() -> std::io::Result<Background> {
    let (mine, childs) = pipe::pipe_with(pipe::PipeFlags::CLOEXEC)?;
    if fork()? == Side::Parent {
        drop(childs);
        let mut verdict = Vec::new();
        File::from(mine).read_to_end(&mut verdict)?;
        return Ok(Background::Started(verdict == b"+"));
    }
    drop(mine);
    process::umask(Mode::from_raw_mode(0o022));
    process::setsid()?;
    process::chdir("/")?;
    Ok(Background::Daemon(Readiness(File::from(childs))))
}

/// A pid file: locked as long as the daemon lives, removed when it ends.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: std::path::PathBuf,
    _locked: std::os::fd::OwnedFd,
}

impl PidFile {
    /// Creates, locks and writes the file; fails when another process holds it.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        fs::ftruncate(&file, 0)?;
        io::write(&file, format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Self { path: path.to_owned(), _locked: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::unlink(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_holds_the_pid_while_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.pid");
        let pid_file = PidFile::create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(pid_file);
        assert!(!path.exists());
    }
}
