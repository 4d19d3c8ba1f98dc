//! Asking the kernel for its tables of links and addresses.

use std::io;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use super::netlink::{RTM_GETADDR, RTM_GETLINK, Tables, request};

/// The kernel puts at most this into one datagram.
const DATAGRAM: usize = 32 << 10;
/// The kernel answers at once; this only keeps a fault from stopping the agent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers beyond this, in bytes, are no tables of a machine.
const LIMIT: usize = 64 << 20;
/// How often to ask again when a table changed while it was told.
const ATTEMPTS: u32 = 3;

/// Both tables.
pub(super) fn tables() -> io::Result<Tables> {
    let mut tables = Tables::default();
    for _ in 0..ATTEMPTS {
        tables = ask()?;
        if !tables.interrupted {
            break;
        }
    }
    Ok(tables)
}

fn ask() -> io::Result<Tables> {
    let flags = SocketFlags::CLOEXEC;
    // Without a protocol it is number 0, NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let kernel = SocketAddrNetlink::new(0, 0);
    let mut tables = Tables::default();
    let mut datagram = vec![0; DATAGRAM];
    let mut received = 0;
    for (sequence, kind) in [(1, RTM_GETLINK), (2, RTM_GETADDR)] {
        sendto(&socket, &request(kind, sequence), SendFlags::empty(), &kernel)?;
        loop {
            let (_, length) = recv(&socket, &mut datagram[..], RecvFlags::TRUNC)?;
            received += length;
            if received > LIMIT || length > datagram.len() {
                return Err(rustix::io::Errno::MSGSIZE.into());
            }
            if tables.feed(&datagram[..length], sequence)? {
                break;
            }
        }
    }
    Ok(tables)
}
