//! The agent's end of the framing: a byte stream to JSON texts.
//!
//! Requests need no newline: a text is complete when its braces and brackets balance. A byte
//! that fits nowhere (0xFF by convention) drops the text under way and is answered with an
//! error; that is how a client flushes what a predecessor left behind.
//!
//! ```text
//!   Collecting ── balanced ──▶ text, Collecting
//!       │  ├────── lexical error ──▶ error, Collecting
//!       │  └────── limit passed ──▶ error, Swallowing
//!   Swallowing ── balanced or lexical error ──▶ Collecting
//! ```

use super::lexer::{State, Step, TokenKind, plain_run};
use super::text::{Text, Token};

/// The most bytes that the tokens of one text may have: QEMU's 64 MiB.
pub const MAX_TOKEN_BYTES: usize = 64 << 20;
/// The most tokens of one text: QEMU's 2 Mi.
pub const MAX_TOKENS: usize = 2 << 20;
/// The deepest nesting of objects and arrays: QEMU's 1024.
pub const MAX_NESTING: i32 = 1024;

/// How much of what is stray an error repeats. (qemu-ga repeats all, up to 64 MiB.)
const STRAY_SHOWN: usize = 128;
/// What a buffer may keep between texts.
const KEPT: usize = 64 << 10;
/// Texts from this size on are moved out of the buffer, smaller ones copied.
const LARGE: usize = KEPT / 4;
/// The most that is reserved at once because the last large text was as large.
const MOST_RESERVED: usize = 2 << 20;

/// Bytes that are no JSON text, in qemu-ga's words; answered with `GenericError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub(crate) String);

impl SyntaxError {
    pub(crate) fn at(line: u32, column: u32, cause: &str) -> Self {
        Self(format!("{line}:{column}: JSON parse error, {cause}"))
    }
}

/// What the deframer found.
#[derive(Debug)]
pub enum Framed {
    /// A text that is well-formed JSON.
    Text(Text),
    /// Bytes that are not; the stream goes on behind them.
    Error(SyntaxError),
}

/// Splits a byte stream into JSON texts, with QEMU's limits.
#[derive(Debug)]
pub struct Deframer {
    state: State,
    /// The tokens' bytes, without the white space between them.
    bytes: Vec<u8>,
    /// Size of the last large text: the next one mostly has the same.
    last_large: usize,
    tokens: Vec<Token>,
    token_start: usize,
    /// The string under way is ASCII without escapes so far.
    plain: bool,
    braces: i32,
    brackets: i32,
    swallowing: bool,
    /// Of the next byte; lines and columns count from 1 over the whole stream.
    line: u32,
    column: u32,
    token_line: u32,
    token_column: u32,
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deframer {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self {
            state: State::Start,
            bytes: Vec::new(),
            last_large: 0,
            tokens: Vec::new(),
            token_start: 0,
            plain: true,
            braces: 0,
            brackets: 0,
            swallowing: false,
            line: 1,
            column: 1,
            token_line: 1,
            token_column: 1,
        }
    }

