//! `/proc/diskstats`: counters of all block devices.
//!
//! A line has major and minor number, name and counters: 4 of them (partitions of Linux 2.6), 11,
//! 15 with those of discards (4.18), 17 with those of flushes (5.5).

use qga_proto::command::{DiskStats, DiskStatsInfo};

/// Reads the table. Lines of another form are passed over.
pub(crate) fn parse(table: &[u8]) -> Vec<DiskStatsInfo> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<DiskStatsInfo> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let major = fields.next()?.parse::<u32>().ok()?.into();
    let minor = fields.next()?.parse::<u32>().ok()?.into();
    let name = fields.next()?.to_owned();
    let counters: Option<Vec<u64>> = fields.map(|field| field.parse().ok()).collect();
    Some(DiskStatsInfo { name, major, minor, stats: statistics(&counters?)? })
}

fn statistics(counters: &[u64]) -> Option<DiskStats> {
    let mut stats = DiskStats::default();
    if let &[read_ios, read_sectors, write_ios, write_sectors] = counters {
        stats.read_ios = Some(read_ios);
        stats.read_sectors = Some(read_sectors);
        stats.write_ios = Some(write_ios);
        stats.write_sectors = Some(write_sectors);
        return Some(stats);
    }
    let fields = [
        &mut stats.read_ios,
        &mut stats.read_merges,
        &mut stats.read_sectors,
        &mut stats.read_ticks,
        &mut stats.write_ios,
        &mut stats.write_merges,
        &mut stats.write_sectors,
        &mut stats.write_ticks,
        &mut stats.ios_pgr,
        &mut stats.total_ticks,
        &mut stats.weight_ticks,
        &mut stats.discard_ios,
        &mut stats.discard_merges,
        &mut stats.discard_sectors,
        &mut stats.discard_ticks,
        &mut stats.flush_ios,
        &mut stats.flush_ticks,
    ];
    // A group that is not there whole is not there.
    let known = [17, 15, 11].into_iter().find(|&known| counters.len() >= known)?;
    for (field, &counter) in fields.into_iter().zip(&counters[..known]) {
        *field = Some(counter);
    }
    Some(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kernels_columns_are_known() {
        let table = b"\
   8       0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17
   8       1 sda1 1 2 3 4
   8       2 sda2 1 2 3 4 5 6 7 8 9 10 11
   8       3 sda3 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
   8       4 sda4 1 2 3
   8       5 sda5 1 2 3 x
   x       5 sda6 1 2 3 4
";
        let [whole, part, old, cut] = &parse(table)[..] else { panic!() };
        assert_eq!((whole.name.as_str(), whole.major, whole.minor), ("sda", 8, 0));
        assert_eq!((whole.stats.read_ios, whole.stats.flush_ticks), (Some(1), Some(17)));
        assert_eq!((whole.stats.ios_pgr, whole.stats.discard_ios), (Some(9), Some(12)));
        let four = &part.stats;
        let four = [four.read_ios, four.read_sectors, four.write_ios, four.write_sectors];
        assert_eq!(four, [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(part.stats.read_ticks, None);
        assert_eq!((old.stats.weight_ticks, old.stats.discard_ios), (Some(11), None));
        assert_eq!((cut.stats.discard_ticks, cut.stats.flush_ios), (Some(15), None));
    }

    #[test]
    fn real_tables_are_read_whole() {
        for file in std::fs::read_dir("tests/corpus/diskstats").unwrap() {
            let table = std::fs::read(file.unwrap().path()).unwrap();
            let lines = table.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
            assert_eq!(parse(&table).len(), lines.count());
        }
    }

    proptest! {
        #[test]
        fn no_table_panics(table: Vec<u8>) {
            parse(&table);
        }

        #[test]
        fn no_line_of_numbers_panics(table in "([0-9]{1,3} ){2}[a-z]{1,3}( [0-9]{1,22}){0,20}\n") {
            parse(table.as_bytes());
        }
    }
}
