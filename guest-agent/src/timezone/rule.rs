//! Time zones as rules, such as `CET-1CEST,M3.5.0,M10.5.0/3` (POSIX, with RFC 9636's hours beyond
//! a day).

use super::Offset;
use crate::calendar::{DAY, Date, days_of_month, is_leap};

/// What POSIX leaves open and everybody fills with the rule of the United States.
const DEFAULT_DATES: &[u8] = b",M3.2.0,M11.1.0";
const HOUR: i64 = 3600;

/// The offset at `time` by this rule; `None` where it is no rule.
pub(super) fn offset(rule: &[u8], time: i64) -> Option<Offset> {
    let mut text = Text(rule);
    let standard = Offset { abbreviation: text.name()?, seconds: -text.time(24)? };
    if text.0.is_empty() {
        return Some(standard);
    }
    let abbreviation = text.name()?;
    let seconds = match text.0.first() {
        None | Some(b',') => standard.seconds + HOUR,
        Some(_) => -text.time(24)?,
    };
    let summer = Offset { abbreviation, seconds };
    if text.0.is_empty() {
        text = Text(DEFAULT_DATES);
    }
    let (begin, end) = (text.date()?, text.date()?);
    if !text.0.is_empty() {
        return None;
    }
    // Each end of summer time is given in the time that holds until then.
    let year = Date::of_days((time + standard.seconds).div_euclid(DAY)).year;
    let begin = begin.in_year(year) - standard.seconds;
    let end = end.in_year(year) - summer.seconds;
    let is_summer =
        if begin < end { (begin..end).contains(&time) } else { !(end..begin).contains(&time) };
    Some(if is_summer { summer } else { standard })
}

/// When something happens in each year.
#[derive(Clone, Copy, Debug)]
struct Yearly {
    day: Day,
    /// Seconds since midnight of that day.
    time: i64,
}

#[derive(Clone, Copy, Debug)]
enum Day {
    /// 1 to 365; the 29th of February is never counted.
    Julian(i64),
    /// 0 to 365.
    Counted(i64),
    /// Month 1 to 12, week 1 to 5 (the last), weekday 0 (Sunday) to 6.
    Nth { month: i64, week: i64, weekday: i64 },
}

impl Yearly {
    /// Local seconds since 1970.
    fn in_year(self, year: i64) -> i64 {
        let first = Date { year, month: 1, day: 1 }.days();
        let day = match self.day {
            Day::Julian(day) => first + day - 1 + i64::from(is_leap(year) && day >= 60),
            Day::Counted(day) => first + day,
            Day::Nth { month, week, weekday } => {
                let first = Date { year, month, day: 1 }.days();
                // 1970 began on a Thursday.
                let first_weekday = (first + 4).rem_euclid(7);
                let mut day = (weekday - first_weekday).rem_euclid(7) + 7 * (week - 1);
                if day >= days_of_month(year, month) {
                    day -= 7;
                }
                first + day
            }
        };
        day * DAY + self.time
    }
}

