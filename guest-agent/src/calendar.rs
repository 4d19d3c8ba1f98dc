//! Days since 1970 and the civil calendar, Gregorian before 1582 too.

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// A day of the civil calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date {
    pub(crate) year: i64,
    /// 1 to 12.
    pub(crate) month: i64,
    /// 1 to 31.
    pub(crate) day: i64,
}

impl Date {
    /// The date so many days after 1970-01-01.
    pub(crate) fn of_days(days: i64) -> Self {
        // Years that begin in March have their leap day at the end; 400 of them are 146,097 days.
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
        }
    }

    /// Days from 1970-01-01 to this date.
    pub(crate) fn days(self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let from_march = (self.month + 9).rem_euclid(12);
        let of_year = (153 * from_march + 2) / 5 + self.day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }
}

/// Whether a year has a 29th of February.
pub(crate) fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// How many days a month (1 to 12) has.
pub(crate) fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_agree_for_a_thousand_years() {
        let mut date = Date { year: 1600, month: 1, day: 1 };
        for days in date.days()..date.days() + 365_250 {
            assert_eq!((date.days(), Date::of_days(days)), (days, date));
            date.day += 1;
            if date.day > days_of_month(date.year, date.month) {
                date = Date { month: date.month + 1, day: 1, ..date };
            }
            if date.month > 12 {
                date = Date { year: date.year + 1, month: 1, ..date };
            }
        }
        assert_eq!(Date { year: 1970, month: 1, day: 1 }.days(), 0);
        assert_eq!(Date { year: 2026, month: 11, day: 22 }.days(), 20_779);
    }
}
