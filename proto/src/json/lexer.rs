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
pub(crate) fn plain_run(bytes: &[u8], quote: u8) -> usize {
    const LANE: usize = 32;
    let special = |byte: u8| (byte < 0x20) | (byte == quote) | (byte == b'\\') | (byte >= 0x80);
    let mut done = 0;
    for lane in bytes.chunks_exact(LANE) {
        // No early exit inside the lane: the compiler makes vector instructions of it.
        if lane.iter().fold(false, |any, &byte| any | special(byte)) {
            break;
        }
        done += LANE;
    }
    let rest = &bytes[done..];
    done + rest.iter().position(|&byte| special(byte)).unwrap_or(rest.len())
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
