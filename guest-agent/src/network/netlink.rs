//! Routing netlink: the kernel's tables of links and addresses, message by message.
//!
//! Numbers are in the machine's byte order, messages and attributes are aligned to 4 bytes
//! (`linux/netlink.h`, `linux/rtnetlink.h`).

use std::net::IpAddr;

use rustix::io::Errno;

/// Message types.
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_GETADDR: u16 = 22;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Flags of a message: it is a request; for the whole table; the table changed meanwhile.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Attributes of a link and of an address.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Length of `nlmsghdr`, `ifinfomsg` and `ifaddrmsg`.
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// As `SIOCGIFHWADDR` has it: cut or filled with zeros, whatever kind of device it is.
    pub(super) hardware_address: [u8; 6],
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// That of its link.
    pub(super) index: u32,
    /// IPv4: the name that it goes by, mostly that of its link.
    pub(super) label: Option<String>,
    pub(super) address: IpAddr,
    /// Length of its network's prefix in bits.
    pub(super) prefix: u8,
}

/// What the kernel has told so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// Something changed while the kernel told; what it told may lack entries.
    pub(super) interrupted: bool,
}

impl Tables {
    /// Takes in one datagram of the answer to request `sequence`; whether it was the last one.
    pub(super) fn feed(&mut self, mut datagram: &[u8], sequence: u32) -> Result<bool, Errno> {
        while let Some((header, payload, rest)) = message(datagram) {
            datagram = rest;
            if header.sequence != sequence {
                continue;
            }
            self.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
            match header.kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => return Err(error(payload)),
                RTM_NEWLINK => self.links.extend(link(payload)),
                RTM_NEWADDR => self.addresses.extend(address(payload)),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// A request for a whole table: of all links, or of all addresses of every family.
pub(super) fn request(kind: u16, sequence: u32) -> [u8; HEADER + LINK_HEADER] {
    let mut message = [0; HEADER + LINK_HEADER];
    // 32 fits.
    message[..4].copy_from_slice(&32_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    message
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The first message: its header, its payload, and what follows it.
fn message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let payload = bytes.get(HEADER..length)?;
    let header =
        Header { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)? };
    Some((header, payload, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// The kernel's number is negative; a message without one is broken.
fn error(payload: &[u8]) -> Errno {
    let number = payload.first_chunk().copied().map(i32::from_ne_bytes);
    // rustix refuses others with a panic.
    let number = number.and_then(i32::checked_neg).filter(|number| (1..4096).contains(number));
    number.map_or(Errno::BADMSG, Errno::from_raw_os_error)
}

fn link(payload: &[u8]) -> Option<Link> {
    let index = u32_at(payload, 4)?;
    let mut name = None;
    let mut hardware_address = [0; 6];
    for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => name = Some(text(value)),
            IFLA_ADDRESS => {
                hardware_address.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
            }
            _ => {}
        }
    }
    Some(Link { index, name: name?, hardware_address })
}

fn address(payload: &[u8]) -> Option<Address> {
    let (family, prefix) = (*payload.first()?, *payload.get(1)?);
    let index = u32_at(payload, 4)?;
    let mut label = None;
    let (mut remote, mut local) = (None, None);
    for (kind, value) in attributes(payload.get(ADDRESS_HEADER..)?) {
        match kind {
            IFA_LABEL => label = Some(text(value)),
            IFA_ADDRESS => remote = ip(family, value),
            // On a point-to-point link the other address is the peer's.
            IFA_LOCAL => local = ip(family, value),
            _ => {}
        }
    }
    Some(Address { index, label, address: local.or(remote)?, prefix })
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)?;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Up to the end or the first NUL.
fn text(value: &[u8]) -> String {
    let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{corpus, fuzz};

    #[test]
    fn constants_are_those_of_the_headers() {
        assert_eq!((RTM_NEWLINK, RTM_GETLINK), (libc::RTM_NEWLINK, libc::RTM_GETLINK));
        assert_eq!((RTM_NEWADDR, RTM_GETADDR), (libc::RTM_NEWADDR, libc::RTM_GETADDR));
        assert_eq!(i32::from(NLMSG_ERROR), libc::NLMSG_ERROR);
        assert_eq!(i32::from(NLMSG_DONE), libc::NLMSG_DONE);
        assert_eq!(i32::from(NLM_F_REQUEST), libc::NLM_F_REQUEST);
        assert_eq!(i32::from(NLM_F_DUMP), libc::NLM_F_DUMP);
        assert_eq!(i32::from(NLM_F_DUMP_INTR), libc::NLM_F_DUMP_INTR);
        assert_eq!((IFLA_ADDRESS, IFLA_IFNAME), (libc::IFLA_ADDRESS, libc::IFLA_IFNAME));
        assert_eq!((IFA_ADDRESS, IFA_LOCAL), (libc::IFA_ADDRESS, libc::IFA_LOCAL));
        assert_eq!(IFA_LABEL, libc::IFA_LABEL);
        assert_eq!(i32::from(AF_INET), libc::AF_INET);
        assert_eq!(i32::from(AF_INET6), libc::AF_INET6);
    }

    /// Recorded with request number 1 on a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn recorded_answers_are_understood() {
        let mut tables = Tables::default();
        for (name, bytes) in corpus("netlink") {
            let last = tables.feed(&bytes, 1).unwrap();
            assert_eq!(last, name.ends_with("done"), "{name}");
        }
        let names: Vec<_> = tables.links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["lo", "tap0", "tap1", "tun0"]);
        let addresses: Vec<_> = tables
            .addresses
            .iter()
            .map(|found| {
                format!("{} {:?} {}/{}", found.index, found.label, found.address, found.prefix)
            })
            .collect();
        let expected = [
            "1 Some(\"lo\") 127.0.0.1/8",
            "2 Some(\"tap0\") 192.0.2.5/24",
            "2 Some(\"tap0:1\") 192.0.2.6/32",
            "2 Some(\"tap0\") 10.0.0.1/30",
            "4 Some(\"tun0\") 203.0.113.9/31",
            "1 None ::1/128",
            "2 None ::c633:6407/96",
            "2 None 2001:db8::5/64",
        ];
        assert_eq!(addresses, expected);
        assert!(!tables.interrupted);
    }

    #[test]
    fn errors_and_strangers() {
        let message = |kind: u16, sequence: u32, payload: &[u8]| {
            let mut message = request(kind, sequence)[..HEADER].to_vec();
            message.extend_from_slice(payload);
            let length = u32::try_from(message.len()).unwrap();
            message[..4].copy_from_slice(&length.to_ne_bytes());
            message
        };
        let mut tables = Tables::default();
        let refusal = message(NLMSG_ERROR, 1, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(tables.feed(&refusal, 1), Err(Errno::PERM));
        assert_eq!(tables.feed(&refusal, 2), Ok(false));
        for broken in [&[][..], &[0; 4], &7_i32.to_ne_bytes(), &i32::MIN.to_ne_bytes(), &[1; 4]] {
            assert_eq!(tables.feed(&message(NLMSG_ERROR, 1, broken), 1), Err(Errno::BADMSG));
        }
        assert_eq!(tables.feed(&message(NLMSG_DONE, 1, &[]), 1), Ok(true));
        assert_eq!(tables, Tables::default());
    }

    #[test]
    fn no_bytes_panic() {
        fuzz("netlink", |bytes| {
            let _ = Tables::default().feed(bytes, 1);
        });
    }
}
