//! Base64 in both dialects that the protocol has: what agents send, and what they accept.

use std::fmt;

use base64_simd::STANDARD;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::QgaError;

/// Bytes that travel as standard, padded base64 without line breaks, decoded strictly.
///
/// What agents send: `buf-b64` of a read, `out-data` of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode_to_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strict;
        impl Visitor<'_> for Strict {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a base64 string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64, E> {
                STANDARD
                    .decode_to_vec(text)
                    .map(Base64)
                    .map_err(|_| E::custom("string is not valid base64"))
            }
        }
        deserializer.deserialize_str(Strict)
    }
}

/// Base64 that a client sends to an agent, with qemu-ga's tolerance.
///
/// Newlines are skipped (Proxmox VE wraps at 76 columns), an incomplete last group is
/// dropped, any other character is an error. Decoding happens with the other arguments,
/// but its failure is kept until [`decode`](Self::decode), because an agent looks at the
/// handle first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64Text(Result<Vec<u8>, InvalidBase64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InvalidBase64;

impl Base64Text {
    /// Bytes to be sent.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Ok(bytes.into()))
    }

    /// The bytes, or qemu-ga's error for a character outside the alphabet.
    pub fn decode(self) -> Result<Vec<u8>, QgaError> {
        self.0.map_err(|InvalidBase64| QgaError::generic("Base64 data contains invalid characters"))
    }

    fn parse(text: &str) -> Self {
        match STANDARD.decode_to_vec(text) {
            Ok(bytes) => Self(Ok(bytes)),
            Err(_) => Self(decode_leniently(text.as_bytes())),
        }
    }
}

impl Serialize for Base64Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(bytes) => serializer.serialize_str(&STANDARD.encode_to_string(bytes)),
            Err(InvalidBase64) => Err(serde::ser::Error::custom("invalid base64")),
        }
    }
}

impl<'de> Deserialize<'de> for Base64Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lenient;
        impl Visitor<'_> for Lenient {
            type Value = Base64Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a base64 string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64Text, E> {
                Ok(Base64Text::parse(text))
            }
        }
        deserializer.deserialize_str(Lenient)
    }
}

/// GLib's rules as qemu-ga exposes them: groups of four sextets, whatever does not fill one is
/// dropped. `=` counts as a zero sextet anywhere; as the third or fourth of a group it takes away
/// the second or third byte.
fn decode_leniently(text: &[u8]) -> Result<Vec<u8>, InvalidBase64> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let mut group = 0u32;
    let mut kept = [true; 4];
    let mut sextets = 0;
    for &byte in text {
        let sextet = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => 0,
            b'\n' => continue,
            _ => return Err(InvalidBase64),
        };
        group = group << 6 | u32::from(sextet);
        kept[sextets] = byte != b'=';
        sextets += 1;
        if sextets == 4 {
            let [_, a, b, c] = group.to_be_bytes();
            bytes.push(a);
            bytes.extend(kept[2].then_some(b));
            bytes.extend(kept[3].then_some(c));
            (group, sextets) = (0, 0);
        }
    }
    Ok(bytes)
}

/// Turns base64 into its bytes where it stands; gives how many there are.
pub(crate) fn decode_in_place(text: &mut [u8]) -> Option<usize> {
    STANDARD.decode_inplace(text).ok().map(|bytes| bytes.len())
}

/// Appends the base64 of `bytes` to JSON text that is being built.
pub(crate) fn append(text: &mut Vec<u8>, bytes: &[u8]) {
    STANDARD.encode_append(bytes, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lenient(text: &str) -> Result<Vec<u8>, QgaError> {
        Base64Text::parse(text).decode()
    }

    #[test]
    fn accepts_what_qemu_ga_accepts() {
        assert_eq!(lenient("QUJD").unwrap(), b"ABC");
        assert_eq!(lenient("QUI=").unwrap(), b"AB");
        assert_eq!(lenient("QQ==").unwrap(), b"A");
        assert_eq!(lenient("").unwrap(), b"");
        assert_eq!(lenient("QU\nJD\nQQ==\n").unwrap(), b"ABCA");
        // Padding in places where it means nothing.
        assert_eq!(lenient("QU=D").unwrap(), [0x41, 0x03]);
        assert_eq!(lenient("QUJD====").unwrap(), b"ABC\0");
        assert_eq!(lenient("=QUJ").unwrap(), [0x01, 0x05, 0x09]);
        // An incomplete group is dropped.
        assert_eq!(lenient("QUJ").unwrap(), b"");
        assert_eq!(lenient("QUJDRA").unwrap(), b"ABC");
    }

    #[test]
    fn refuses_other_characters() {
        for text in ["QU D", "QUJ-", "QUJ\r\n", "\u{e9}"] {
            assert_eq!(
                lenient(text).unwrap_err().desc,
                "Base64 data contains invalid characters",
                "{text:?}"
            );
        }
    }

    #[test]
    fn strict_decoding_refuses_line_breaks() {
        assert!(serde_json::from_str::<Base64>("\"QUJD\\nQUJD\"").is_err());
        assert_eq!(serde_json::from_str::<Base64>("\"QUI=\"").unwrap().0, b"AB");
    }
}
