//! Reads an agent's reply. Everything in it is untrusted.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chunk;
use crate::command::{Command, FileChunk, GuestFileRead};
use crate::error::{ErrorClass, QgaError};

/// How much of a guest's error text is kept, in bytes.
const MAX_DESC: usize = 4096;
/// The longest name of an error number; EOVERFLOW and its like have less.
const MAX_ERRNO: usize = 32;

/// The `return` member of a reply.
#[derive(Clone, Debug)]
pub struct ReplyText {
    line: Vec<u8>,
    value: Range<usize>,
    chunk: Option<Range<usize>>,
}

impl ReplyText {
    /// The JSON text.
    pub fn json(&self) -> &[u8] {
        &self.line[self.value.clone()]
    }

    /// Reads it as the answer of a command; the error says what does not fit.
    pub fn decode<C: Command>(&self) -> Result<C::Return, ReplyError> {
        serde_json::from_slice(self.json())
            .map_err(|error| ReplyError::BadReply(format!("{}: {error}", C::INFO.name)))
    }

    /// Reads it as the answer of `guest-file-read`, without copying the bytes.
    pub fn into_file_chunk(self) -> Result<FileChunk, ReplyError> {
        FileChunk::decode(self.line, self.value, self.chunk)
            .map_err(|error| ReplyError::BadReply(format!("{}: {error}", GuestFileRead::INFO.name)))
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The agent answered with an error.
    #[error("the guest agent refused: {0}")]
    Agent(QgaError),
    /// No answer came before the deadline. The command may have run, or may yet.
    #[error("no answer before the deadline")]
    TimedOut,
    /// What came is not an answer to this command. The command may have run.
    #[error("the answer makes no sense: {0}")]
    BadReply(String),
    /// A sync was answered and this command was not. It may have run.
    #[error("the answer was lost")]
    Lost,
}

/// A line that is a reply.
#[derive(Debug)]
pub(crate) struct Reply {
    line: Vec<u8>,
    id: Option<String>,
    content: ContentRange,
    /// As [`chunk::find`] found it.
    chunk: Option<Range<usize>>,
}

#[derive(Debug)]
enum ContentRange {
    Return(Range<usize>),
    Error(QgaError),
}

pub(crate) enum Content {
    Return(ReplyText),
    Error(QgaError),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "return")]
    value: Option<&'a RawValue>,
    error: Option<WireError>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireError {
    class: ErrorClass,
    #[serde(default)]
    desc: String,
    #[serde(default)]
    errno: Option<String>,
}

impl Reply {
    /// Reads the line from `start`. The error says what is wrong with it.
    pub(crate) fn parse(line: Vec<u8>, start: usize) -> Result<Self, String> {
        let chunk = chunk::find(&line, start..line.len());
        let around = chunk.as_ref().map(|chunk| chunk::around(&line, start..line.len(), chunk));
        let text = around.as_deref().unwrap_or_else(|| &line[start..]);
        let wire: Wire<'_> =
            serde_json::from_slice(text).map_err(|error| format!("not a reply: {error}"))?;
        let content = match (wire.value, wire.error) {
            (Some(value), None) => {
                // The raw value borrows from the text: its place there is the distance.
                let from = start + (value.get().as_ptr() as usize - text.as_ptr() as usize);
                let to = from + value.get().len();
                let shift = |at: usize| match &chunk {
                    Some(chunk) if at > chunk.start => at + chunk.len(),
                    _ => at,
                };
                ContentRange::Return(shift(from)..shift(to))
            }
            (None, Some(WireError { class, mut desc, errno })) => {
                if desc.len() > MAX_DESC {
                    desc.truncate(desc.floor_char_boundary(MAX_DESC));
                }
                // Whoever sends something else has not said it.
                let is_name = |e: &String| e.starts_with('E') && e.len() <= MAX_ERRNO;
                ContentRange::Error(QgaError { class, desc, errno: errno.filter(is_name) })
            }
            (Some(_), Some(_)) => return Err("both a return and an error".to_owned()),
            (None, None) => return Err("neither a return nor an error".to_owned()),
        };
        let id = wire.id.map(|id| id.get().to_owned());
        Ok(Self { line, id, content, chunk })
    }

