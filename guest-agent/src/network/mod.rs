//! The guest's network: interfaces with their addresses and counters, and routes.

mod counters;
mod netlink;
mod query;
mod routes;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use qga_proto::command::{
    InterfaceStatistics, IpAddress, IpAddressType, NetworkInterface, NetworkRoute,
};

use self::netlink::{Address, Link};
use crate::{bounded, errno};

/// Where the kernel has its tables; a test has its own.
pub(crate) const TABLES: &str = "/proc/net";

/// All interfaces, in the order in which the C library's `getifaddrs` has them.
pub(crate) fn interfaces() -> Result<Vec<NetworkInterface>, String> {
    let failed = |e: &std::io::Error| format!("failed to list interfaces: {}", errno::of(e));
    let tables = query::tables().map_err(|e| failed(&e))?;
    // Without them the interfaces are still worth an answer.
    let counters = bounded::read(Path::new(TABLES).join("dev"), bounded::LARGE).unwrap_or_default();
    Ok(assemble(&tables.links, &tables.addresses, &counters::parse(&counters)))
}

/// All routes of the kernel's main view, IPv4 first. Where IPv6 is off there is none for it.
pub(crate) fn routes(tables: &Path) -> Result<Vec<NetworkRoute>, String> {
    let failed =
        |name: &str, e: &std::io::Error| format!("open(\"/proc/net/{name}\"): {}", errno::of(e));
    let read = |name: &str| bounded::read(tables.join(name), bounded::LARGE);
    let mut routes = routes::parse_ipv4(&read("route").map_err(|e| failed("route", &e))?);
    match read("ipv6_route") {
        Ok(table) => routes.extend(routes::parse_ipv6(&table)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("ipv6_route", &e)),
    }
    Ok(routes)
}

/// Links first, then what only labels of addresses name. As qemu-ga has it, an interface without
/// an address has no counters, and so has a label.
fn assemble(
    links: &[Link],
    addresses: &[Address],
    counters: &HashMap<String, InterfaceStatistics>,
) -> Vec<NetworkInterface> {
    let entry = |name: &str, link: &Link| NetworkInterface {
        name: name.to_owned(),
        hardware_address: Some(hardware_address(link.hardware_address)),
        ip_addresses: None,
        statistics: None,
    };
    let mut found: Vec<_> = links.iter().map(|link| entry(&link.name, link)).collect();
    let by_index: HashMap<_, _> = links.iter().map(|link| (link.index, link)).collect();
    let mut places: HashMap<_, _> =
        links.iter().enumerate().map(|(at, link)| (link.name.as_str(), at)).collect();
    for address in addresses {
        // One that came between the two tables is seen the next time.
        let Some(link) = by_index.get(&address.index) else { continue };
        let name = address.label.as_deref().unwrap_or(&link.name);
        let at = *places.entry(name).or_insert_with(|| {
            found.push(entry(name, link));
            found.len() - 1
        });
        let interface = &mut found[at];
        interface.ip_addresses.get_or_insert_default().push(ip_address(address));
        interface.statistics = counters.get(name).copied();
    }
    found
}

fn ip_address(address: &Address) -> IpAddress {
    let (ip_address, ip_address_type) = match address.address {
        IpAddr::V4(address) => (address.to_string(), IpAddressType::Ipv4),
        IpAddr::V6(address) => (ipv6_text(address), IpAddressType::Ipv6),
    };
    IpAddress { ip_address, ip_address_type, prefix: address.prefix.into() }
}

fn hardware_address(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The text of an IPv6 address as the C library's `inet_ntop` has it: unlike the standard library,
/// it writes `::1.2.3.4` for addresses that embed one of IPv4.
fn ipv6_text(address: Ipv6Addr) -> String {
    match address.octets() {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] if (a, b) != (0, 0) => {
            format!("::{a}.{b}.{c}.{d}")
        }
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), hardware_address: [2, 0xfc, 0, 0, 0, 1] }
    }

    fn address(index: u32, label: Option<&str>, text: &str, prefix: u8) -> Address {
        let label = label.map(str::to_owned);
        Address { index, label, address: text.parse().unwrap(), prefix }
    }

    #[test]
    fn labels_are_entries_of_their_own_and_counters_need_an_address() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "eth1")];
        let addresses = [
            address(2, Some("eth0"), "192.0.2.2", 24),
            address(2, Some("eth0:1"), "192.0.2.3", 32),
            address(9, Some("gone"), "192.0.2.4", 32),
            address(2, None, "fe80::1", 64),
        ];
        let counted = InterfaceStatistics { rx_bytes: 7, ..InterfaceStatistics::default() };
        let counters = ["eth0", "eth1"].map(|name| (name.to_owned(), counted)).into();
        let found = assemble(&links, &addresses, &counters);
        let shape: Vec<_> = found
            .iter()
            .map(|interface| {
                let addresses = interface.ip_addresses.iter().flatten();
                let addresses: Vec<_> = addresses.map(|ip| ip.ip_address.as_str()).collect();
                (interface.name.as_str(), addresses, interface.statistics.is_some())
            })
            .collect();
        let expected = [
            ("lo", vec![], false),
            ("eth0", vec!["192.0.2.2", "fe80::1"], true),
            ("eth1", vec![], false),
            ("eth0:1", vec!["192.0.2.3"], false),
        ];
        assert_eq!(shape, expected);
        assert!(found.iter().all(|interface| {
            interface.hardware_address.as_deref() == Some("02:fc:00:00:00:01")
        }));
    }

    #[test]
    fn ipv6_text_is_that_of_inet_ntop() {
        let cases = [
            ("::", "::"),
            ("::1", "::1"),
            ("::ffff", "::ffff"),
            ("::1.2.3.4", "::1.2.3.4"),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
            ("2001:db8:0:1:0:0:0:1", "2001:db8:0:1::1"),
            ("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"),
        ];
        for (address, text) in cases {
            assert_eq!(ipv6_text(address.parse().unwrap()), text);
        }
    }

    #[test]
    fn no_ipv6_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let text = "open(\"/proc/net/route\"): No such file or directory";
        assert_eq!(routes(dir.path()).unwrap_err(), text);
        let line = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        std::fs::write(dir.path().join("route"), format!("Iface …\n{line}")).unwrap();
        assert_eq!(routes(dir.path()).unwrap().len(), 1);
        std::fs::write(dir.path().join("ipv6_route"), "nonsense\n").unwrap();
        assert_eq!(routes(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn this_system_has_a_loopback() {
        let found = interfaces().unwrap();
        let loopback = found.iter().find(|interface| interface.name == "lo").unwrap();
        assert_eq!(loopback.hardware_address.as_deref(), Some("00:00:00:00:00:00"));
    }
}
