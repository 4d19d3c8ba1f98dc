//! Parts of files: `Range` of a download, `Content-Range` of an upload (RFC 9110, 14).

/// What a `Range` asks for, of a file of known size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything: no `Range`, one that makes no sense, or several at once.
    Whole,
    /// The bytes from the first to the last.
    Part { first: u64, last: u64 },
    /// None of its bytes are there.
    Nothing,
}

impl Wanted {
    pub(super) fn of(range: &str, size: u64) -> Self {
        let Some((unit, set)) = range.split_once('=') else { return Self::Whole };
        let Some((first, last)) = set.trim().split_once('-') else { return Self::Whole };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let bounds = match (first.trim(), last.trim()) {
            ("", suffix) => number(suffix).map(|suffix| (size.saturating_sub(suffix), u64::MAX)),
            (first, "") => number(first).map(|first| (first, u64::MAX)),
            (first, last) => number(first).zip(number(last)).filter(|(first, last)| first <= last),
        };
        match bounds {
            None => Self::Whole,
            Some((first, _)) if first >= size => Self::Nothing,
            Some((first, last)) => Self::Part { first, last: last.min(size - 1) },
        }
    }
}

/// Where the body of an upload belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first: u64,
    /// Absent: as far as the body goes.
    pub(super) last: Option<u64>,
    /// Whether the content ends here.
    pub(super) is_end: bool,
}

impl Place {
    /// From `bytes 100-199/200`.
    pub(super) fn of(content_range: &str) -> Option<Self> {
        let (unit, rest) = content_range.trim().split_once(' ')?;
        let (range, total) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total) = (number(first)?, number(last)?, number(total.trim())?);
        let fits = unit.eq_ignore_ascii_case("bytes") && first <= last && last < total;
        fits.then_some(Self { first, last: Some(last), is_end: last.checked_add(1) == Some(total) })
    }

    /// A content's rest, from here on.
    pub(super) const fn from(first: u64) -> Self {
        Self { first, last: None, is_end: true }
    }
}

/// Digits; more than fit are more than there are.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_is_understood_as_the_rfc_says() {
        let part = |first, last| Wanted::Part { first, last };
        for (range, size, wanted) in [
            ("bytes=0-0", 10, part(0, 0)),
            ("bytes=3-", 10, part(3, 9)),
            ("bytes=3-99999999999999999999999", 10, part(3, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-30", 10, part(0, 9)),
            ("Bytes = 1-2", 10, part(1, 2)),
            ("bytes=10-", 10, Wanted::Nothing),
            ("bytes=-0", 10, Wanted::Nothing),
            ("bytes=0-", 0, Wanted::Nothing),
            ("bytes=-1", 0, Wanted::Nothing),
            ("bytes=0-1,3-4", 10, Wanted::Whole),
            ("bytes=2-1", 10, Wanted::Whole),
            ("bytes=a-b", 10, Wanted::Whole),
            ("bytes=-", 10, Wanted::Whole),
            ("bytes=--1", 10, Wanted::Whole),
            ("lines=0-1", 10, Wanted::Whole),
            ("", 10, Wanted::Whole),
        ] {
            assert_eq!(Wanted::of(range, size), wanted, "{range} of {size}");
        }
    }

    #[test]
    fn a_content_range_is_whole_or_refused() {
        let place = |first, last, is_end| Place { first, last: Some(last), is_end };
        assert_eq!(Place::of("bytes 0-9/10"), Some(place(0, 9, true)));
        assert_eq!(Place::of("bytes 5-9/100"), Some(place(5, 9, false)));
        for wrong in ["bytes 0-9/*", "bytes */10", "bytes 9-5/10", "bytes 0-10/10", "0-9/10", ""] {
            assert_eq!(Place::of(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within(range in "bytes=[0-9]{0,3}-[0-9]{0,3}(,[0-9]-)?", size in 0..1000u64) {
            if let Wanted::Part { first, last } = Wanted::of(&range, size) {
                prop_assert!(first <= last && last < size);
            }
        }
    }
}
