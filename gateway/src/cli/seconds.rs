//! Durations on the command line: `90`, `90s`, `5m`, `1h`.

use std::str::FromStr;

/// A whole number of seconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seconds(pub(super) u64);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = match text.chars().last() {
            Some('s') => (&text[..text.len() - 1], 1),
            Some('m') => (&text[..text.len() - 1], 60),
            Some('h') => (&text[..text.len() - 1], 3600),
            _ => (text, 1),
        };
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| number.parse::<u64>().ok()).flatten();
        let seconds = number.and_then(|number| number.checked_mul(unit));
        seconds.filter(|seconds| *seconds > 0).map(Self).ok_or("seconds, or as in 90s, 5m, 1h")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600)] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)));
        }
        for wrong in ["", "0", "s", "-1", "1d", "1.5", "é", "99999999999999999999h", "+1"] {
            assert!(wrong.parse::<Seconds>().is_err(), "{wrong}");
        }
    }
}
