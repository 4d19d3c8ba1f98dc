//! Bytes to tokens, one byte at a time where it must, in runs where it can.
//!
//! ```text
//!            ┌──── letter ──▶ Keyword ──┐
//!            ├──── digit, - ▶ numbers ──┤ any other byte ends the token and is read again
//!   Start ───┤                          ▼
//!     ▲      ├──── " or ' ──▶ strings ─▶ token
//!     │      └──── { } [ ] : , ────────▶ token
//!     │  structural, control byte, 0xFE, 0xFF (read again)
//!     └──────────────────────────────────── Recovery ◀── any byte that fits nowhere
//! ```
//!
//! A byte that ends a token without belonging to it is not consumed; a byte that is an error
//! is. So a bare number needs one more byte to be complete, and a string does not.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Colon,
    Comma,
    Integer,
    Float,
    Keyword,
    String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Start,
    /// Inside a string; the quote that ends it.
    String(u8),
    Escape(u8),
    Sign,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
    /// After an error: skipping until something looks like a new beginning.
    Recovery,
}

/// What one byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The byte belongs to the token under way.
    Continue(State),
    /// The byte completes a token.
    Complete(TokenKind),
    /// The token under way was complete before this byte, which must be read again.
    CompleteBefore(TokenKind),
    /// White space, or skipped in recovery.
    Skip,
    /// Recovery is over; read the byte again.
    Restart,
    /// The byte fits nowhere; it belongs to what is reported as stray.
    Error,
}

impl State {
    pub(crate) fn step(self, byte: u8) -> Step {
        use Step::{Complete, CompleteBefore, Continue, Error, Restart, Skip};
        match self {
            Self::Start => match byte {
                b' ' | b'\t' | b'\r' | b'\n' => Skip,
                b'{' => Complete(TokenKind::ObjectStart),
                b'}' => Complete(TokenKind::ObjectEnd),
                b'[' => Complete(TokenKind::ArrayStart),
                b']' => Complete(TokenKind::ArrayEnd),
                b':' => Complete(TokenKind::Colon),
                b',' => Complete(TokenKind::Comma),
                b'"' | b'\'' => Continue(Self::String(byte)),
                b'-' => Continue(Self::Sign),
                b'0' => Continue(Self::Zero),
                b'1'..=b'9' => Continue(Self::Digits),
                b'a'..=b'z' => Continue(Self::Keyword),
                _ => Error,
            },
            Self::String(quote) => match byte {
                b'\\' => Continue(Self::Escape(quote)),
                _ if byte == quote => Complete(TokenKind::String),
                0x20..=0xFD => Continue(self),
                _ => Error,
            },
            Self::Escape(quote) => match byte {
                0x20..=0xFD => Continue(Self::String(quote)),
                _ => Error,
            },
            Self::Sign => match byte {
                b'0' => Continue(Self::Zero),
                b'1'..=b'9' => Continue(Self::Digits),
                _ => Error,
            },
            Self::Zero => match byte {
                b'.' => Continue(Self::Point),
                b'e' | b'E' => Continue(Self::Exponent),
                b'0'..=b'9' | 0x80.. => Error,
                _ => CompleteBefore(TokenKind::Integer),
            },
            Self::Digits => match byte {
                b'0'..=b'9' => Continue(self),
                b'.' => Continue(Self::Point),
                b'e' | b'E' => Continue(Self::Exponent),
                0x80.. => Error,
                _ => CompleteBefore(TokenKind::Integer),
            },
            Self::Point => match byte {
                b'0'..=b'9' => Continue(Self::Fraction),
                _ => Error,
            },
            Self::Fraction => match byte {
                b'0'..=b'9' => Continue(self),
                b'e' | b'E' => Continue(Self::Exponent),
                0x80.. => Error,
                _ => CompleteBefore(TokenKind::Float),
            },
            Self::Exponent => match byte {
                b'+' | b'-' => Continue(Self::ExponentSign),
                b'0'..=b'9' => Continue(Self::ExponentDigits),
                _ => Error,
            },
            Self::ExponentSign => match byte {
                b'0'..=b'9' => Continue(Self::ExponentDigits),
                _ => Error,
            },
            Self::ExponentDigits => match byte {
                b'0'..=b'9' => Continue(self),
                0x80.. => Error,
                _ => CompleteBefore(TokenKind::Float),
            },
            Self::Keyword => match byte {
                b'a'..=b'z' => Continue(self),
                0x80.. => Error,
                _ => CompleteBefore(TokenKind::Keyword),
            },
            Self::Recovery => match byte {
                b'\t' => Skip,
                b'{' | b'}' | b'[' | b']' | b':' | b',' | 0..=0x1F | 0xFE.. => Restart,
                _ => Skip,
            },
        }
    }
}

/// How many leading bytes of a string's inside are plain: ASCII, and neither its quote, nor an
/// escape, nor an error. They can be taken over without looking at each byte alone.
///
/// Every byte of a written file passes here. By the word and by hand, because the agent is built
/// small, and then the compiler makes no vector instructions of a loop over bytes.
pub(crate) fn plain_run(bytes: &[u8], quote: u8) -> usize {
    const WORD: usize = size_of::<u64>();
    const LANE: usize = 4 * WORD;
    let quotes = every(quote);
    let mut done = 0;
    for lane in bytes.chunks_exact(LANE) {
        let mut special = 0;
        for word in lane.chunks_exact(WORD) {
            // A chunk has the length of a word.
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            special |= has_special(word, quotes);
        }
        if special != 0 {
            break;
        }
        done += LANE;
    }
    let special = |byte: u8| (byte < 0x20) | (byte == quote) | (byte == b'\\') | (byte >= 0x80);
    let rest = &bytes[done..];
    done + rest.iter().position(|&byte| special(byte)).unwrap_or(rest.len())
}

/// A word of eight times this byte.
const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Whether any byte of the word is special: the top bits say so, of that byte or of one below it.
fn has_special(word: u64, quotes: u64) -> u64 {
    // Exact as long as no byte before has its top bit set, and then the answer is yes anyway. A
    // borrow out of one byte, too, only comes from a byte that is special itself.
    let below = |word: u64, byte: u8| word.wrapping_sub(every(byte));
    let control = below(word, 0x20);
    let quote = below(word ^ quotes, 1);
    let backslash = below(word ^ every(b'\\'), 1);
    (control | quote | backslash | word) & every(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_run_stops_where_the_lexer_would() {
        for length in 0..100 {
            for stop in [b'"', b'\\', 0x1F, 0x00, 0x80, 0xFF] {
                let mut bytes = vec![b'a'; length];
                assert_eq!(plain_run(&bytes, b'"'), length);
                bytes.push(stop);
                bytes.extend_from_slice(&[b'b'; 40]);
                assert_eq!(plain_run(&bytes, b'"'), length);
            }
        }
        assert_eq!(plain_run(b"it's \x7f \xc3\xa9", b'"'), 7);
    }
}
