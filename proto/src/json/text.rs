//! A JSON text as its tokens, checked against the grammar once.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::deframer::SyntaxError;
use super::lexer::TokenKind;

/// Objects with more keys than this look for duplicates in a set.
const LINEAR_KEYS: usize = 32;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    /// A string of ASCII without escapes.
    pub(crate) plain: bool,
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Token {
    fn range(&self) -> Range<usize> {
        // u32 to usize: lossless on every platform that Linux runs on.
        self.start as usize..self.end as usize
    }

    fn error(&self, cause: &str) -> SyntaxError {
        SyntaxError::at(self.line, self.column, cause)
    }
}

/// One well-formed JSON text.
#[derive(Clone, Debug)]
pub struct Text {
    bytes: Vec<u8>,
    tokens: Vec<Token>,
}

impl Text {
    /// Holds the tokens against the grammar.
    pub(crate) fn check(bytes: Vec<u8>, tokens: Vec<Token>) -> Result<Self, SyntaxError> {
        let text = Self { bytes, tokens };
        Checker { text: &text, at: 0 }.check()?;
        Ok(text)
    }

    /// The tokens' bytes, without the white space between them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole as a value.
    pub fn root(&self) -> Value<'_> {
        Value { text: self, at: 0 }
    }

    /// The value that starts at a token.
    pub(crate) fn value(&self, at: usize) -> Value<'_> {
        Value { text: self, at }
    }

    fn raw(&self, token: &Token) -> &[u8] {
        &self.bytes[token.range()]
    }
}

/// A value inside a [`Text`].
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    text: &'a Text,
    at: usize,
}

impl<'a> Value<'a> {
    fn token(self) -> &'a Token {
        &self.text.tokens[self.at]
    }

    pub(crate) fn kind(self) -> TokenKind {
        self.token().kind
    }

    /// Where the value starts, for [`Text::value`].
    pub(crate) fn position(self) -> usize {
        self.at
    }

    /// Whether this is an object.
    pub fn is_object(self) -> bool {
        self.kind() == TokenKind::ObjectStart
    }

    pub(crate) fn raw(self) -> &'a [u8] {
        self.text.raw(self.token())
    }

    /// The string's content, if this is one.
    pub fn string(self) -> Option<Cow<'a, str>> {
        if self.kind() != TokenKind::String {
            return None;
        }
        // The check has read every string: neither way can fail.
        let raw = self.raw();
        Some(if self.token().plain {
            Cow::Borrowed(std::str::from_utf8(&raw[1..raw.len() - 1]).unwrap_or_default())
        } else {
            unescape(raw).unwrap_or_default()
        })
    }

    /// Members of an object in order; nothing for any other value.
    pub fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Self)> {
        let mut at = self.is_object().then_some(self.at + 1);
        std::iter::from_fn(move || {
            let key = self.text.value(at?);
            if key.kind() != TokenKind::String {
                return None;
            }
            let value = self.text.value(key.at + 2);
            at = value.following();
            Some((key.string()?, value))
        })
    }

    /// Elements of an array in order; nothing for any other value.
    pub fn elements(self) -> impl Iterator<Item = Self> {
        let mut at = (self.kind() == TokenKind::ArrayStart).then_some(self.at + 1);
        std::iter::from_fn(move || {
            let element = self.text.value(at?);
            if element.kind() == TokenKind::ArrayEnd {
                return None;
            }
            at = element.following();
            Some(element)
        })
    }

    /// The tokens of this value.
    pub(crate) fn tokens(self) -> impl Iterator<Item = (TokenKind, &'a [u8])> {
        self.text.tokens[self.at..self.end()].iter().map(|token| (token.kind, self.text.raw(token)))
    }

    /// The token behind this value.
    fn end(self) -> usize {
        let mut depth = 0usize;
        for (offset, token) in self.text.tokens[self.at..].iter().enumerate() {
            match token.kind {
                TokenKind::ObjectStart | TokenKind::ArrayStart => depth += 1,
                TokenKind::ObjectEnd | TokenKind::ArrayEnd => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return self.at + offset + 1;
            }
        }
        self.text.tokens.len()
    }

    /// Where the next sibling starts, if there is one.
    fn following(self) -> Option<usize> {
        let end = self.end();
        let comma = self.text.tokens.get(end).is_some_and(|token| token.kind == TokenKind::Comma);
        comma.then_some(end + 1)
    }
}

