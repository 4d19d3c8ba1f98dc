//! `/proc/net/dev`: what went through each interface.

use std::collections::HashMap;

use qga_proto::command::InterfaceStatistics;

/// Names with their counters. Two lines of headings, then
/// `name: 8 columns received 8 columns sent`.
pub(super) fn parse(table: &[u8]) -> HashMap<String, InterfaceStatistics> {
    table.split(|&byte| byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<(String, InterfaceStatistics)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = String::from_utf8_lossy(line[..colon].trim_ascii()).into_owned();
    let columns = std::str::from_utf8(&line[colon + 1..]).ok()?;
    let columns: Vec<u64> =
        columns.split_ascii_whitespace().map_while(|column| column.parse().ok()).collect();
    let [
        rx_bytes,
        rx_packets,
        rx_errs,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        tx_errs,
        tx_dropped,
        ..,
    ] = columns[..]
    else {
        return None;
    };
    let counters = InterfaceStatistics {
        rx_bytes,
        rx_packets,
        rx_errs,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errs,
        tx_dropped,
    };
    Some((name, counters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    fn counters_stand_in_their_columns() {
        let table = "Inter-|   Receive | Transmit\n face |bytes packets|bytes packets\n\
                     \x20   lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                     eth0:18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n\
                     short: 1 2 3\n";
        let found = parse(table.as_bytes());
        assert_eq!(found.len(), 2);
        let expected = InterfaceStatistics {
            rx_bytes: 1,
            rx_packets: 2,
            rx_errs: 3,
            rx_dropped: 4,
            tx_bytes: 9,
            tx_packets: 10,
            tx_errs: 11,
            tx_dropped: 12,
        };
        assert_eq!(found["lo"], expected);
        assert_eq!(found["eth0"].rx_bytes, u64::MAX);
    }

    #[test]
    fn no_bytes_panic() {
        fuzz("proc-net-dev", |bytes| drop(parse(bytes)));
    }
}
