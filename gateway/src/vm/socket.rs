//! Opens a chardev's socket: no symbolic link is followed, no path is too long, and the process
//! behind it is the expected one.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

use super::Incarnation;

/// A connection, and who is at its other end.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    /// The process that listens; `None` if that cannot be told.
    pub(crate) listener: Option<Incarnation>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nothing is at that path.
    #[error("there is no socket")]
    Absent,
    /// There is something, but no connection to be had from it; the text says what.
    #[error("{0}")]
    Refused(String),
    /// The listener's queue is full of clients that wait.
    #[error("other clients hold the socket and fill its queue")]
    QueueFull,
}

/// Connects to the socket at `path`, whose listener must run as one of `owners` if there are any.
///
/// The path is opened with `O_PATH | O_NOFOLLOW` and connected through `/proc/self/fd`, so what was
/// checked is what is connected, and `sun_path`'s 108 bytes bound nothing. Never blocks. Must be
/// called within a tokio runtime.
pub(crate) fn connect(path: &Path, owners: &[u32]) -> Result<Connection, ConnectError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR => ConnectError::Absent,
        e => refused("opening the socket", e),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(|e| refused("looking at the socket", e))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => {}
        FileType::Symlink => {
            let text = "the path is a symbolic link, and links are not followed";
            return Err(ConnectError::Refused(text.into()));
        }
        _ => return Err(ConnectError::Refused("the path is not a socket".into())),
    }

    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| refused("making a socket", e))?;
    let name = {
        use std::os::fd::AsRawFd as _;
        format!("/proc/self/fd/{}", file.as_raw_fd())
    };
    let address = SocketAddrUnix::new(name).map_err(|e| refused("naming the socket", e))?;
    rustix::net::connect(&socket, &address).map_err(|e| match e {
        Errno::CONNREFUSED => ConnectError::Refused("nobody listens on the socket".into()),
        Errno::AGAIN => ConnectError::QueueFull,
        // The path went away between the two steps, and with it the listener.
        Errno::NOENT => ConnectError::Absent,
        e => refused("connecting", e),
    })?;

    let stream = UnixStream::from_std(StdStream::from(socket))
        .map_err(|e| ConnectError::Refused(format!("registering the connection: {e}")))?;
    let (uid, listener) = peer(&stream)
        .map_err(|e| ConnectError::Refused(format!("asking who listens on the socket: {e}")))?;
    if !owners.is_empty() && !owners.contains(&uid) {
        let text = format!("the socket belongs to user {uid}, who is not an expected owner");
        return Err(ConnectError::Refused(text));
    }
    Ok(Connection { stream, listener })
}

/// Whoever called `listen(2)`, or `connect(2)` if it was the other end that did: the user and the
/// process.
pub(super) fn peer(stream: &UnixStream) -> io::Result<(u32, Option<Incarnation>)> {
    let peer = stream.peer_cred()?;
    Ok((peer.uid(), peer.pid().and_then(|pid| Incarnation::of(pid.unsigned_abs()))))
}

fn refused(doing: &str, errno: Errno) -> ConnectError {
    ConnectError::Refused(format!("{doing}: {}", io::Error::from(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn reason(result: Result<Connection, ConnectError>) -> String {
        result.expect_err("no connection").to_string()
    }

    #[tokio::test]
    async fn says_what_is_in_the_way() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s");
        assert!(matches!(connect(&path, &[]), Err(ConnectError::Absent)));
        assert!(matches!(connect(&path.join("below"), &[]), Err(ConnectError::Absent)));

        std::fs::write(&path, "").expect("write");
        assert_eq!(reason(connect(&path, &[])), "the path is not a socket");
        std::fs::remove_file(&path).expect("remove");

        let listener = UnixListener::bind(&path).expect("bind");
        connect(&path, &[]).expect("connects");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("symlink");
        let said = reason(connect(&link, &[]));
        assert_eq!(said, "the path is a symbolic link, and links are not followed");

        drop(listener);
        assert_eq!(reason(connect(&path, &[])), "nobody listens on the socket");
    }

    #[tokio::test]
    async fn the_listener_must_run_as_an_expected_user() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s");
        let _listener = UnixListener::bind(&path).expect("bind");
        let me = rustix::process::geteuid().as_raw();
        let connection = connect(&path, &[me]).expect("connects");
        assert_eq!(connection.listener, Incarnation::of(std::process::id()));
        let said = reason(connect(&path, &[me + 1]));
        assert!(said.starts_with("the socket belongs to user "), "{said}");
    }

    #[tokio::test]
    async fn a_path_longer_than_sun_path_connects() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("mkdir");
        let short = dir.path().join("s");
        let _listener = UnixListener::bind(&short).expect("bind");
        std::fs::rename(&short, deep.join("s")).expect("rename");
        connect(&deep.join("s"), &[]).expect("connects");
    }

    #[tokio::test]
    async fn a_full_queue_is_neither_absent_nor_an_error_to_wait_on() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s");
        let flags = SocketFlags::CLOEXEC;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .expect("socket");
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).expect("address")).expect("bind");
        rustix::net::listen(&listener, 1).expect("listen");
        let mut held = Vec::new();
        let full = loop {
            match connect(&path, &[]) {
                Ok(connection) if held.len() < 8 => held.push(connection),
                other => break other,
            }
        };
        assert!(matches!(full, Err(ConnectError::QueueFull)), "{full:?}");
    }
}
