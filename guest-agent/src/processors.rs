//! The guest's processors: which are online, and what they have done.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use qga_proto::command::{CpuStats, LinuxCpuStats, LoadAverage, LogicalProcessor};
use rustix::io::Errno;

use crate::{bounded, errno};

/// Where the kernel has one directory per processor.
pub(crate) const PROCESSORS: &str = "/sys/devices/system/cpu";

/// All processors, by number. `root` is [`PROCESSORS`] outside of tests.
pub(crate) fn list(root: &Path) -> Result<Vec<LogicalProcessor>, String> {
    let failed = |e: io::Error| {
        format!("failed to read processors in '{}': {}", root.display(), errno::of(&e))
    };
    let mut processors = Vec::new();
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(logical_id) = entry.file_name().to_str().and_then(number) else { continue };
        let (online, can_offline) = match bounded::read(entry.path().join("online"), 16) {
            Ok(text) => (text.first() != Some(&b'0'), true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // It may have been taken out of the machine meanwhile.
                if !entry.path().exists() {
                    continue;
                }
                (true, false)
            }
            Err(e) => return Err(failed(e)),
        };
        processors.push(LogicalProcessor { logical_id, online, can_offline: Some(can_offline) });
    }
    processors.sort_unstable_by_key(|processor| processor.logical_id);
    Ok(processors)
}

/// Takes one processor on- or offline; one that is so already is left alone.
pub(crate) fn set(root: &Path, logical_id: i64, online: bool) -> Result<(), String> {
    let directory = format!("{}/cpu{logical_id}", root.display());
    let failed = |path: &str, e: io::Error| format!("Could not open '{path}': {}", errno::of(&e));
    std::fs::metadata(&directory).map_err(|e| failed(&format!("{directory}/"), e))?;
    let path = format!("{directory}/online");
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let refusal = format!("logical processor #{logical_id} can't be offlined");
            return if online { Ok(()) } else { Err(refusal) };
        }
        Err(e) => return Err(failed(&path, e)),
    };
    let mut state = [0];
    file.read_exact_at(&mut state, 0)
        .map_err(|e| format!("failed to read '{path}': {}", errno::of(&e)))?;
    if (state != *b"0") == online {
        return Ok(());
    }
    let wanted = if online { b"1" } else { b"0" };
    file.write_all_at(wanted, 0).map_err(|e| format!("failed to write '{path}': {}", errno::of(&e)))
}

/// The number in a name such as `cpu7`; `cpufreq` and `cpu` have none.
fn number(name: &str) -> Option<i64> {
    let digits = name.strip_prefix("cpu")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The lines of `/proc/stat` that are for one processor. The kernel counts in ticks; kernels
/// before 2.6.33 have fewer columns.
pub(crate) fn times(stat: &[u8], ticks_per_second: u64) -> Vec<CpuStats> {
    let milliseconds = |ticks: u64| {
        let milliseconds = u128::from(ticks) * 1000 / u128::from(ticks_per_second.max(1));
        u64::try_from(milliseconds).unwrap_or(u64::MAX)
    };
    let line = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        let mut columns = line.split_ascii_whitespace();
        let cpu = number(columns.next()?)?;
        let mut next = || columns.next()?.parse().ok().map(milliseconds);
        Some(CpuStats::Linux(LinuxCpuStats {
            cpu,
            user: next()?,
            nice: next()?,
            system: next()?,
            idle: next()?,
            iowait: next(),
            irq: next(),
            softirq: next(),
            steal: next(),
            guest: next(),
            guestnice: next(),
        }))
    };
    stat.split(|&byte| byte == b'\n').filter_map(line).collect()
}

/// The three averages at the start of `/proc/loadavg`.
pub(crate) fn load(loadavg: &[u8]) -> Result<LoadAverage, Errno> {
    let text = std::str::from_utf8(loadavg).map_err(|_| Errno::INVAL)?;
    let mut columns = text.split_ascii_whitespace();
    let mut next = || {
        let average = columns.next().and_then(|column| column.parse::<f64>().ok());
        average.filter(|average| average.is_finite()).ok_or(Errno::INVAL)
    };
    Ok(LoadAverage { load1m: next()?, load5m: next()?, load15m: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu0", "cpu1", "cpu2", "cpu10", "cpufreq", "cpu"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        for (name, state) in [("cpu1", "1\n"), ("cpu2", "0\n"), ("cpu10", "1\n")] {
            std::fs::write(dir.path().join(name).join("online"), state).unwrap();
        }
        dir
    }

    #[test]
    fn processors_are_listed_by_number() {
        let dir = machine();
        let found: Vec<_> = list(dir.path())
            .unwrap()
            .into_iter()
            .map(|found| (found.logical_id, found.online, found.can_offline.unwrap()))
            .collect();
        let expected = [(0, true, false), (1, true, true), (2, false, true), (10, true, true)];
        assert_eq!(found, expected);
        assert!(
            list(Path::new("/nonexistent")).unwrap_err().ends_with("No such file or directory")
        );
        assert!(!list(Path::new(PROCESSORS)).unwrap().is_empty());
    }

    #[test]
    fn processors_are_set_or_refused() {
        let dir = machine();
        let state = |name: &str| std::fs::read(dir.path().join(name).join("online")).unwrap()[0];
        set(dir.path(), 1, false).unwrap();
        set(dir.path(), 2, true).unwrap();
        set(dir.path(), 10, true).unwrap();
        set(dir.path(), 0, true).unwrap();
        assert_eq!((state("cpu1"), state("cpu2"), state("cpu10")), (b'0', b'1', b'1'));
        let refused = set(dir.path(), 0, false).unwrap_err();
        assert_eq!(refused, "logical processor #0 can't be offlined");
        let unknown = set(Path::new(PROCESSORS), 9999, true).unwrap_err();
        let text = "Could not open '/sys/devices/system/cpu/cpu9999/': No such file or directory";
        assert_eq!(unknown, text);
    }

    #[test]
    fn times_are_in_milliseconds_and_old_kernels_have_fewer() {
        let stat = b"cpu  9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu3 1 2 3 4 5\ncpu4 1 2 3\nintr 1\n";
        let [CpuStats::Linux(first), CpuStats::Linux(second)] = &times(stat, 100)[..] else {
            panic!("two processors")
        };
        assert_eq!((first.cpu, first.user, first.idle, first.guestnice), (0, 10, 40, Some(100)));
        assert_eq!((second.cpu, second.iowait, second.irq), (3, Some(50), None));
        assert_eq!(times(b"cpu0 18446744073709551615 0 0 0", 1).len(), 1);
    }

    #[test]
    fn load_is_three_numbers() {
        let found = load(b"0.10 1.25 12.00 1/100 4711\n").unwrap();
        assert_eq!(found, LoadAverage { load1m: 0.1, load5m: 1.25, load15m: 12.0 });
        for bad in [&b""[..], b"1 2", b"1 nan 2", b"x 1 2", b"\xff"] {
            load(bad).unwrap_err();
        }
    }

    #[test]
    fn no_bytes_panic() {
        fuzz("proc-stat", |bytes| drop(times(bytes, 100)));
        fuzz("proc-loadavg", |bytes| drop(load(bytes)));
    }
}