/// Grammar check, without recursion: nesting is the peer's choice.
struct Checker<'a> {
    text: &'a Text,
    at: usize,
}

struct OpenObject<'a> {
    keys: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> OpenObject<'a> {
    /// False if the key was there already.
    fn insert(&mut self, key: Cow<'a, str>) -> bool {
        if self.many.is_empty() {
            if self.keys.contains(&key) {
                return false;
            }
            self.keys.push(key);
            if self.keys.len() > LINEAR_KEYS {
                self.many.extend(self.keys.drain(..));
            }
            return true;
        }
        self.many.insert(key)
    }
}

impl<'a> Checker<'a> {
    fn check(mut self) -> Result<(), SyntaxError> {
        // None: an array is open; Some: an object with its keys.
        let mut open: Vec<Option<OpenObject<'a>>> = Vec::new();
        loop {
            // A value starts here.
            let token = self.next("expecting value")?;
            match token.kind {
                TokenKind::ObjectStart => {
                    if self.skip(TokenKind::ObjectEnd) {
                        self.at += 1;
                    } else {
                        open.push(Some(OpenObject { keys: Vec::new(), many: HashSet::new() }));
                        self.key(&mut open)?;
                        continue;
                    }
                }
                TokenKind::ArrayStart => {
                    if self.skip(TokenKind::ArrayEnd) {
                        self.at += 1;
                    } else {
                        open.push(None);
                        continue;
                    }
                }
                TokenKind::String if token.plain => {}
                TokenKind::String => {
                    unescape(self.text.raw(token)).map_err(|cause| token.error(&cause))?;
                }
                TokenKind::Keyword => {
                    let word = self.text.raw(token);
                    if !matches!(word, b"true" | b"false" | b"null") {
                        let word = String::from_utf8_lossy(word);
                        return Err(token.error(&format!("invalid keyword '{word}'")));
                    }
                }
                TokenKind::Integer | TokenKind::Float => {}
                TokenKind::ObjectEnd
                | TokenKind::ArrayEnd
                | TokenKind::Colon
                | TokenKind::Comma => return Err(token.error("expecting value")),
            }
            // A value has ended: close what it closes.
            loop {
                let Some(innermost) = open.last() else {
                    // The deframer ends a text where its outermost value ends.
                    return Ok(());
                };
                let (end, expected) = match innermost {
                    Some(_) => (TokenKind::ObjectEnd, "expected separator in dict"),
                    None => (TokenKind::ArrayEnd, "expected separator in list"),
                };
                let token = self.next(expected)?;
                if token.kind == TokenKind::Comma {
                    if innermost.is_some() {
                        self.key(&mut open)?;
                    }
                    break;
                }
                if token.kind != end {
                    return Err(token.error(expected));
                }
                open.pop();
            }
        }
    }

    fn next(&mut self, expected: &str) -> Result<&'a Token, SyntaxError> {
        let token = self.text.tokens.get(self.at).ok_or_else(|| match self.text.tokens.last() {
            Some(last) => last.error(expected),
            None => SyntaxError::at(1, 1, expected),
        })?;
        self.at += 1;
        Ok(token)
    }

    fn skip(&self, kind: TokenKind) -> bool {
        self.text.tokens.get(self.at).is_some_and(|token| token.kind == kind)
    }

    /// A key and its colon.
    fn key(&mut self, open: &mut [Option<OpenObject<'a>>]) -> Result<(), SyntaxError> {
        let token = self.next("expecting key")?;
        if token.kind != TokenKind::String {
            return Err(token.error("expecting key"));
        }
        let key = unescape(self.text.raw(token)).map_err(|cause| token.error(&cause))?;
        if let Some(Some(object)) = open.last_mut()
            && !object.insert(key)
        {
            return Err(token.error("duplicate key"));
        }
        let missing = "missing : in object pair";
        let colon = self.next(missing)?;
        if colon.kind == TokenKind::Colon { Ok(()) } else { Err(colon.error(missing)) }
    }
}

