//! Prints JSON as QEMU prints it: one line, one space after `:` and `,`, ASCII only.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::lexer::TokenKind;
use super::text::{Value, unescape};

/// The JSON text of a value, as it goes over the wire.
///
/// # Panics
///
/// If the value cannot be JSON (a map whose keys are no strings); no type of this crate does.
pub fn to_wire<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut text = Vec::with_capacity(64);
    let mut serializer = Serializer::with_formatter(&mut text, Wire);
    #[expect(clippy::expect_used, reason = "writing to memory cannot fail")]
    value.serialize(&mut serializer).expect("a value that is JSON");
    text
}

/// Appends a string in quotes.
pub(crate) fn write_string(text: &mut Vec<u8>, string: &str) {
    let mut serializer = Serializer::with_formatter(text, Wire);
    // Neither a Vec nor a str can fail.
    let _ = string.serialize(&mut serializer);
}

impl Value<'_> {
    /// Appends this value as QEMU would print it after having read it.
    pub(crate) fn write(self, text: &mut Vec<u8>) {
        for (kind, raw) in self.tokens() {
            match kind {
                TokenKind::Colon => text.extend_from_slice(b": "),
                TokenKind::Comma => text.extend_from_slice(b", "),
                TokenKind::String => write_string(text, &unescape(raw).unwrap_or_default()),
                TokenKind::Integer | TokenKind::Float => write_number(text, raw),
                _ => text.extend_from_slice(raw),
            }
        }
    }
}

/// Integers beyond 64 bits and everything with a point or exponent have become doubles.
fn write_number(text: &mut Vec<u8>, raw: &[u8]) {
    let number = std::str::from_utf8(raw).unwrap_or("0");
    if let Ok(integer) = number.parse::<i64>() {
        text.extend_from_slice(integer.to_string().as_bytes());
    } else if number.parse::<u64>().is_ok() {
        text.extend_from_slice(raw);
    } else {
        let double = number.parse::<f64>().unwrap_or(f64::NAN);
        text.extend_from_slice(seventeen_digits(double).as_bytes());
    }
}

/// C's `%.17g`.
fn seventeen_digits(double: f64) -> String {
    if !double.is_finite() {
        return if double.is_nan() {
            "nan"
        } else if double > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let scientific = format!("{double:.16e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    if (-4..17).contains(&exponent) {
        // At most 20 places: non-negative and small.
        let places = usize::try_from(16 - exponent).unwrap_or(0);
        trim(&format!("{double:.places$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(digits), exponent.abs())
    }
}

struct Wire;

impl Formatter for Wire {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(seventeen_digits(value).as_bytes())
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let is_plain = |byte: u8| byte.is_ascii() && byte != 0x7F;
        if fragment.bytes().all(is_plain) {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() && character != '\u{7f}' {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04X}")?;
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        let escaped: &[u8] = match escape {
            CharEscape::Quote => b"\\\"",
            CharEscape::ReverseSolidus => b"\\\\",
            CharEscape::Solidus => b"/",
            CharEscape::Backspace => b"\\b",
            CharEscape::FormFeed => b"\\f",
            CharEscape::LineFeed => b"\\n",
            CharEscape::CarriageReturn => b"\\r",
            CharEscape::Tab => b"\\t",
            CharEscape::AsciiControl(byte) => return write!(writer, "\\u{byte:04X}"),
        };
        writer.write_all(escaped)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::deframer::{Deframer, Framed};
    use super::*;

    fn printed(value: &serde_json::Value) -> String {
        String::from_utf8(to_wire(value)).unwrap()
    }

    #[test]
    fn spacing_and_escapes_are_qemus() {
        assert_eq!(printed(&json!({"return": {}})), r#"{"return": {}}"#);
        assert_eq!(printed(&json!([1, true, null, "x"])), r#"[1, true, null, "x"]"#);
        assert_eq!(
            printed(&json!("\u{7}\u{7f}\u{e9}\u{1f600}<>&/\"\\\n\u{0}\u{1f}")),
            r#""\u0007\u007F\u00E9\uD83D\uDE00<>&/\"\\\n\u0000\u001F""#
        );
    }

    #[test]
    fn doubles_have_seventeen_digits() {
        for (double, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (0.1, "0.10000000000000001"),
            (1000.0, "1000"),
            (1e17, "1e+17"),
            (1.234e-5, "1.234e-05"),
            (0.0001, "0.0001"),
            (-2.5e300, "-2.5000000000000001e+300"),
            (18446744073709551616.0, "1.8446744073709552e+19"),
        ] {
            assert_eq!(seventeen_digits(double), text);
        }
    }

    #[test]
    fn a_value_read_is_printed_back_as_qemu_would() {
        let mut input: &[u8] =
            b"{'a' :[1 ,-0,18446744073709551615,1e3,36893488147419103232],'\xc3\xa9':\"\\/\\u0041\"}";
        let Some(Framed::Text(text)) = Deframer::new().next(&mut input) else { panic!() };
        let mut out = Vec::new();
        text.root().write(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"a": [1, 0, 18446744073709551615, 1000, 3.6893488147419103e+19], "\u00E9": "/A"}"#
        );
    }
}
