//! `/proc/net/route` and `/proc/net/ipv6_route`.

use std::net::{Ipv4Addr, Ipv6Addr};

use qga_proto::command::NetworkRoute;

use super::ipv6_text;

/// One line of headings, then
/// `iface destination gateway flags refcnt use metric mask mtu window irtt`: addresses and flags
/// hexadecimal, the rest decimal.
pub(super) fn parse_ipv4(table: &[u8]) -> Vec<NetworkRoute> {
    lines(table).filter_map(ipv4).collect()
}

/// `destination length source length nexthop metric refcnt use flags iface`, all hexadecimal.
pub(super) fn parse_ipv6(table: &[u8]) -> Vec<NetworkRoute> {
    lines(table).filter_map(ipv6).collect()
}

fn lines(table: &[u8]) -> impl Iterator<Item = &str> {
    table.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

fn ipv4(line: &str) -> Option<NetworkRoute> {
    let mut columns = line.split_ascii_whitespace();
    let iface = columns.next()?.to_owned();
    let destination = ipv4_text(columns.next()?)?;
    let gateway = ipv4_text(columns.next()?)?;
    let flags = u32::from_str_radix(columns.next()?, 16).ok()?;
    let mut number = || columns.next()?.parse::<i64>().ok();
    let (refcnt, uses, metric) = (number()?, number()?, number()?);
    let mask = ipv4_text(columns.next()?)?;
    let mut number = || columns.next()?.parse::<i64>().ok();
    let (mtu, window, irtt) = (number()?, number()?, number()?);
    Some(NetworkRoute {
        iface,
        destination,
        metric,
        version: 4,
        gateway: Some(gateway),
        mask: Some(mask),
        irtt: Some(irtt),
        flags: Some(flags.into()),
        refcnt: Some(refcnt),
        uses: Some(uses),
        window: Some(window),
        mtu: Some(mtu),
        ..NetworkRoute::default()
    })
}

fn ipv6(line: &str) -> Option<NetworkRoute> {
    let mut columns = line.split_ascii_whitespace();
    let mut prefix = || {
        let address = u128::from_str_radix(columns.next()?, 16).ok()?;
        let length = u8::from_str_radix(columns.next()?, 16).ok()?;
        Some((ipv6_text(Ipv6Addr::from(address)), length.to_string()))
    };
    let (destination, desprefixlen) = prefix()?;
    let (source, srcprefixlen) = prefix()?;
    let nexthop = u128::from_str_radix(columns.next()?, 16).ok()?;
    let mut number = || u32::from_str_radix(columns.next()?, 16).ok();
    let (metric, refcnt, uses, flags) = (number()?, number()?, number()?, number()?);
    Some(NetworkRoute {
        iface: columns.next()?.to_owned(),
        destination,
        metric: metric.into(),
        version: 6,
        flags: Some(flags.into()),
        refcnt: Some(refcnt.into()),
        uses: Some(uses.into()),
        desprefixlen: Some(desprefixlen),
        source: Some(source),
        srcprefixlen: Some(srcprefixlen),
        nexthop: Some(ipv6_text(Ipv6Addr::from(nexthop))),
        ..NetworkRoute::default()
    })
}

/// The kernel prints the address's bytes as one number in the machine's order.
fn ipv4_text(hexadecimal: &str) -> Option<String> {
    let number = u32::from_str_radix(hexadecimal, 16).ok()?;
    Some(Ipv4Addr::from(number.to_ne_bytes()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    #[cfg(target_endian = "little")]
    #[test]
    fn ipv4_routes() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t4294967295\t00000000\t1500\t7\t9   \n\
            eth0\t000200C0\t00000000\t0001\t-1\t2\t100\t00FFFFFF\t0\t0\t0\n\
            eth0\t000200C0\t00000000\t0001\n";
        let found = parse_ipv4(table.as_bytes());
        let expected = NetworkRoute {
            iface: "eth0".into(),
            destination: "0.0.0.0".into(),
            metric: 4_294_967_295,
            version: 4,
            gateway: Some("192.0.2.1".into()),
            mask: Some("0.0.0.0".into()),
            irtt: Some(9),
            flags: Some(3),
            refcnt: Some(0),
            uses: Some(0),
            window: Some(7),
            mtu: Some(1500),
            ..NetworkRoute::default()
        };
        assert_eq!(found[0], expected);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].destination, "192.0.2.0");
        assert_eq!(found[1].mask.as_deref(), Some("255.255.255.0"));
        assert_eq!(found[1].refcnt, Some(-1));
    }

    #[test]
    fn ipv6_routes_without_signs() {
        let table = "\
            fe800000000000000000000000000000 40 00000000000000000000000000000000 00 \
            fd000000000000000000000000000001 ffffffff 00000002 00000000 80200001     eth0\n\
            fe80 zz\n";
        let found = parse_ipv6(table.as_bytes());
        let expected = NetworkRoute {
            iface: "eth0".into(),
            destination: "fe80::".into(),
            metric: 0xffff_ffff,
            version: 6,
            flags: Some(0x8020_0001),
            refcnt: Some(2),
            uses: Some(0),
            desprefixlen: Some("64".into()),
            source: Some("::".into()),
            srcprefixlen: Some("0".into()),
            nexthop: Some("fd00::1".into()),
            ..NetworkRoute::default()
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn no_bytes_panic() {
        fuzz("proc-net-route", |bytes| drop(parse_ipv4(bytes)));
        fuzz("proc-net-ipv6-route", |bytes| drop(parse_ipv6(bytes)));
    }
}
