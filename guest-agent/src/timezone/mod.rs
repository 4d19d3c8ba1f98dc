//! The local time zone: from `TZ`, or from `/etc/localtime`.

mod rule;
mod tzif;

use std::path::{Component, Path, PathBuf};

use crate::bounded;

/// What `/etc/localtime` and the zone database are, in bytes, at most.
const LIMIT: u64 = bounded::SMALL;

/// What local time differs from UTC by, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offset {
    /// Seconds east.
    pub(crate) seconds: i64,
    /// Such as `CEST`, or `+03` where people have no name for it.
    pub(crate) abbreviation: String,
}

impl Offset {
    fn utc() -> Self {
        Self { seconds: 0, abbreviation: "UTC".into() }
    }
}

/// The offset at `time`, in seconds since 1970 UTC. `zone` is the value of `TZ`: the name of a
/// file of the zone database, a path, or a rule as in POSIX, behind an optional colon. Whatever
/// cannot be read is UTC.
pub(crate) fn offset(root: &Path, zone: Option<&str>, time: i64) -> Offset {
    // Far beyond any calendar, and no sum of it with anything overflows.
    let time = time.clamp(-(1 << 40), 1 << 40);
    let file = |path: PathBuf| {
        let bytes = bounded::read(path, LIMIT).ok()?;
        tzif::offset(&bytes, time)
    };
    let found = match zone {
        None => file(root.join("etc/localtime")),
        Some(zone) => {
            let zone = zone.strip_prefix(':').unwrap_or(zone);
            path_of(root, zone).and_then(file).or_else(|| rule::offset(zone.as_bytes(), time))
        }
    };
    found.unwrap_or_else(Offset::utc)
}

/// Only downwards from the database, and absolute paths as they are.
fn path_of(root: &Path, zone: &str) -> Option<PathBuf> {
    let path = Path::new(zone);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let downwards = path.components().all(|part| matches!(part, Component::Normal(_)));
    (downwards && !zone.is_empty()).then(|| root.join("usr/share/zoneinfo").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_comes_from_tz_or_from_localtime() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/tzif");
        let zones = dir.path().join("usr/share/zoneinfo/Europe");
        std::fs::create_dir_all(&zones).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::copy(corpus.join("Europe-Berlin"), zones.join("Berlin")).unwrap();
        std::fs::copy(corpus.join("Asia-Kolkata"), dir.path().join("etc/localtime")).unwrap();
        let summer = 1_782_864_000;
        let kolkata = corpus.join("Asia-Kolkata").display().to_string();
        let cases = [
            (None, 19_800, "IST"),
            (Some("Europe/Berlin"), 7200, "CEST"),
            (Some(":Europe/Berlin"), 7200, "CEST"),
            (Some(kolkata.as_str()), 19_800, "IST"),
            (Some("<+03>-3"), 10_800, "+03"),
            (Some("Nonsense/Zone"), 0, "UTC"),
            (Some("Europe/../Europe/Berlin"), 0, "UTC"),
            (Some(""), 0, "UTC"),
        ];
        for (zone, seconds, abbreviation) in cases {
            let expected = Offset { seconds, abbreviation: abbreviation.into() };
            assert_eq!(offset(dir.path(), zone, summer), expected, "{zone:?}");
        }
        for time in [i64::MIN, i64::MAX] {
            offset(dir.path(), Some("Europe/Berlin"), time);
        }
        assert_eq!(offset(Path::new("/nonexistent"), None, summer), Offset::utc());
    }
}