    /// Forgets a half-received text: a new client is at the other end. Positions go on.
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.forget_text();
        self.swallowing = false;
    }

    /// Whether part of a text is waiting for the rest.
    pub fn is_midway(&self) -> bool {
        !self.tokens.is_empty() || !matches!(self.state, State::Start | State::Recovery)
    }

    /// Takes bytes from the front of `input` up to the end of the first text or error in it.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Framed> {
        while let Some((&byte, rest)) = input.split_first() {
            if let State::String(quote) = self.state {
                let run = plain_run(input, quote);
                if run > 0 {
                    let (plain, rest) = input.split_at(run);
                    *input = rest;
                    self.column =
                        self.column.saturating_add(u32::try_from(run).unwrap_or(u32::MAX));
                    self.keep(plain);
                    if let Some(error) = self.check_token_bytes() {
                        return Some(error);
                    }
                    continue;
                }
            }
            if self.state == State::Start {
                (self.token_line, self.token_column) = (self.line, self.column);
                self.token_start = self.bytes.len();
                self.plain = true;
            }
            let step = self.state.step(byte);
            if !matches!(step, Step::CompleteBefore(_) | Step::Restart) {
                *input = rest;
                self.advance(byte);
            }
            let found = match step {
                Step::Skip => None,
                Step::Restart => {
                    self.state = State::Start;
                    None
                }
                Step::Continue(state) => {
                    self.plain &= byte != b'\\' && byte.is_ascii();
                    self.keep(&[byte]);
                    self.state = state;
                    None
                }
                Step::Complete(kind) => {
                    self.keep(&[byte]);
                    self.complete(kind)
                }
                Step::CompleteBefore(kind) => self.complete(kind),
                Step::Error => {
                    self.keep(&[byte]);
                    Some(self.stray())
                }
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn advance(&mut self, byte: u8) {
        if byte == b'\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.swallowing {
            return;
        }
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() && needed > LARGE {
            self.bytes.reserve(self.last_large.max(needed) - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// A token's last byte is in; perhaps a text's.
    fn complete(&mut self, kind: TokenKind) -> Option<Framed> {
        self.state = State::Start;
        match kind {
            TokenKind::ObjectStart => self.braces += 1,
            TokenKind::ObjectEnd => self.braces -= 1,
            TokenKind::ArrayStart => self.brackets += 1,
            TokenKind::ArrayEnd => self.brackets -= 1,
            _ => {}
        }
        if !self.swallowing {
            if let Some(error) = self.check_token_bytes() {
                return Some(error);
            }
            if self.tokens.len() >= MAX_TOKENS {
                return Some(self.refuse("JSON token count limit exceeded"));
            }
            if self.braces + self.brackets > MAX_NESTING {
                return Some(self.refuse("JSON nesting depth limit exceeded"));
            }
            self.tokens.push(Token {
                kind,
                plain: self.plain,
                start: offset(self.token_start),
                end: offset(self.bytes.len()),
                line: self.token_line,
                column: self.token_column,
            });
        }
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 {
            return None;
        }
        if self.swallowing {
            self.forget_text();
            self.swallowing = false;
            return None;
        }
        let text = Text::check(self.take_bytes(), self.take_tokens());
        self.forget_text();
        Some(text.map_or_else(Framed::Error, Framed::Text))
    }

    fn stray(&mut self) -> Framed {
        let token = &self.bytes[self.token_start.min(self.bytes.len())..];
        // A NUL ends the text in qemu-ga's message too.
        let end = token.iter().position(|&byte| byte == 0).unwrap_or(token.len());
        let shown = String::from_utf8_lossy(&token[..end.min(STRAY_SHOWN)]);
        let more = if end > STRAY_SHOWN { "…" } else { "" };
        let cause = format!("stray '{shown}{more}'");
        let error = SyntaxError::at(self.token_line, self.token_column, &cause);
        self.reset();
        self.state = State::Recovery;
        Framed::Error(error)
    }

    fn check_token_bytes(&mut self) -> Option<Framed> {
        (!self.swallowing && self.bytes.len() >= MAX_TOKEN_BYTES)
            .then(|| self.refuse("JSON token size limit exceeded"))
    }

    /// Reports a passed limit and swallows the rest of the text.
    fn refuse(&mut self, limit: &str) -> Framed {
        let (braces, brackets) = (self.braces, self.brackets);
        self.forget_text();
        (self.braces, self.brackets) = (braces, brackets);
        let midway = !matches!(self.state, State::Start) || braces > 0 || brackets > 0;
        self.swallowing = midway;
        Framed::Error(SyntaxError(limit.to_owned()))
    }

    /// The text's bytes: moved out when large, copied when small, so that neither a chunk of
    /// a file is copied nor a ping's answer waits for an allocation of 64 KiB.
    fn take_bytes(&mut self) -> Vec<u8> {
        if self.bytes.len() > LARGE {
            self.last_large = self.bytes.len().min(MOST_RESERVED);
            std::mem::take(&mut self.bytes)
        } else {
            self.bytes.clone()
        }
    }

    fn take_tokens(&mut self) -> Vec<Token> {
        if self.tokens.len() > 256 { std::mem::take(&mut self.tokens) } else { self.tokens.clone() }
    }

    fn forget_text(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.tokens.clear();
        self.tokens.shrink_to(KEPT / size_of::<Token>());
        self.token_start = 0;
        self.braces = 0;
        self.brackets = 0;
    }
}

/// Offsets into a text fit: it has fewer than [`MAX_TOKEN_BYTES`] and one token more.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each text's bytes, or each error's words.
    fn frames(deframer: &mut Deframer, mut input: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(framed) = deframer.next(&mut input) {
            found.push(match framed {
                Framed::Text(text) => String::from_utf8_lossy(text.bytes()).into_owned(),
                Framed::Error(error) => error.to_string(),
            });
        }
        assert!(input.is_empty());
        found
    }

    fn all(input: &[u8]) -> Vec<String> {
        frames(&mut Deframer::new(), input)
    }

    #[test]
    fn needs_no_newline_and_splits_two_in_one_write() {
        assert_eq!(all(b"{\"a\": 1}{\"b\":2}\n{"), ["{\"a\":1}", "{\"b\":2}"]);
    }

    #[test]
    fn scalars_complete_as_qemus_do() {
        assert_eq!(all(b"12"), [""; 0]);
        assert_eq!(all(b"12 "), ["12"]);
        assert_eq!(all(b"true\n"), ["true"]);
        assert_eq!(all(b"\"abc\""), ["\"abc\""]);
    }

    #[test]
    fn every_0xff_is_one_error_and_flushes() {
        let stray = |at: &str| format!("{at}: JSON parse error, stray '\u{fffd}'");
        assert_eq!(all(b"\xff"), [stray("1:1")]);
        assert_eq!(all(b"\xff\xff{}"), [stray("1:1"), stray("1:2"), "{}".into()]);
        assert_eq!(all(b"{\"execute\":\n\xff{}"), [stray("2:1"), "{}".into()]);
    }

    #[test]
    fn recovery_starts_again_at_a_structural_byte() {
        assert_eq!(
            all(b"X yz \"s\" 12 {}"),
            ["1:1: JSON parse error, stray 'X'".to_owned(), "{}".into()]
        );
        assert_eq!(
            all(b"\x01{}"),
            ["1:1: JSON parse error, stray '\u{1}'".to_owned(), "{}".into()]
        );
        assert_eq!(all(b"012 {}")[0], "1:1: JSON parse error, stray '01'");
    }

    #[test]
    fn a_stray_message_has_a_bound() {
        let mut input = vec![b'{', b'"'];
        input.resize(100_000, b'a');
        input.push(0xFF);
        let [error] = &all(&input)[..] else { panic!("one error") };
        assert!(error.len() < 300, "{}", error.len());
    }

    #[test]
    fn byte_by_byte_is_the_same_as_at_once() {
        let input = b"{\"a\":'it\\'s', \"b\": [1, -2.5e3, true]} nope {\xff{}12 [}";
        let whole = all(input);
        let mut deframer = Deframer::new();
        let pieces: Vec<_> = input
            .iter()
            .flat_map(|byte| frames(&mut deframer, std::slice::from_ref(byte)))
            .collect();
        assert_eq!(pieces, whole);
    }

    #[test]
    fn nesting_1024_is_accepted_and_1025_refused_once() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert_eq!(all(&nested(1024)).len(), 1);
        let mut input = nested(1025);
        input.extend_from_slice(b"{}");
        assert_eq!(all(&input), ["JSON nesting depth limit exceeded", "{}"]);
    }

    #[test]
    fn too_many_tokens_are_one_error() {
        let mut input = b"[".to_vec();
        for _ in 0..MAX_TOKENS / 2 {
            input.extend_from_slice(b"1,");
        }
        input.extend_from_slice(b"1]{}");
        assert_eq!(all(&input), ["JSON token count limit exceeded", "{}"]);
    }

    #[test]
    fn a_line_without_end_keeps_no_memory() {
        let mut deframer = Deframer::new();
        let piece = vec![b'a'; 1 << 20];
        let mut found = frames(&mut deframer, b"{\"a\": \"");
        for _ in 0..80 {
            found.extend(frames(&mut deframer, &piece));
        }
        assert_eq!(found, ["JSON token size limit exceeded"]);
        assert!(deframer.bytes.capacity() <= KEPT);
        assert_eq!(frames(&mut deframer, b"\"}{}"), ["{}"]);
    }

    #[test]
    fn white_space_takes_no_memory() {
        let mut deframer = Deframer::new();
        assert!(frames(&mut deframer, b"{").is_empty());
        assert!(frames(&mut deframer, &vec![b' '; 1 << 20]).is_empty());
        assert!(deframer.bytes.capacity() < 1024);
        assert_eq!(frames(&mut deframer, b"}"), ["{}"]);
    }

    #[test]
    fn a_reset_forgets_the_half_text() {
        let mut deframer = Deframer::new();
        assert!(frames(&mut deframer, b"{\"execute\": \"gue").is_empty());
        assert!(deframer.is_midway());
        deframer.reset();
        assert!(!deframer.is_midway());
        assert_eq!(frames(&mut deframer, b"{}"), ["{}"]);
    }
}
