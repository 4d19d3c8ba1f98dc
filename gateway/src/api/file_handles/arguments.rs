//! What callers send: checked here, so that nothing wrong reaches a guest.

use base64_simd::STANDARD;
use qga_proto::base64::Base64Text;
use qga_proto::command::{
    GuestFileOpen, GuestFileRead, GuestFileSeek, GuestFileWrite, MAX_READ_COUNT, Whence,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::api::error::Problem;
use crate::vm::Access;

/// Agents take 64 MiB of JSON text in one message, base64 needs a third more than its bytes, and
/// the envelope a little.
const MAX_WRITE: usize = (48 << 20) - 1024;

/// Room for [`MAX_WRITE`] in base64 with line ends, which JSON writes as two bytes.
pub(super) const MAX_WRITE_BODY: usize = 68 << 20;

/// `fopen`'s modes, as far as agents know them.
const MODES: [&str; 15] =
    ["r", "rb", "w", "wb", "a", "ab", "r+", "rb+", "r+b", "w+", "wb+", "w+b", "a+", "ab+", "a+b"];

/// A handle in the path; a struct, so that what is wrong is told by its name.
#[derive(Debug, Deserialize)]
pub(in crate::api) struct FileHandlePath {
    pub(super) id: String,
    pub(super) handle: i64,
}

/// What to open.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"path": "/etc/hostname", "mode": "r"}))]
pub(in crate::api) struct OpenRequest {
    /// The file in the guest. A relative path starts where the agent does.
    #[schema(min_length = 1, max_length = 32767, pattern = "^[^\\u0000]+$")]
    path: String,
    /// As `fopen`: `r`, `w` or `a`, with `b` and `+`. `r` if absent.
    #[schema(pattern = "^[rwa](b?\\+?|\\+b)$")]
    mode: Option<String>,
}

/// A file that is open in the guest.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"handle": 1000}))]
pub(in crate::api) struct FileHandle {
    /// The agent's number for it.
    pub(super) handle: i64,
}

/// How much to read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"count": 65536}))]
pub(in crate::api) struct ReadRequest {
    /// Bytes; 4096 if absent.
    #[schema(minimum = 0, maximum = 50331648)]
    count: Option<i64>,
}

/// What to write.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schema(example = json!({"buf-b64": "aGVsbG8K"}))]
pub(in crate::api) struct WriteRequest {
    /// The bytes in base64; line feeds between the characters are allowed.
    #[schema(content_encoding = "base64")]
    buf_b64: String,
    /// How many of the bytes to write; all if absent.
    #[schema(minimum = 0)]
    count: Option<i64>,
}

/// Where to go.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"offset": 0, "whence": "set"}))]
pub(in crate::api) struct SeekRequest {
    /// Bytes, relative to `whence`.
    offset: i64,
    #[schema(schema_with = whence_schema)]
    whence: Whence,
}

/// By name or by number, as QGA itself takes it since 2.6.
fn whence_schema() -> Schema {
    let name =
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["set", "cur", "end"]));
    let number = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([0, 1, 2]));
    OneOfBuilder::new()
        .description(Some("From the start, the current position or the end; 0, 1, 2 likewise."))
        .item(name)
        .item(number)
        .into()
}

impl SeekRequest {
    pub(super) fn checked(self, handle: i64) -> Result<GuestFileSeek, Problem> {
        let Self { offset, whence } = self;
        if (0..=2).contains(&whence.number()) {
            Ok(GuestFileSeek { handle, offset, whence })
        } else {
            Err(Problem::bad_member("whence", "as a number must be 0, 1 or 2"))
        }
    }
}

impl OpenRequest {
    /// The arguments, and what the file is opened for.
    pub(super) fn checked(self) -> Result<(GuestFileOpen, Access), Problem> {
        if self.path.is_empty() || self.path.len() > 32767 || self.path.contains('\0') {
            return Err(Problem::bad_member("path", "must be 1 to 32767 bytes and hold no NUL"));
        }
        let mode = self.mode.as_deref();
        if mode.is_some_and(|mode| !MODES.contains(&mode)) {
            return Err(Problem::bad_member(
                "mode",
                format_args!("must be one of {}", MODES.join(", ")),
            ));
        }
        let access = Access::of_mode(mode);
        Ok((GuestFileOpen { path: self.path, mode: self.mode }, access))
    }
}

impl ReadRequest {
    /// The arguments, and how many bytes they can bring.
    pub(super) fn checked(self, handle: i64) -> Result<(GuestFileRead, usize), Problem> {
        let Self { count } = self;
        let wanted = count.unwrap_or(4096);
        let bytes = usize::try_from(wanted).ok().filter(|_| wanted <= MAX_READ_COUNT);
        let bytes = bytes.ok_or_else(|| {
            Problem::bad_member("count", format_args!("must be from 0 to {MAX_READ_COUNT}"))
        })?;
        Ok((GuestFileRead { handle, count }, bytes))
    }
}

impl WriteRequest {
    pub(super) fn checked(self, handle: i64) -> Result<GuestFileWrite, Problem> {
        let bytes = decode(self.buf_b64.as_bytes())
            .ok_or_else(|| Problem::bad_member("buf-b64", "is not valid base64"))?;
        let length = bytes.len();
        if length > MAX_WRITE {
            return Err(Problem::bad_member(
                "buf-b64",
                format_args!("must hold at most {MAX_WRITE} bytes; write in several requests"),
            ));
        }
        let in_range = |count: &i64| usize::try_from(*count).is_ok_and(|c| c <= length);
        match self.count {
            Some(count) if !in_range(&count) => Err(Problem::bad_member(
                "count",
                format_args!("is {count}, but must be from 0 to the {length} bytes in \"buf-b64\""),
            )),
            count => Ok(GuestFileWrite { handle, buf_b64: Base64Text::new(bytes), count }),
        }
    }
}

/// Base64 with line feeds between the characters. Agents drop an incomplete last group without a
/// word, so it is refused here.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode_to_vec(text).ok().or_else(|| {
        let joined: Vec<u8> = text.iter().copied().filter(|b| *b != b'\n').collect();
        (joined.len() < text.len()).then(|| STANDARD.decode_to_vec(joined).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_refused_before_it_is_sent() {
        for (text, bytes) in [
            ("", Some("")),
            ("QQ==", Some("A")),
            ("QUI=", Some("AB")),
            ("QUJD", Some("ABC")),
            ("QU\nJD\n", Some("ABC")),
            ("QUJ", None),
            ("QUJ*", None),
            ("QUJD\r\n", None),
            ("Q===", None),
            ("=", None),
            ("QQ==QQ==", None),
        ] {
            let decoded = decode(text.as_bytes());
            assert_eq!(decoded.as_deref(), bytes.map(str::as_bytes), "{text:?}");
        }
    }
}
