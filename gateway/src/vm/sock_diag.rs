//! One question to the kernel about a connected Unix socket: has the other end been accepted?
//!
//! A QEMU chardev serves one client. Further ones connect without an error, wait in the
//! listener's accept queue, and whatever they write waits with them. From the client's side
//! nothing differs from an agent that is silent; `unix_diag` (see `sock_diag(7)`) knows better:
//! the peer of a connection that nobody accepted has no inode yet, so it is reported as 0.
//!
//! The question is about our own socket, so it needs no privilege and holds in every network
//! namespace, whichever the listener lives in.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// What the kernel knows about the far end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FarEnd {
    /// The listener has accepted the connection.
    pub(crate) accepted: bool,
    /// Something that was written here has not been read there.
    pub(crate) unread: bool,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const UDIAG_SHOW_PEER: u32 = 0x04;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
const UNIX_DIAG_SHUTDOWN: u16 = 6;
const NLMSG_HEADER: usize = 16;
const UNIX_DIAG_REQUEST: usize = 24;
const UNIX_DIAG_MESSAGE: usize = 16;

/// Asks about a connected Unix stream socket. Never blocks: the kernel answers within the send.
pub(crate) fn far_end(socket: impl AsFd) -> io::Result<FarEnd> {
    let inode = rustix::fs::fstat(&socket)?.st_ino;
    let inode = u32::try_from(inode).map_err(|_| io::ErrorKind::Unsupported)?;
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&netlink, &request(inode), SendFlags::empty())?;
    let mut answer = [0; 512];
    let (length, _) = rustix::net::recv(&netlink, &mut answer, RecvFlags::DONTWAIT)?;
    parse(answer.get(..length).unwrap_or(&answer), inode)
}

fn request(inode: u32) -> [u8; NLMSG_HEADER + UNIX_DIAG_REQUEST] {
    const LENGTH: u32 = 40;
    const ANY_COOKIE: u32 = u32::MAX;
    let mut bytes = [0; NLMSG_HEADER + UNIX_DIAG_REQUEST];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &LENGTH.to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(8, &1u32.to_ne_bytes());
    put(16, &[1]); // AF_UNIX
    put(20, &u32::MAX.to_ne_bytes()); // any state
    put(24, &inode.to_ne_bytes());
    put(28, &(UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN).to_ne_bytes());
    put(32, &ANY_COOKIE.to_ne_bytes());
    put(36, &ANY_COOKIE.to_ne_bytes());
    bytes
}

fn parse(answer: &[u8], inode: u32) -> io::Result<FarEnd> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed sock_diag answer");
    match u16_at(answer, 4).ok_or_else(malformed)? {
        NLMSG_ERROR => {
            let code = u32_at(answer, NLMSG_HEADER).ok_or_else(malformed)?.cast_signed();
            return Err(io::Error::from_raw_os_error(code.saturating_neg()));
        }
        SOCK_DIAG_BY_FAMILY => {}
        _ => return Err(malformed()),
    }
    if u32_at(answer, NLMSG_HEADER + 4) != Some(inode) {
        return Err(malformed());
    }
    let mut attributes = answer.get(NLMSG_HEADER + UNIX_DIAG_MESSAGE..).ok_or_else(malformed)?;
    let mut peer = None;
    let mut hung_up = false;
    let mut unread = 0;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length).ok_or_else(malformed)?;
        match kind {
            UNIX_DIAG_PEER => peer = u32_at(value, 0),
            UNIX_DIAG_RQLEN => unread = u32_at(value, 4).ok_or_else(malformed)?,
            UNIX_DIAG_SHUTDOWN => hung_up = value.first().is_some_and(|mask| *mask != 0),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    // A peer that hung up has no inode any more, but it has shut our end down.
    Ok(FarEnd { accepted: hung_up || peer != Some(0), unread: unread != 0 })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn whatever_the_kernel_answers_does_no_harm() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/sock-diag");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| u64::from(parse(bytes, 7).is_ok()));
    }

    #[test]
    fn tells_a_connection_that_waits_from_one_that_was_accepted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        let mut first = UnixStream::connect(&path).expect("connect");
        assert!(!far_end(&first).expect("sock_diag").accepted, "nobody has accepted yet");

        let (mut served, _) = listener.accept().expect("accept");
        let second = UnixStream::connect(&path).expect("connect");
        assert_eq!(far_end(&first).expect("ask"), FarEnd { accepted: true, unread: false });
        assert!(!far_end(&second).expect("ask").accepted, "waits behind the first");

        first.write_all(b"x").expect("write");
        assert_eq!(far_end(&first).expect("ask"), FarEnd { accepted: true, unread: true });
        served.read_exact(&mut [0]).expect("read");
        assert!(!far_end(&first).expect("ask").unread);

        drop(served);
        assert!(far_end(&first).expect("ask").accepted, "hung up is not waiting");
        let _served = listener.accept().expect("accept");
        assert!(far_end(&second).expect("ask").accepted);
    }

    #[test]
    fn anything_else_than_a_unix_socket_is_an_error() {
        let file = tempfile::tempfile().expect("temporary file");
        assert!(far_end(&file).is_err());
    }

    #[test]
    fn a_malformed_answer_is_an_error() {
        assert!(parse(&[], 1).is_err());
        assert!(parse(&[0; 64], 1).is_err());
        let mut answer = [0; 40];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[20..24].copy_from_slice(&1u32.to_ne_bytes());
        answer[32..34].copy_from_slice(&3u16.to_ne_bytes()); // shorter than its own header
        assert!(parse(&answer, 1).is_err());
    }
}