/// The content of a string token, or what is wrong with it.
pub(crate) fn unescape(raw: &[u8]) -> Result<Cow<'_, str>, String> {
    let inside = &raw[1..raw.len() - 1];
    if !inside.contains(&b'\\')
        && inside.is_ascii()
        && let Ok(plain) = std::str::from_utf8(inside)
    {
        return Ok(Cow::Borrowed(plain));
    }
    let mut content = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(&byte) = rest.first() {
        if byte == b'\\' {
            rest = unescape_one(rest, &mut content)?;
            continue;
        }
        let run = rest.iter().position(|&byte| byte == b'\\').unwrap_or(rest.len());
        let (plain, behind) = rest.split_at(run);
        push_utf8(plain, &mut content)?;
        rest = behind;
    }
    Ok(Cow::Owned(content))
}

/// Reads the escape at the front of `text`; answers what is behind it.
fn unescape_one<'a>(text: &'a [u8], content: &mut String) -> Result<&'a [u8], String> {
    // The lexer lets no string end inside an escape.
    let Some((&letter, rest)) = text[1..].split_first() else {
        return Err("invalid escape sequence in string".to_owned());
    };
    content.push(match letter {
        b'"' | b'\'' | b'\\' | b'/' => char::from(letter),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unicode(rest, content),
        _ => return Err("invalid escape sequence in string".to_owned()),
    });
    Ok(rest)
}

fn unescape_unicode<'a>(digits: &'a [u8], content: &mut String) -> Result<&'a [u8], String> {
    let first = hex4(digits).unwrap_or(0xDFFF);
    let mut rest = digits.get(4..).unwrap_or_default();
    let mut code = u32::from(first);
    if (0xD800..0xDC00).contains(&first)
        && let Some(second) = rest.strip_prefix(b"\\u").and_then(hex4)
        && (0xDC00..0xE000).contains(&second)
    {
        code = 0x10000 + ((code - 0xD800) << 10) + (u32::from(second) - 0xDC00);
        rest = &rest[6..];
    }
    let Some(character) = char::from_u32(code).filter(|&character| !is_noncharacter(character))
    else {
        let shown = String::from_utf8_lossy(&digits[..digits.len().min(4)]);
        return Err(format!("\\u{shown} is not a valid Unicode character"));
    };
    content.push(character);
    Ok(rest)
}

fn hex4(digits: &[u8]) -> Option<u16> {
    let digits = digits.get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends UTF-8, in which C0 80 stands for NUL.
fn push_utf8(mut bytes: &[u8], content: &mut String) -> Result<(), String> {
    loop {
        let nul = bytes.windows(2).position(|pair| pair == [0xC0, 0x80]);
        let (piece, rest) = bytes.split_at(nul.unwrap_or(bytes.len()));
        match std::str::from_utf8(piece) {
            Ok(piece) if !piece.chars().any(is_noncharacter) => content.push_str(piece),
            _ => return Err("invalid UTF-8 sequence in string".to_owned()),
        }
        if nul.is_none() {
            return Ok(());
        }
        content.push('\0');
        bytes = &rest[2..];
    }
}

fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
}

#[cfg(test)]
mod tests {
    use super::super::deframer::{Deframer, Framed};
    use super::*;