    /// The JSON text of the `id` member.
    pub(crate) fn id(&self) -> Option<&String> {
        self.id.as_ref()
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_integer(&self, number: i64) -> bool {
        match &self.content {
            ContentRange::Return(range) => std::str::from_utf8(&self.line[range.clone()])
                .is_ok_and(|text| text.parse() == Ok(number)),
            ContentRange::Error(_) => false,
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        matches!(self.content, ContentRange::Error(_))
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(&self.content, ContentRange::Error(error) if error.is_not_found())
    }

    pub(crate) fn into_content(self) -> Content {
        match self.content {
            ContentRange::Return(value) => {
                Content::Return(ReplyText { line: self.line, value, chunk: self.chunk })
            }
            ContentRange::Error(error) => Content::Error(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{FsfreezeStatus, GuestFsfreezeStatus, GuestInfo};

    fn parse(line: &str) -> Result<Reply, String> {
        Reply::parse(line.as_bytes().to_vec(), 0)
    }

    fn text(line: &str) -> ReplyText {
        match parse(line).unwrap().into_content() {
            Content::Return(text) => text,
            Content::Error(error) => panic!("{error}"),
        }
    }

    #[test]
    fn finds_the_return_wherever_it_stands() {
        let text = text(r#"{"id": 1, "return":  {"a": [1]} , "x": 2}"#);
        assert_eq!(text.json(), br#"{"a": [1]}"#);
    }

    /// As without the way past the content: the same is understood, and the same refused.
    #[test]
    fn a_long_content_changes_nothing_of_what_is_read() {
        let long = "QUJD".repeat(2000);
        for (line, good) in [
            (r#"{"return": {"buf-b64": "#, true),
            (r#" {"id": 7, "return" : {"count": 6000, "eof": false, "buf-b64" :"#, true),
            (r#"{"x": "\"buf-b64", "return": {"buf-b64": "#, true),
            (r#"{"x": "\"buf-b64": "#, false),
            (r#"{"return": 1, "x": "buf-b64": "#, false),
            (r#"{"return": 1, "return": {"buf-b64": "#, false),
        ] {
            for (end, ends_well) in [(r#""}, "id": "a"}"#, true), (r#""}}"#, true), ("\"", false)] {
                for (odd, plain) in
                    [("", true), ("\\/", true), ("\\", false), ("\u{1}", false), ("é", true)]
                {
                    let whole = format!("{line}\"{long}{odd}{end}");
                    let slow = serde_json::from_str::<Wire<'_>>(&whole);
                    let read = parse(&whole);
                    let twice = whole.matches("\"id\"").count() > 1;
                    assert_eq!(
                        read.is_ok(),
                        good && ends_well && plain && !twice,
                        "{line} {odd:?} {end}"
                    );
                    let (Ok(read), Ok(slow)) = (read, slow) else { continue };
                    assert_eq!(read.id(), slow.id.map(|id| id.get().to_owned()).as_ref());
                    let Content::Return(text) = read.into_content() else { panic!("{line}") };
                    assert_eq!(Some(text.json()), slow.value.map(|value| value.get().as_bytes()));
                }
            }
        }
        let mut broken = format!("{{\"return\": {{\"buf-b64\": \"{long}\"}}}}").into_bytes();
        broken[4000] = 0xFE;
        assert!(Reply::parse(broken, 0).is_err());
    }

    #[test]
    fn decodes_into_the_commands_type_or_says_what_does_not_fit() {
        let status = text(r#"{"return": "error"}"#).decode::<GuestFsfreezeStatus>().unwrap();
        assert_eq!(status, FsfreezeStatus::Error);
        let refused = text(r#"{"return": 7}"#).decode::<GuestInfo>().unwrap_err();
        assert!(refused.to_string().contains("guest-info"), "{refused}");
    }

    #[test]
    fn what_an_agent_of_0_15_says_of_itself_is_enough() {
        let info = text(r#"{"return": {"version": "0.15.0"}}"#).decode::<GuestInfo>().unwrap();
        assert_eq!((info.version.as_str(), info.supported_commands.len()), ("0.15.0", 0));
    }

    #[test]
    fn nonsense_is_told_apart() {
        for line in [
            "",
            "null",
            "[]",
            "{}",
            "{\"return\": 1",
            "{\"event\": \"x\"}",
            "{\"error\": 1}",
            "{\"return\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"\"}}",
            "{\"return\": 1, \"return\": 2}",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let deep = format!("{{\"return\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        // Either is fine; a stack overflow is not.
        let _ = parse(&deep).map(Reply::into_content);
    }

    #[test]
    fn a_guests_error_text_is_capped() {
        let line = format!(
            "{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{}\"}}}}",
            "é".repeat(9000)
        );
        let Content::Error(error) = parse(&line).unwrap().into_content() else { panic!() };
        assert!(error.desc.len() <= MAX_DESC);
    }
}
