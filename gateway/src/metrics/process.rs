//! What the process takes of its host, as the kernel says.

use std::time::{Duration, SystemTime};

/// Names and meanings are those that every Prometheus client library has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessFigures {
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_descriptors: u64,
    pub(crate) max_descriptors: Option<u64>,
}

impl ProcessFigures {
    /// As they are now; what cannot be read is 0.
    pub(crate) fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let descriptors = std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or(0);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            // Without the one that reads the directory.
            open_descriptors: (descriptors as u64).saturating_sub(1),
            max_descriptors: limit,
            ..Self::parse(&stat)
        }
    }

    /// `/proc/PID/stat`: `proc_pid_stat(5)`. The name in parentheses may hold anything.
    fn parse(stat: &str) -> Self {
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<u64> = rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        // The state is field 3.
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let millis = (field(14) + field(15)).saturating_mul(1000) / ticks;
        Self {
            cpu: Duration::from_millis(millis),
            threads: field(20),
            virtual_bytes: field(23),
            resident_bytes: field(24).saturating_mul(rustix::param::page_size() as u64),
            ..Self::default()
        }
    }
}

/// Seconds since 1970.
pub(crate) fn timestamp(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_nothing() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 77 4096 3 0";
        let figures = ProcessFigures::parse(stat);
        assert_eq!(figures.threads, 9);
        assert_eq!(figures.virtual_bytes, 4096);
        assert_eq!(figures.resident_bytes, 3 * rustix::param::page_size() as u64);
        assert_eq!(
            figures.cpu,
            Duration::from_millis(200_000 / rustix::param::clock_ticks_per_second())
        );
        let empty = ProcessFigures::parse("");
        assert_eq!((empty.threads, empty.cpu), (0, Duration::ZERO));
        let own = ProcessFigures::now();
        assert!(own.threads > 0 && own.resident_bytes > 0 && own.open_descriptors > 2, "{own:?}");
    }
}