/// What is left to read.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn take(&mut self, byte: u8) -> bool {
        match self.0.strip_prefix(&[byte]) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Three letters or more; or letters, digits and signs in angle brackets.
    fn name(&mut self) -> Option<String> {
        let quoted = self.take(b'<');
        let belongs = |byte: &u8| {
            byte.is_ascii_alphabetic()
                || quoted && (byte.is_ascii_digit() || matches!(byte, b'+' | b'-'))
        };
        let end = self.0.iter().position(|byte| !belongs(byte)).unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        if end < 3 || quoted && !self.take(b'>') {
            return None;
        }
        std::str::from_utf8(name).ok().map(str::to_owned)
    }

    fn number(&mut self, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        range.contains(&number).then_some(number)
    }

    /// `[+-]hours[:minutes[:seconds]]`, in seconds.
    fn time(&mut self, most_hours: i64) -> Option<i64> {
        let negative = self.take(b'-');
        if !negative {
            self.take(b'+');
        }
        let mut seconds = self.number(0..=most_hours)? * HOUR;
        if self.take(b':') {
            seconds += self.number(0..=59)? * 60;
            if self.take(b':') {
                seconds += self.number(0..=59)?;
            }
        }
        Some(if negative { -seconds } else { seconds })
    }

    /// `,date[/time]`
    fn date(&mut self) -> Option<Yearly> {
        if !self.take(b',') {
            return None;
        }
        let day = if self.take(b'J') {
            Day::Julian(self.number(1..=365)?)
        } else if self.take(b'M') {
            let month = self.number(1..=12)?;
            let week = self.take(b'.').then(|| self.number(1..=5))??;
            let weekday = self.take(b'.').then(|| self.number(0..=6))??;
            Day::Nth { month, week, weekday }
        } else {
            Day::Counted(self.number(0..=365)?)
        };
        let time = if self.take(b'/') { self.time(167)? } else { 2 * HOUR };
        Some(Yearly { day, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    fn at(rule: &str, time: i64) -> (i64, String) {
        let found = offset(rule.as_bytes(), time).unwrap_or_else(|| panic!("{rule}"));
        (found.seconds, found.abbreviation)
    }

    #[test]
    fn rules_in_north_and_south() {
        let (winter, summer) = (1_767_225_600 + 15 * DAY, 1_767_225_600 + 180 * DAY);
        let cases = [
            ("CET-1CEST,M3.5.0,M10.5.0/3", (3600, "CET"), (7200, "CEST")),
            ("EST5EDT", (-18_000, "EST"), (-14_400, "EDT")),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", (39_600, "AEDT"), (36_000, "AEST")),
            ("IST-1GMT0,M10.5.0,M3.5.0/1", (0, "GMT"), (3600, "IST")),
            ("<+03>-3", (10_800, "+03"), (10_800, "+03")),
            ("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", (-7200, "-02"), (-3600, "-01")),
            ("UTC0", (0, "UTC"), (0, "UTC")),
            ("PST8PDT,J60,300", (-28_800, "PST"), (-25_200, "PDT")),
            ("XXX-5:45:30", (20_730, "XXX"), (20_730, "XXX")),
        ];
        for (rule, (in_winter, winter_name), (in_summer, summer_name)) in cases {
            assert_eq!(at(rule, winter), (in_winter, winter_name.into()), "{rule}");
            assert_eq!(at(rule, summer), (in_summer, summer_name.into()), "{rule}");
        }
    }

    #[test]
    fn changes_come_to_the_second() {
        // 2024 is a leap year: J60 is the 1st of March, 60 is the 29th of February plus one day.
        let march = Date { year: 2024, month: 3, day: 1 }.days() * DAY + 2 * HOUR;
        assert_eq!(at("UTC0DST,J60,J300", march - 1).1, "UTC");
        assert_eq!(at("UTC0DST,J60,J300", march).1, "DST");
        assert_eq!(at("UTC0DST,60,300", march - 1).1, "UTC");
        assert_eq!(at("UTC0DST,60,300", march).1, "DST");
        assert_eq!(at("UTC0DST,59,300", march - DAY).1, "DST");
        // Summer all year round.
        assert_eq!(at("XXX3EDT4,0/0,J365/23", march).1, "EDT");
    }

    #[test]
    fn what_is_no_rule_is_none() {
        let bad = [
            "",
            "A",
            "AB1",
            "CET",
            "CET-25",
            "<+03-3",
            "CET-1CEST,M3.5.0",
            "CET-1CEST,M13.5.0,M1.1.0",
            "CET-1CEST,M3.6.0,M1.1.0",
            "CET-1CEST,M3.5.7,M1.1.0",
            "CET-1CEST,J0,J1",
            "CET-1CEST,366,1",
            "CET-1CEST,M3.5.0,M10.5.0/168",
            "CET-1CEST,M3.5.0,M10.5.0x",
            "UTC99999999999999999999",
        ];
        for rule in bad {
            assert_eq!(offset(rule.as_bytes(), 0), None, "{rule}");
        }
        fuzz("tz-rule", |bytes| {
            for time in [-(1 << 40), 0, 1 << 40] {
                drop(offset(bytes, time));
            }
        });
    }
}