    fn parse(mut input: &[u8]) -> Result<Text, String> {
        match Deframer::new().next(&mut input) {
            Some(Framed::Text(text)) => Ok(text),
            Some(Framed::Error(error)) => Err(error.to_string()),
            None => panic!("incomplete"),
        }
    }

    fn cause(input: &[u8]) -> String {
        parse(input).unwrap_err()
    }

    fn string(input: &[u8]) -> Result<String, String> {
        Ok(parse(input)?.root().string().unwrap().into_owned())
    }

    #[test]
    fn walks_members_and_elements() {
        let text = parse(b"{'a': [1, {}, [2]], \"b\": {\"c\": 'd'}, 'e': null}").unwrap();
        let keys: Vec<_> = text.root().members().map(|(key, _)| key.into_owned()).collect();
        assert_eq!(keys, ["a", "b", "e"]);
        let (_, a) = text.root().members().next().unwrap();
        assert_eq!(a.elements().count(), 3);
        let (_, b) = text.root().members().nth(1).unwrap();
        assert_eq!(b.members().next().unwrap().1.string().unwrap(), "d");
        assert_eq!(a.members().count(), 0);
    }

    #[test]
    fn grammar_errors_name_what_was_expected() {
        for (input, expected) in [
            (&b"{1: 2}"[..], "1:2: JSON parse error, expecting key"),
            (b"{'a': 1,}", "1:9: JSON parse error, expecting key"),
            (b"[1,]", "1:4: JSON parse error, expecting value"),
            (b"{'a' 1}", "1:6: JSON parse error, missing : in object pair"),
            (b"{'a': 1 2}", "1:9: JSON parse error, expected separator in dict"),
            (b"[1 2]", "1:4: JSON parse error, expected separator in list"),
            (b"{'a': 1, 'a': 2}", "1:10: JSON parse error, duplicate key"),
            (b"{'a':\nfoo}", "2:1: JSON parse error, invalid keyword 'foo'"),
            (b"}", "1:1: JSON parse error, expecting value"),
            (b"[}", "1:2: JSON parse error, expecting value"),
        ] {
            assert_eq!(cause(input), expected, "{}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn duplicates_are_found_in_large_objects() {
        let mut input: Vec<u8> = b"{".to_vec();
        for key in 0..1000 {
            input.extend_from_slice(format!("'k{key}': 1,").as_bytes());
        }
        let mut duplicate = input.clone();
        input.extend_from_slice(b"'z': 1}");
        assert!(parse(&input).is_ok());
        duplicate.extend_from_slice(b"'k500': 1}");
        assert!(cause(&duplicate).ends_with("duplicate key"));
    }

    #[test]
    fn strings_are_unescaped_and_checked() {
        assert_eq!(
            string(b"'it\\'s \\\"\\\\\\/\\b\\f\\n\\r\\t'").unwrap(),
            "it's \"\\/\u{8}\u{c}\n\r\t"
        );
        assert_eq!(string(b"\"\\u00e9\\uD83D\\uDE00\"").unwrap(), "\u{e9}\u{1f600}");
        assert_eq!(string("\"\u{e9}\"".as_bytes()).unwrap(), "\u{e9}");
        assert_eq!(string(b"\"a\\u0000b\"").unwrap(), "a\0b");
        assert_eq!(string(b"\"a\xC0\x80b\"").unwrap(), "a\0b");
        for input in [&b"\"\xC3\""[..], b"\"\x80\"", b"\"\xED\xA0\x80\"", b"\"\xC0\x81\""] {
            assert_eq!(cause(input), "1:1: JSON parse error, invalid UTF-8 sequence in string");
        }
        assert!(cause(b"\"\\x\"").ends_with("invalid escape sequence in string"));
        assert!(cause(b"\"\\u12g4\"").ends_with("\\u12g4 is not a valid Unicode character"));
        assert!(cause(b"\"\\uD800\"").ends_with("\\uD800 is not a valid Unicode character"));
    }
}
