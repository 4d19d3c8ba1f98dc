//! What a peer sends without being asked, and when it is too much.

use qga_proto::newline;
use tokio::time::Instant;

/// How much a guest may send that nobody asked for, and how fast it is forgiven.
const SURPLUS_BYTES: usize = 4 << 20;
const FORGIVEN_PER_SECOND: usize = 256 << 10;
/// What a line counts besides its bytes: as much as it takes to look at one that is very short.
const LINE_BYTES: usize = 512;

/// What a piece of the stream comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Bytes of empty lines that end in it. They answer nothing, and nobody tells of them.
    pub(super) empty: usize,
    /// What all of it counts, if nobody asked for it.
    pub(super) all: usize,
}

/// Bytes that nobody asked for.
#[derive(Debug)]
pub(super) struct Surplus {
    bytes: usize,
    at: Instant,
    /// Bytes of the line so far, if it has nothing but white space.
    blank: Option<usize>,
    /// Room for one late reply to a call that has been given up.
    pub(super) late: usize,
}

impl Surplus {
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: 0, at: now, blank: Some(0), late: 0 }
    }

    /// What comes next in the stream.
    pub(super) fn weigh(&mut self, piece: &[u8]) -> Weight {
        // The many at once that somebody sends to keep others busy.
        let mut empty = match self.blank {
            Some(0) => piece.iter().take_while(|&&byte| byte == b'\n').count(),
            _ => 0,
        };
        let mut all = piece.len();
        let mut piece = &piece[empty..];
        while !piece.is_empty() {
            let end = newline(piece).map_or(piece.len(), |at| at + 1);
            let (part, rest) = piece.split_at(end);
            piece = rest;
            let blank = self.blank.filter(|_| part.iter().all(u8::is_ascii_whitespace));
            let blank = blank.map(|before| before + part.len());
            let ends = part.ends_with(b"\n");
            empty += if ends { blank.unwrap_or(0) } else { 0 };
            all += if ends { LINE_BYTES } else { 0 };
            self.blank = if ends { Some(0) } else { blank };
        }
        Weight { empty, all }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        let now = Instant::now();
        let seconds = usize::try_from((now - self.at).as_secs()).unwrap_or(usize::MAX);
        if seconds > 0 {
            self.at = now;
            self.bytes = self.bytes.saturating_sub(seconds.saturating_mul(FORGIVEN_PER_SECOND));
        }
        self.bytes += bytes;
    }

    pub(super) fn verdict(&self) -> Option<String> {
        (self.bytes > SURPLUS_BYTES + self.late)
            .then(|| "the other end sends more than anybody asked for".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn empty_lines_are_counted_across_pieces() {
        let mut surplus = Surplus::new(Instant::now());
        let mut count = |piece: &str| surplus.weigh(piece.as_bytes()).empty;
        assert_eq!((count("\n\n"), count(" "), count("\r\n")), (2, 0, 3));
        assert_eq!((count("{\n"), count(" a"), count(" "), count("\n")), (0, 0, 0, 0));
        assert_eq!(count("a\n\nb"), 1);
    }

    #[test]
    fn a_short_line_counts_what_it_takes_to_look_at_it() {
        let mut surplus = Surplus::new(Instant::now());
        let mut weigh = |piece: &str| surplus.weigh(piece.as_bytes()).all;
        assert_eq!(weigh("{}\n{}\n{"), 7 + 2 * LINE_BYTES);
        assert_eq!(weigh("}"), 1);
        assert_eq!(weigh("\n"), 1 + LINE_BYTES);
        // Those are skipped at once.
        assert_eq!(weigh("\n\n\n"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_too_much_and_a_trickle_is_forgiven() {
        let mut surplus = Surplus::new(Instant::now());
        for _ in 0..100 {
            surplus.add(FORGIVEN_PER_SECOND);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(surplus.verdict(), None);
        surplus.late = 1 << 20;
        surplus.add(SURPLUS_BYTES);
        assert_eq!(surplus.verdict(), None, "a late reply may have been among it");
        surplus.add(2 << 20);
        assert!(surplus.verdict().is_some());
    }
}
