//! The clock that runs while the machine is off, for guests without `hwclock`.
//!
//! It shows UTC, or local time where the third line of `/etc/adjtime` says `LOCAL`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::calendar::{DAY, Date};
use crate::sys::rtc::{self, RtcTime};
use crate::{bounded, timezone};

/// The devices, by preference.
const DEVICES: [&str; 3] = ["/dev/rtc", "/dev/rtc0", "/dev/misc/rtc"];

/// A machine's clock, and what it shows.
#[derive(Debug)]
pub(crate) struct HardwareClock {
    device: File,
    zone: Option<Local>,
}

/// Shows local time.
#[derive(Debug)]
struct Local {
    root: PathBuf,
    tz: Option<String>,
}

impl HardwareClock {
    /// The machine's clock; `ENOENT` when it has none.
    pub(crate) fn open() -> io::Result<Self> {
        let root = Path::new("/");
        let adjtime = bounded::read(root.join("etc/adjtime"), bounded::SMALL).unwrap_or_default();
        let local = Local { root: root.to_owned(), tz: std::env::var("TZ").ok() };
        let zone = is_local(&adjtime).then_some(local);
        let mut failure = Errno::NOENT;
        for device in DEVICES {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match open(device, flags, Mode::empty()) {
                Ok(device) => return Ok(Self { device: device.into(), zone }),
                Err(Errno::NOENT | Errno::NXIO | Errno::NODEV) => {}
                Err(e) => failure = e,
            }
        }
        Err(failure.into())
    }

    /// Seconds since 1970 UTC.
    pub(crate) fn read(&self) -> io::Result<i64> {
        let shown = seconds(rtc::read(&self.device)?).ok_or(Errno::INVAL)?;
        Ok(match &self.zone {
            None => shown,
            Some(local) => {
                // Right but for the hour in which the clocks change.
                let near = shown - local.offset(shown);
                shown - local.offset(near)
            }
        })
    }

    /// Sets it to these seconds since 1970 UTC.
    pub(crate) fn set(&self, time: i64) -> io::Result<()> {
        let shown = time + self.zone.as_ref().map_or(0, |local| local.offset(time));
        Ok(rtc::set(&self.device, broken_down(shown).ok_or(Errno::INVAL)?)?)
    }
}

impl Local {
    fn offset(&self, time: i64) -> i64 {
        timezone::offset(&self.root, self.tz.as_deref(), time).seconds
    }
}

/// Three lines: drift, last calibration, and `UTC` or `LOCAL`.
fn is_local(adjtime: &[u8]) -> bool {
    let third = adjtime.split(|&byte| byte == b'\n').nth(2);
    third.is_some_and(|line| line.trim_ascii() == b"LOCAL")
}

fn seconds(shown: RtcTime) -> Option<i64> {
    let month = i64::from(shown.month) + 1;
    let valid = (1..=12).contains(&month) && (1..=31).contains(&shown.day);
    let date = Date { year: i64::from(shown.year) + 1900, month, day: i64::from(shown.day) };
    let of_day =
        (i64::from(shown.hour) * 60 + i64::from(shown.minute)) * 60 + i64::from(shown.second);
    valid.then(|| date.days() * DAY + of_day)
}

fn broken_down(time: i64) -> Option<RtcTime> {
    let date = Date::of_days(time.div_euclid(DAY));
    let of_day = time.rem_euclid(DAY);
    let number = |number: i64| i32::try_from(number).ok();
    Some(RtcTime {
        second: number(of_day % 60)?,
        minute: number(of_day / 60 % 60)?,
        hour: number(of_day / 3600)?,
        day: number(date.day)?,
        month: number(date.month - 1)?,
        year: number(date.year - 1900)?,
        ..RtcTime::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_shows_is_what_was_set() {
        for time in [0, 951_782_400, 1_795_344_437, 3_155_759_999] {
            assert_eq!(seconds(broken_down(time).unwrap()), Some(time));
        }
        let shown = broken_down(1_795_344_437).unwrap();
        let RtcTime { second, minute, hour, day, month, year, .. } = shown;
        assert_eq!((year, month, day, hour, minute, second), (126, 10, 22, 10, 47, 17));
        assert_eq!(seconds(RtcTime { month: 12, day: 1, ..RtcTime::default() }), None);
        assert_eq!(seconds(RtcTime { day: i32::MAX, ..RtcTime::default() }), None);
    }

    #[test]
    fn the_third_line_says_local() {
        assert!(is_local(b"0.0 0 0.0\n0\nLOCAL\n"));
        for utc in [&b""[..], b"0.0 0 0.0\n0\nUTC\n", b"LOCAL\n", b"\xff\n\nLOCALE"] {
            assert!(!is_local(utc));
        }
    }
}
