//! A socket on which the gateway waits for a VM's QEMU, for chardevs in client mode
//! (`server=off,reconnect=…`).
//!
//! One QEMU is served at a time. Another one waits in the listener's queue until the first hangs up,
//! as clients of a QEMU that listens do: of a VM that migrates within its host, the one that goes is
//! served until it has gone. A process that dies hangs up, so nobody holds the place for ever.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use super::Incarnation;
use super::socket::{Connection, peer};

/// QEMU connects once per VM; there is room for a successor, and for one that it has to outwait.
const BACKLOG: i32 = 4;

/// A socket that waits for QEMU. Its file goes with it.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    path: Arc<Path>,
    /// Device and inode, so that only our own file is removed.
    identity: (u64, u64),
    owners: Box<[u32]>,
}

impl Door {
    /// Listens at `path` for a QEMU that runs as one of `owners`; if there are none, as the gateway
    /// or root. What a process that is gone has left at the path is replaced, and nothing else.
    ///
    /// The socket is made without following links, has its mode before anybody can connect, and may
    /// have a path of any length. Whoever may connect, `SO_PEERCRED` decides who is served.
    pub(super) fn open(path: Arc<Path>, owners: &[u32]) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path of a file"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())
            .map_err(|e| described(&format!("opening {}", parent.display()), &e.into()))?;
        let at = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        make_room(&at)?;
        let me = rustix::process::geteuid().as_raw();
        let others = owners.iter().any(|uid| *uid != me && *uid != 0);
        let mode = Mode::from_raw_mode(if others { 0o666 } else { 0o600 });
        let socket = bind(&at, mode)?;
        rustix::fs::chmodat(&directory, name, mode, AtFlags::empty())?;
        rustix::net::listen(&socket, BACKLOG)?;
        let found = fs::symlink_metadata(&at)?;
        let owners =
            if owners.is_empty() { Box::new([me, 0]) as Box<[u32]> } else { owners.into() };
        Ok(Self {
            listener: UnixListener::from_std(StdListener::from(socket))?,
            path,
            identity: (found.dev(), found.ino()),
            owners,
        })
    }

    /// Whether it is at `path`, and nobody has taken it away.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        *self.path == *path && self.is_there()
    }

    /// Waits for a QEMU that may be served. An error names one that may not.
    pub(super) async fn accept(&self) -> io::Result<Connection> {
        let (stream, _) = self.listener.accept().await?;
        let (uid, process) = peer(&stream)?;
        if !self.owners.contains(&uid) {
            let who = process
                .map_or_else(String::new, |Incarnation { pid, .. }| format!(" (process {pid})"));
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("user {uid}{who} has connected, who is not an expected owner"),
            ));
        }
        Ok(Connection { stream, listener: process })
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The mode is right from the beginning: `fchmod` on a socket is that of the file it will have.
fn bind(at: &Path, mode: Mode) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(socket.as_fd(), mode)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(at)?)
        .map_err(|e| described("making the socket", &e.into()))?;
    Ok(socket)
}

/// Removes a socket on which nobody listens.
fn make_room(at: &Path) -> io::Result<()> {
    let taken = |what: &str| Err(io::Error::new(io::ErrorKind::AlreadyExists, what.to_owned()));
    match fs::symlink_metadata(at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(found) if !found.file_type().is_socket() => {
            return taken("something lies at the path that is no socket");
        }
        Ok(_) => {}
    }
    match StdStream::connect(at) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(at),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => taken("another process listens there already"),
        Err(e) => Err(described("looking who listens there", &e)),
    }
}

fn described(doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn open(path: &Path, owners: &[u32]) -> io::Result<Door> {
        Door::open(path.into(), owners)
    }

    #[tokio::test]
    async fn replaces_what_a_dead_process_left_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s");
        drop(StdListener::bind(&path).expect("bind"));
        let door = open(&path, &[]).expect("the stale one is replaced");
        assert!(door.is_at(&path));
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let said = open(&path, &[]).expect_err("in use").to_string();
        assert_eq!(said, "another process listens there already");
        drop(door);
        assert!(!path.exists(), "it goes with the door");

        fs::write(&path, "").expect("write");
        assert!(open(&path, &[]).expect_err("a file").to_string().contains("no socket"));
        fs::remove_file(&path).expect("remove");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).expect("symlink");
        assert!(open(&path, &[]).is_err(), "a link is not followed");
        assert!(!dir.path().join("elsewhere").exists());
        let said = open(&dir.path().join("no/s"), &[]).expect_err("nowhere").to_string();
        assert!(said.starts_with("opening ") && said.contains("No such file"), "{said}");
    }

    #[tokio::test]
    async fn a_long_path_will_do_and_anothers_file_is_left() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).expect("mkdir");
        let path = deep.join("s");
        let door = open(&path, &[]).expect("listens");
        fs::rename(&path, deep.join("t")).expect("rename");
        assert!(!door.is_at(&path));
        fs::write(&path, "").expect("write");
        drop(door);
        assert!(path.exists(), "not ours");
    }

    #[tokio::test]
    async fn only_expected_users_are_served() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s");
        let me = rustix::process::geteuid().as_raw();
        let door = open(&path, &[]).expect("listens");
        let _qemu = StdStream::connect(&path).expect("connect");
        let connection = door.accept().await.expect("one's own");
        assert_eq!(connection.listener, Incarnation::of(std::process::id()));
        drop(door);
        let door = open(&path, &[me + 1]).expect("listens");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o666, "the kernel tells who it is");
        let _other = StdStream::connect(&path).expect("connect");
        let said = door.accept().await.expect_err("not expected").to_string();
        assert!(said.contains("who is not an expected owner"), "{said}");
    }
}
