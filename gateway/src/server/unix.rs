//! The Unix socket: mode 0660, its callers named by the kernel. Or the one that systemd listens on
//! and hands over (socket activation): calls that come during a restart then wait for it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

use super::Listener;
use crate::api::access::Access;
use crate::rights::{Authority, Identity};

const BACKLOG: i32 = 1024;

/// Why the Unix socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// Its directory does not exist.
    #[error(
        "{}: its directory does not exist; make it, or let systemd do so (RuntimeDirectory=)",
        path.display()
    )]
    NoDirectory {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("{}: exists and is no socket", path.display())]
    NotASocket {
        /// The socket.
        path: PathBuf,
    },
    /// Another process serves it.
    #[error("{}: another process already listens there", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening Unix socket. Its file goes when it is dropped, if it is ours.
#[derive(Debug)]
pub struct Unix {
    listener: UnixListener,
    _file: Option<Own>,
    authority: Authority,
}

/// The file of a socket that we have made.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    /// Device and inode, so that no other file is removed.
    identity: (u64, u64),
}

impl Unix {
    /// Listens on `path`. A file left behind by a process that is gone is replaced.
    ///
    /// # Errors
    ///
    /// If the directory is missing, the path is taken, or the system refuses.
    pub fn bind(path: &Path, authority: &Authority) -> Result<Self, UnixError> {
        let io = |source: io::Error| UnixError::Io { path: path.into(), source };
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        if parent.is_some_and(|parent| !parent.is_dir()) {
            return Err(UnixError::NoDirectory { path: path.into() });
        }
        remove_stale(path)?;
        let socket = bind(path).map_err(|errno| match errno {
            Errno::ADDRINUSE => UnixError::InUse { path: path.into() },
            errno => io(errno.into()),
        })?;
        let metadata = fs::symlink_metadata(path).map_err(io)?;
        let listener = StdListener::from(socket);
        let listener = UnixListener::from_std(listener).map_err(io)?;
        let identity = (metadata.dev(), metadata.ino());
        let _file = Some(Own { path: path.into(), identity });
        Ok(Self { listener, _file, authority: authority.clone() })
    }

    /// Serves a socket that somebody else listens on, and goes on listening on.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn inherited(listener: StdListener, authority: &Authority) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Self { listener, _file: None, authority: authority.clone() })
    }

    /// Where it is, if it has a name.
    pub fn path(&self) -> Option<PathBuf> {
        self.listener.local_addr().ok()?.as_pathname().map(Path::to_path_buf)
    }
}

/// Nobody can connect between bind and listen, so the mode is right from the first client on.
fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    chmod(path, Mode::from_raw_mode(0o660))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn remove_stale(path: &Path) -> Result<(), UnixError> {
    let io = |source: io::Error| UnixError::Io { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(UnixError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{}: replacing the socket of a process that is gone", path.display());
            fs::remove_file(path).map_err(io)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io(error)),
        Ok(_) => Err(UnixError::InUse { path: path.into() }),
    }
}

impl Listener for Unix {
    type Opening = (UnixStream, Access);
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Access)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = stream.peer_cred()?;
        // A kernel that does not say has given nothing away: the primary group counts then.
        let groups = qga_peer::groups(&stream).unwrap_or_else(|error| {
            tracing::debug!(%error, "a peer's groups are not known");
            Vec::new()
        });
        let identity = Identity::unix(peer.uid(), peer.gid()).in_groups(groups);
        Ok((stream, Access::Peer(identity, self.authority.clone())))
    }

    async fn open(opening: (UnixStream, Access)) -> io::Result<(UnixStream, Access)> {
        Ok(opening)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "{}: cannot be removed", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::Rules;
    use std::os::unix::fs::PermissionsExt;

    fn authority() -> Authority {
        Authority::new(Rules::default())
    }

    #[tokio::test]
    async fn replaces_a_dead_socket_but_not_a_live_one_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind, as by a killed process");
        let ours = Unix::bind(&path, &authority()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Unix::bind(&path, &authority()), Err(UnixError::InUse { .. })));
        drop(ours);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Unix::bind(&path, &authority()), Err(UnixError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn says_that_the_directory_is_missing_and_leaves_anothers_socket() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Unix::bind(&dir.path().join("none/api.sock"), &authority()).unwrap_err();
        assert!(matches!(missing, UnixError::NoDirectory { .. }));
        let path = dir.path().join("api.sock");
        let ours = Unix::bind(&path, &authority()).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists(), "another's socket now");
    }

    #[tokio::test]
    async fn a_peer_is_in_all_of_its_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let mut unix = Unix::bind(&path, &authority()).unwrap();
        let connect = tokio::task::spawn_blocking(move || {
            std::os::unix::net::UnixStream::connect(path).unwrap()
        });
        let (_stream, access) = unix.accept().await.unwrap();
        let _client = connect.await.unwrap();
        let Access::Peer(identity, _) = access else { panic!("{access:?}") };
        let mut groups = rustix::process::getgroups().unwrap();
        groups.insert(0, rustix::process::getegid());
        let names = groups.iter().map(|group| format!("unix:gid={}", group.as_raw()));
        let known: Vec<_> = identity.groups.iter().map(ToString::to_string).collect();
        assert_eq!(known, names.collect::<Vec<_>>());
    }
}
