//! Who listens on Unix sockets and who is connected to them: all sockets of this network namespace,
//! by `unix_diag` (see `sock_diag(7)`), and the processes that have them open, by `/proc`.
//!
//! For a person who asks, not for every connection: it is a look at everything.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::printable::printable;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
const UDIAG_SHOW_NAME: u32 = 0x01;
const UDIAG_SHOW_PEER: u32 = 0x04;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// More sockets than a host has; a bound on what is read.
const MOST: usize = 1 << 20;

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name, as the kernel has it.
    pub program: String,
}

/// The Unix sockets of this network namespace, as they were at one moment.
#[derive(Debug, Default)]
pub(crate) struct SocketTable {
    /// By the path that they are bound to: what listens there, and what it has accepted.
    named: HashMap<PathBuf, Vec<Socket>>,
    holders: HashMap<u32, Holder>,
}

#[derive(Debug)]
struct Socket {
    inode: u32,
    listens: bool,
    peer: Option<u32>,
}

impl SocketTable {
    /// Looks at everything. Processes of other users are seen by root alone.
    pub(crate) fn look() -> io::Result<Self> {
        let mut table = Self { named: sockets()?, holders: HashMap::new() };
        table.holders = holders();
        Ok(table)
    }

    /// The processes that listen at `path`, as far as they can be seen.
    pub(crate) fn listeners(&self, path: &Path) -> Vec<Holder> {
        let listening = self.at(path).filter(|socket| socket.listens);
        listening.filter_map(|socket| self.holders.get(&socket.inode)).cloned().collect()
    }

    /// Whether a client that was accepted is connected at `path`, and which, if it can be seen.
    pub(crate) fn client(&self, path: &Path) -> Option<Option<Holder>> {
        let served = self.at(path).find(|socket| !socket.listens && socket.inode != 0)?;
        Some(served.peer.and_then(|peer| self.holders.get(&peer)).cloned())
    }

    fn at<'a>(&'a self, path: &Path) -> impl Iterator<Item = &'a Socket> {
        self.named.get(path).into_iter().flatten()
    }
}

fn sockets() -> io::Result<HashMap<PathBuf, Vec<Socket>>> {
    let netlink = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&netlink, &request(), SendFlags::empty())?;
    let mut found = HashMap::new();
    let mut answer = vec![0; 1 << 16];
    for _ in 0..MOST {
        let (length, _) = rustix::net::recv(&netlink, &mut answer[..], RecvFlags::empty())?;
        if length == 0 || !take(answer.get(..length).unwrap_or_default(), &mut found)? {
            break;
        }
    }
    Ok(found)
}

fn request() -> [u8; 40] {
    let mut bytes = [0; 40];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &40u32.to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    put(8, &1u32.to_ne_bytes());
    put(16, &[1]); // AF_UNIX
    put(20, &u32::MAX.to_ne_bytes()); // any state
    put(28, &(UDIAG_SHOW_NAME | UDIAG_SHOW_PEER).to_ne_bytes());
    bytes
}

/// Takes a packet's messages. False: it was the last.
fn take(mut packet: &[u8], found: &mut HashMap<PathBuf, Vec<Socket>>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed sock_diag answer");
    while packet.len() >= HEADER {
        let length =
            u32_at(packet, 0).and_then(|n| usize::try_from(n).ok()).ok_or_else(malformed)?;
        let message = packet.get(..length).filter(|m| m.len() >= HEADER).ok_or_else(malformed)?;
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(false),
            Some(SOCK_DIAG_BY_FAMILY) => note(message, found),
            _ => return Err(io::Error::other("the kernel does not list Unix sockets")),
        }
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// Sockets that have no path are nobody's chardev.
fn note(message: &[u8], found: &mut HashMap<PathBuf, Vec<Socket>>) {
    let (Some(state), Some(inode)) = (message.get(HEADER + 2), u32_at(message, HEADER + 4)) else {
        return;
    };
    if ![ESTABLISHED, LISTEN].contains(state) {
        return;
    }
    let (mut path, mut peer) = (None, None);
    let mut attributes = message.get(HEADER + MESSAGE..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(4..length) else { return };
        match kind {
            UNIX_DIAG_NAME if value.first() == Some(&b'/') => {
                let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
                path = Some(PathBuf::from(std::ffi::OsStr::from_bytes(&value[..end])));
            }
            UNIX_DIAG_PEER => peer = u32_at(value, 0).filter(|peer| *peer != 0),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    if let Some(path) = path {
        let socket = Socket { inode, listens: *state == LISTEN, peer };
        found.entry(path).or_default().push(socket);
    }
}

/// All processes' open sockets, by inode, as far as this user may see them.
fn holders() -> HashMap<u32, Holder> {
    let mut found = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let path = process.path();
        let mut program = None;
        for fd in fs::read_dir(path.join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'));
            let Some(inode) = inode.and_then(|inode| inode.parse().ok()) else { continue };
            let program = program.get_or_insert_with(|| {
                let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
                printable(name.trim_end())
            });
            // systemd keeps the sockets that it hands over: who serves one is the other.
            let holder = Holder { pid, program: program.clone() };
            if found.get(&inode).is_none_or(|known: &Holder| known.pid == 1) {
                found.insert(inode, holder);
            }
        }
    }
    found
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
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn whatever_the_kernel_answers_does_no_harm() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/sock-diag");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| {
            u64::from(take(bytes, &mut HashMap::new()).is_ok())
        });
    }

    #[test]
    fn tells_who_listens_and_who_is_served() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        let me = std::process::id();
        let table = SocketTable::look().expect("look");
        assert!(table.listeners(&path).iter().all(|holder| holder.pid == me));
        assert_eq!(table.listeners(&path).len(), 1);
        assert_eq!(table.client(&path), None);

        let _client = UnixStream::connect(&path).expect("connect");
        let table = SocketTable::look().expect("look");
        assert_eq!(table.client(&path), None, "it waits in the queue");

        let _served = listener.accept().expect("accept");
        let table = SocketTable::look().expect("look");
        let client = table.client(&path).expect("is served").expect("is seen");
        assert_eq!(client.pid, me);
    }

    #[test]
    fn no_packet_does_harm() {
        let mut found = HashMap::new();
        let mut packet = vec![0; 48];
        packet[0] = 48;
        packet[4] = 20;
        packet[18] = LISTEN;
        for (at, byte) in [(32, 200), (32, 0), (32, 3), (0, 15), (0, 255), (4, 2)] {
            packet[at] = byte;
            let _ = take(&packet, &mut found);
        }
        assert!(found.is_empty());
    }
}
