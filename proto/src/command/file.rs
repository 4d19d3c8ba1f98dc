//! `guest-file-open`, `-close`, `-read`, `-write`, `-seek`, `-flush`.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Command, CommandInfo, Empty, Right};
use crate::base64::{self, Base64, Base64Text};
use crate::chunk;

/// The most bytes that one `guest-file-read` may ask for: 48 MiB, since QEMU 5.0.
pub const MAX_READ_COUNT: i64 = 48 << 20;

/// `guest-file-open`: opens a file; answers a handle (since 0.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileOpen {
    /// Path in the guest.
    pub path: String,
    /// As `fopen`: `r`, `w`, `a`, with `b` and `+`. Absent means `r`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

impl Command for GuestFileOpen {
    const INFO: CommandInfo = CommandInfo::change("guest-file-open", Right::FilesRead);
    type Return = i64;
}

/// `guest-file-close`: closes a handle (since 0.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileClose {
    /// From `guest-file-open`.
    pub handle: i64,
}

impl Command for GuestFileClose {
    const INFO: CommandInfo = CommandInfo::change("guest-file-close", Right::FilesRead);
    type Return = Empty;
}

/// `guest-file-read`: reads from the handle's position (since 0.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileRead {
    /// From `guest-file-open`.
    pub handle: i64,
    /// Bytes, at most [`MAX_READ_COUNT`]. Absent means 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

impl Command for GuestFileRead {
    const INFO: CommandInfo =
        CommandInfo { right: Right::FilesRead, ..CommandInfo::query("guest-file-read") };
    type Return = FileRead;
}

/// What `guest-file-read` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileRead {
    /// Bytes read.
    pub count: i64,
    /// The bytes, base64.
    #[cfg_attr(feature = "openapi", schema(value_type = String, content_encoding = "base64"))]
    pub buf_b64: Base64,
    /// Whether this read met the end of the file.
    pub eof: bool,
}

/// A [`FileRead`] whose bytes lie where the reply's text lay: of a large read nothing is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChunk {
    /// Holds the bytes, and what is left of the reply around them.
    pub buffer: Vec<u8>,
    /// Where in the buffer they are.
    pub bytes: Range<usize>,
    /// Whether this read met the end of the file.
    pub eof: bool,
}

impl FileChunk {
    /// From a reply's line, of which `value` is the JSON text of a [`FileRead`]; `content` is as
    /// [`chunk::find`] found it. The error says what is wrong with it.
    pub(crate) fn decode(
        mut buffer: Vec<u8>,
        value: Range<usize>,
        content: Option<Range<usize>>,
    ) -> Result<Self, String> {
        /// As [`FileRead`], of a text in which nothing is escaped.
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Plain<'a> {
            count: i64,
            buf_b64: &'a str,
            eof: bool,
        }
        let content =
            content.filter(|content| value.start <= content.start && content.end < value.end);
        let around = content.as_ref().map(|content| chunk::around(&buffer, value.clone(), content));
        let text = around.as_deref().unwrap_or_else(|| &buffer[value.clone()]);
        let plain = serde_json::from_slice(text).ok().and_then(|Plain { count, buf_b64, eof }| {
            // The text borrows: its place is the distance.
            let start = value.start + (buf_b64.as_ptr() as usize - text.as_ptr() as usize);
            let found = start..start + buf_b64.len();
            match &content {
                None => Some((count, eof, found)),
                Some(content) => {
                    (found == (content.start..content.start)).then(|| (count, eof, content.clone()))
                }
            }
        });
        let (count, eof, bytes) = match plain {
            Some((count, eof, text)) => {
                let start = text.start;
                let length = base64::decode_in_place(&mut buffer[text])
                    .ok_or("its buf-b64 is not valid base64")?;
                (count, eof, start..start + length)
            }
            // A slash may be escaped, and then there is more to undo than base64.
            None => {
                let FileRead { count, buf_b64, eof } =
                    serde_json::from_slice(&buffer[value]).map_err(|error| error.to_string())?;
                buffer = buf_b64.0;
                (count, eof, 0..buffer.len())
            }
        };
        if i64::try_from(bytes.len()) != Ok(count) {
            return Err(format!("it has {} bytes and says {count}", bytes.len()));
        }
        Ok(Self { buffer, bytes, eof })
    }
}

/// Builds the JSON text of a [`FileRead`] piece by piece, so that a large read never stands
/// in memory twice.
#[derive(Debug)]
pub struct FileReadBuilder {
    text: Vec<u8>,
    count: usize,
    carry: Vec<u8>,
}

impl FileReadBuilder {
    /// For a read of about `expected` bytes.
    pub fn new(expected: usize) -> Self {
        let mut text = Vec::with_capacity(expected.div_ceil(3) * 4 + 64);
        text.extend_from_slice(b"{\"buf-b64\": \"");
        Self { text, count: 0, carry: Vec::new() }
    }

