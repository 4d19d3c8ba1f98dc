//! Files of the zone database (RFC 9636), read for one moment.
//!
//! Version 1 has 32-bit times. Later versions repeat everything with 64-bit times, which is what
//! is read where it is, and end with a rule for the time after the last transition.

use super::{Offset, rule};

const MAGIC: &[u8; 4] = b"TZif";
const HEADER: usize = 44;
/// Offset, whether it is summer time, index of the abbreviation.
const KIND: usize = 6;

/// The offset at `time`; `None` where the file is broken.
pub(super) fn offset(file: &[u8], time: i64) -> Option<Offset> {
    let first = Block::parse(file, 4)?;
    if first.version < b'2' {
        return first.at(time);
    }
    let block = Block::parse(file.get(first.length..)?, 8)?;
    let footer = file.get(first.length + block.length..)?;
    if block.last_transition().is_none_or(|last| time >= last)
        && let Some(rule) = footer.strip_prefix(b"\n")
        && let Some(rule) = rule.split(|&byte| byte == b'\n').next()
        && let Some(offset) = rule::offset(rule, time)
    {
        return Some(offset);
    }
    block.at(time)
}

/// A header and the data that it announces.
struct Block<'a> {
    version: u8,
    width: usize,
    transitions: &'a [u8],
    /// One index into `kinds` per transition.
    indices: &'a [u8],
    kinds: &'a [u8],
    abbreviations: &'a [u8],
    /// Of all of it, in bytes.
    length: usize,
}

impl<'a> Block<'a> {
    /// `width` is that of times, in bytes.
    fn parse(bytes: &'a [u8], width: usize) -> Option<Self> {
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let version = *bytes.get(4)?;
        let mut counts = [0_usize; 6];
        for (count, bytes) in counts.iter_mut().zip(bytes.get(20..HEADER)?.chunks_exact(4)) {
            *count = usize::try_from(number(bytes)?).ok()?;
        }
        let [ut, standard, leaps, transitions, kinds, abbreviations] = counts;
        let mut rest = &bytes[HEADER..];
        let mut take = |count: usize, size: usize| {
            let (taken, after) = rest.split_at_checked(count.checked_mul(size)?)?;
            rest = after;
            Some(taken)
        };
        let mut block = Self {
            version,
            width,
            transitions: take(transitions, width)?,
            indices: take(transitions, 1)?,
            kinds: take(kinds, KIND)?,
            abbreviations: take(abbreviations, 1)?,
            length: 0,
        };
        take(leaps, width + 4)?;
        take(standard, 1)?;
        take(ut, 1)?;
        block.length = bytes.len() - rest.len();
        Some(block)
    }

    fn transition(&self, at: usize) -> Option<i64> {
        number(self.transitions.get(at * self.width..)?.get(..self.width)?)
    }

    fn last_transition(&self) -> Option<i64> {
        self.transition(self.indices.len().checked_sub(1)?)
    }

    /// The first kind of time holds before the first transition.
    fn at(&self, time: i64) -> Option<Offset> {
        let (mut from, mut to) = (0, self.indices.len());
        while from < to {
            let middle = usize::midpoint(from, to);
            if self.transition(middle)? <= time {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        let kind = match from.checked_sub(1) {
            Some(last) => usize::from(*self.indices.get(last)?),
            None => 0,
        };
        let kind = self.kinds.get(kind * KIND..)?.get(..KIND)?;
        let abbreviation = self.abbreviations.get(usize::from(kind[5])..)?;
        let abbreviation = abbreviation.split(|&byte| byte == 0).next()?;
        Some(Offset {
            seconds: number(&kind[..4])?,
            abbreviation: String::from_utf8_lossy(abbreviation).into_owned(),
        })
    }
}

/// A signed big-endian number of 4 or 8 bytes.
fn number(bytes: &[u8]) -> Option<i64> {
    match bytes.len() {
        4 => Some(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        _ => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::fuzz;

    const BERLIN: &[u8] = include_bytes!("../../tests/corpus/tzif/Europe-Berlin");
    const SLIM: &[u8] = include_bytes!("../../tests/corpus/tzif/Europe-Berlin-slim");
    const V1: &[u8] = include_bytes!("../../tests/corpus/tzif/Europe-Berlin-v1");
    const KOLKATA: &[u8] = include_bytes!("../../tests/corpus/tzif/Asia-Kolkata");

    fn at(file: &[u8], time: i64) -> (i64, String) {
        let found = offset(file, time).unwrap();
        (found.seconds, found.abbreviation)
    }

    #[test]
    fn offsets_follow_transitions_and_then_the_rule() {
        let cases = [
            // The last second of summer and the first of winter in 2026.
            (1_792_889_999, 7200, "CEST"),
            (1_792_890_000, 3600, "CET"),
            (1_774_745_999, 3600, "CET"),
            (1_774_746_000, 7200, "CEST"),
            // 2100-07-01 and 2100-12-31, beyond every table.
            (4_118_083_200, 7200, "CEST"),
            (4_133_894_400, 3600, "CET"),
            // 1890 and 1945, Berlin's double summer time.
            (-2_500_000_000, 3208, "LMT"),
            (-775_000_000, 10_800, "CEMT"),
        ];
        for (time, seconds, abbreviation) in cases {
            for file in [BERLIN, SLIM] {
                assert_eq!(at(file, time), (seconds, abbreviation.into()), "{time}");
            }
        }
        assert_eq!(at(V1, 1_792_889_999), (7200, "CEST".into()));
        assert_eq!(at(KOLKATA, 1_792_889_999), (19_800, "IST".into()));
    }

    #[test]
    fn broken_files_are_none_and_no_bytes_panic() {
        for bytes in [&b""[..], b"TZif", b"TZif2", &BERLIN[..100]] {
            assert_eq!(offset(bytes, 0), None);
        }
        fuzz("tzif", |bytes| {
            for time in [-(1 << 40), 0, 1_792_889_999, 1 << 40] {
                drop(offset(bytes, time));
            }
        });
    }
}
