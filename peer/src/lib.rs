//! The supplementary groups of a Unix socket's peer (`SO_PEERGROUPS`, Linux 4.13).
//!
//! A crate of its own because it takes `unsafe`, which the gateway forbids itself, and no crate that
//! the gateway has asks the kernel this. `/proc/PID/status` would be no substitute: by the time that it
//! is read, another process may have the number.

#![expect(unsafe_code, reason = "one system call that no safe wrapper has")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// The most groups that Linux gives a process (`NGROUPS_MAX`).
const MOST: usize = 65_536;
/// What nearly everybody fits into.
const USUAL: usize = 64;

/// The groups that the peer of a connected Unix stream socket had besides its primary one, when it
/// connected (or began to listen, for the one that was connected to).
///
/// # Errors
///
/// If the kernel refuses: it is no such socket, has no peer, or the kernel is older than 4.13.
pub fn groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut room = USUAL;
    loop {
        match ask(&socket, room) {
            // `ERANGE`: more than there was room for.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && room < MOST => room = MOST,
            result => return result,
        }
    }
}

fn ask(socket: &impl AsFd, room: usize) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; room];
    let socket = socket.as_fd().as_raw_fd();
    let mut bytes = libc::socklen_t::try_from(room * size_of::<libc::gid_t>())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `groups` is `bytes` long and initialised, `bytes` is valid for reads and writes, and
    // both live until the call returns; the kernel writes no more than `bytes` says.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // No more than was there before: the kernel says `ERANGE` otherwise.
    groups.truncate(bytes as usize / size_of::<libc::gid_t>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn own() -> Vec<u32> {
        let groups = rustix::process::getgroups().unwrap();
        let mut groups: Vec<_> = groups.into_iter().map(|group| group.as_raw()).collect();
        groups.sort_unstable();
        groups
    }

    #[test]
    fn a_peers_groups_are_those_that_it_had() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut found = groups(&one).unwrap();
        found.sort_unstable();
        assert_eq!(found, own());
    }

    #[test]
    fn too_little_room_is_told_and_not_written_past() {
        let (one, _other) = UnixStream::pair().unwrap();
        if !own().is_empty() {
            assert_eq!(ask(&one, 0).unwrap_err().raw_os_error(), Some(libc::ERANGE));
        }
        assert_eq!(ask(&one, MOST).unwrap().len(), own().len());
    }

    #[test]
    fn what_has_no_peer_is_an_error() {
        let dir = std::env::temp_dir().join(format!("qga-peer-{}", std::process::id()));
        let listener = UnixListener::bind(&dir).unwrap();
        let alone = groups(&listener);
        std::fs::remove_file(&dir).unwrap();
        // A listener's own, or none: never somebody's.
        assert!(alone.is_err() || alone.unwrap().len() == own().len());
        assert!(groups(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