    /// Adds what was read next.
    pub fn push(&mut self, mut piece: &[u8]) {
        self.count += piece.len();
        if !self.carry.is_empty() {
            let missing = (3 - self.carry.len()).min(piece.len());
            self.carry.extend_from_slice(&piece[..missing]);
            piece = &piece[missing..];
            if self.carry.len() < 3 {
                return;
            }
            base64::append(&mut self.text, &self.carry);
            self.carry.clear();
        }
        let whole = piece.len() / 3 * 3;
        base64::append(&mut self.text, &piece[..whole]);
        self.carry.extend_from_slice(&piece[whole..]);
    }

    /// Bytes added so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The JSON text.
    pub fn finish(mut self, eof: bool) -> Vec<u8> {
        base64::append(&mut self.text, &self.carry);
        let tail = format!("\", \"count\": {}, \"eof\": {eof}}}", self.count);
        self.text.extend_from_slice(tail.as_bytes());
        self.text
    }
}

/// `guest-file-write`: writes at the handle's position (since 0.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestFileWrite {
    /// From `guest-file-open`.
    pub handle: i64,
    /// The bytes, base64.
    pub buf_b64: Base64Text,
    /// How many of them to write; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

impl GuestFileWrite {
    /// Appends its arguments' text for these bytes, which nothing else copies.
    pub fn append_arguments(text: &mut Vec<u8>, handle: i64, bytes: &[u8]) {
        text.reserve(bytes.len().div_ceil(3) * 4 + 64);
        text.extend_from_slice(b"{\"handle\":");
        text.extend_from_slice(handle.to_string().as_bytes());
        text.extend_from_slice(b",\"buf-b64\":\"");
        base64::append(text, bytes);
        text.extend_from_slice(b"\"}");
    }
}

impl Command for GuestFileWrite {
    const INFO: CommandInfo =
        CommandInfo::change("guest-file-write", Right::FilesWrite).pipelined();
    type Return = FileWrite;
}

/// What `guest-file-write` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileWrite {
    /// Bytes written.
    pub count: i64,
    /// The stream's end-of-file flag.
    pub eof: bool,
}

/// `guest-file-seek`: moves the handle's position (since 0.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileSeek {
    /// From `guest-file-open`.
    pub handle: i64,
    /// Bytes, relative to `whence`.
    pub offset: i64,
    /// Relative to what.
    pub whence: Whence,
}

impl Command for GuestFileSeek {
    const INFO: CommandInfo = CommandInfo::change("guest-file-seek", Right::FilesRead);
    type Return = FileSeek;
}

/// What `guest-file-seek` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileSeek {
    /// Bytes from the start of the file.
    pub position: i64,
    /// Always false: a seek clears the flag.
    pub eof: bool,
}

/// `guest-file-flush`: hands buffered writes to the kernel (since 0.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileFlush {
    /// From `guest-file-open`.
    pub handle: i64,
}

impl Command for GuestFileFlush {
    const INFO: CommandInfo = CommandInfo::change("guest-file-flush", Right::FilesWrite);
    type Return = Empty;
}

/// The origin of a seek. Agents before QEMU 2.6 know only the numbers 0, 1, 2, which every
/// later one takes too: so the names are for people, and [`Number`](Self::Number) is what a
/// client should send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The start of the file; 0.
    Set,
    /// The current position; 1.
    Cur,
    /// The end of the file; 2.
    End,
    /// A number, not yet checked.
    Number(i64),
}

impl Whence {
    /// The number on the wire.
    pub fn number(self) -> i64 {
        match self {
            Self::Set => 0,
            Self::Cur => 1,
            Self::End => 2,
            Self::Number(number) => number,
        }
    }
}

impl Serialize for Whence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.number())
    }
}

