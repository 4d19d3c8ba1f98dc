//! The content of a file within a reply. It is most of the line, and a parser that looked for escapes in it
//! would take longer than all else that is done with a chunk.

use std::ops::Range;

use crate::scan;

/// What shorter lines hold is parsed as anything else is.
const LONG: usize = 4096;
/// Nothing but this and some numbers stands in front of a content.
const WITHIN: usize = 256;
const NAME: &[u8] = b"\"buf-b64\"";

/// Where in the JSON text at `text` the content of a string behind the name `buf-b64` is, if that is
/// long, and plain: nothing is escaped there, and nothing needs to be.
///
/// The text is valid, and means the same, if and only if it does without that content: there is no
/// quote in it, so that what stands around it is within a string or outside of one as before.
pub(crate) fn find(line: &[u8], text: Range<usize>) -> Option<Range<usize>> {
    let text_end = text.end;
    let head = &line[text.start..text_end.min(text.start + WITHIN)];
    if text.len() < LONG {
        return None;
    }
    let name = head.windows(NAME.len()).position(|window| window == NAME)?;
    let mut rest = &head[name + NAME.len()..];
    rest = rest.trim_ascii_start().strip_prefix(b":")?;
    rest = rest.trim_ascii_start().strip_prefix(b"\"")?;
    let start = text.start + head.len() - rest.len();
    let end = start + scan::plain(&line[start..text_end]);
    (line.get(end) == Some(&b'"') && end < text_end).then_some(start..end)
}

/// The text without that content.
pub(crate) fn around(line: &[u8], text: Range<usize>, content: &Range<usize>) -> Vec<u8> {
    [&line[text.start..content.start], &line[content.end..text.end]].concat()
}