impl<'de> Deserialize<'de> for Whence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Alternate;
        impl<'de> Visitor<'de> for Alternate {
            type Value = Whence;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"set\", \"cur\", \"end\", 0, 1 or 2")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Whence, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Whence, E> {
                Ok(Whence::Number(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whence, E> {
                i64::try_from(number)
                    .map(Whence::Number)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whence, E> {
                Err(E::invalid_value(de::Unexpected::Float(number), &self))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Whence, E> {
                match name {
                    "set" => Ok(Whence::Set),
                    "cur" => Ok(Whence::Cur),
                    "end" => Ok(Whence::End),
                    _ => Err(E::unknown_variant(name, &["set", "cur", "end"])),
                }
            }
        }
        // The name is the one that qemu-ga puts into its type errors.
        deserializer.deserialize_newtype_struct("GuestFileWhence", Alternate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_built_in_pieces_is_the_read_in_one() {
        let bytes: Vec<u8> = (0..=255).collect();
        for size in [1, 2, 3, 4, 7, 100, 256] {
            let mut builder = FileReadBuilder::new(bytes.len());
            for piece in bytes.chunks(size) {
                builder.push(piece);
            }
            assert_eq!(builder.count(), 256);
            let read: FileRead = serde_json::from_slice(&builder.finish(true)).unwrap();
            assert_eq!(read, FileRead { count: 256, buf_b64: Base64(bytes.clone()), eof: true });
        }
        let empty: FileRead =
            serde_json::from_slice(&FileReadBuilder::new(0).finish(false)).unwrap();
        assert_eq!(empty, FileRead { count: 0, buf_b64: Base64(vec![]), eof: false });
    }

    #[test]
    fn a_chunk_is_decoded_where_it_lies() {
        let bytes: Vec<u8> = (0..=255).collect();
        for end in [0, 1, 2, 3, 255, 256] {
            let mut builder = FileReadBuilder::new(0);
            builder.push(&bytes[..end]);
            let line = [b"{\"return\": ", &*builder.finish(end == 1), b"}"].concat();
            let value = 11..line.len() - 1;
            let chunk = FileChunk::decode(line, value, None).unwrap();
            assert_eq!((&chunk.buffer[chunk.bytes], chunk.eof), (&bytes[..end], end == 1));
        }
        let decode = |text: &str| FileChunk::decode(text.into(), 0..text.len(), None);
        let escaped = decode(r#"{"buf-b64": "\/\/8=", "count": 2, "eof": false}"#).unwrap();
        assert_eq!(escaped.buffer[escaped.bytes], [255, 255]);
        for bad in [
            r#"{"buf-b64": "QUJ", "count": 2, "eof": false}"#,
            r#"{"buf-b64": "QUJD", "count": 2, "eof": false}"#,
            r#"{"buf-b64": "QUJD", "count": -3, "eof": false}"#,
            r#"{"buf-b64": "QUJD", "count": 3}"#,
            r#"{"count": 0, "eof": true}"#,
            r#"{"buf-b64": 1, "count": 0, "eof": true}"#,
            "{}",
            "[]",
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_chunk_is_the_same_by_the_short_way() {
        let decode = |text: &str| {
            let (line, whole) = (text.as_bytes().to_vec(), 0..text.len());
            let content = chunk::find(&line, whole.clone());
            let fast = FileChunk::decode(line.clone(), whole.clone(), content.clone());
            let slow = FileChunk::decode(line, whole, None);
            let bytes = |chunk: Result<FileChunk, String>| {
                chunk.map(|chunk| (chunk.buffer[chunk.bytes].to_vec(), chunk.eof))
            };
            let (fast, slow) = (bytes(fast), bytes(slow));
            assert_eq!(fast, slow, "{:?}", &text[..40]);
            (fast.is_ok(), content.is_some())
        };
        let long = "QUJD".repeat(2000);
        let read =
            |buf: &str| format!("{{\"buf-b64\": \"{buf}\", \"count\": 6000, \"eof\": true}}");
        assert_eq!(decode(&read(&long)), (true, true));
        assert_eq!(
            decode(&format!("{{\"count\":6000,\"eof\":true,\"buf-b64\":\"{long}\"}}")),
            (true, true)
        );
        assert_eq!(decode(&read(&format!("{}_", &long[1..]))), (false, true));
        assert_eq!(decode(&read(&long.replacen("QUJD", "\\/UJD", 1))), (true, false));
        // Another member of that name, and a name that only ends so.
        assert_eq!(
            decode(&format!(
                "{{\"x\": {{\"buf-b64\": \"{long}\"}}, \"buf-b64\": \"QUJD\", \"count\": 3, \"eof\": true}}"
            )),
            (true, true)
        );
        assert_eq!(
            decode(&format!(
                "{{\"x\\\"buf-b64\": \"{long}\", \"buf-b64\": \"QUJD\", \"count\": 3, \"eof\": true}}"
            )),
            (true, true)
        );
    }

    #[test]
    fn arguments_appended_are_those_serialized() {
        for (handle, bytes) in [(0, &b""[..]), (1000, b"abcd"), (-1, &[255; 100])] {
            let mut text = Vec::new();
            GuestFileWrite::append_arguments(&mut text, handle, bytes);
            let write = GuestFileWrite { handle, buf_b64: Base64Text::new(bytes), count: None };
            assert_eq!(text, serde_json::to_vec(&write).unwrap());
        }
    }

    #[test]
    fn whence_goes_out_as_a_number_and_comes_in_as_either() {
        assert_eq!(serde_json::to_string(&Whence::End).unwrap(), "2");
        assert_eq!(serde_json::from_str::<Whence>("\"cur\"").unwrap(), Whence::Cur);
        assert_eq!(serde_json::from_str::<Whence>("7").unwrap(), Whence::Number(7));
        assert!(serde_json::from_str::<Whence>("\"foo\"").is_err());
    }
}
