//! A file's content on its way to a caller: head and body of the answer.

use std::fmt::Write as _;
use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;

use super::range::Wanted;
use super::validators::{self, Tag, Verdict};
use crate::api::caller::Vm;
use crate::api::error::{Code, Problem};
use crate::vm::transfer::{Download, GuestPath, Opened, Piece};

/// What is known of a file before its content is read.
struct Known {
    tag: Option<Tag>,
    modified: Option<std::time::SystemTime>,
    name: HeaderValue,
}

/// Answers with the content, or with what the caller's conditions say instead.
///
/// The first piece is read before the head is written: what cannot be read at all is a problem and
/// not a broken body, and a file that ends within it has the length that it has, whatever its
/// kernel said (`/proc`, `/sys`).
pub(super) async fn answer(
    vm: &Vm,
    path: &GuestPath,
    opened: Opened,
    headers: &HeaderMap,
    with_body: bool,
) -> Result<Response, Problem> {
    let stat = opened.stat.as_ref();
    let mut known = Known {
        tag: stat.and_then(Tag::of),
        modified: stat.filter(|stat| Tag::of(stat).is_some()).and_then(validators::modified),
        name: disposition(path),
    };
    match validators::judge_read(headers, known.tag, known.modified) {
        Verdict::Go => {}
        Verdict::NotModified => return Ok(known.head(StatusCode::NOT_MODIFIED, Body::empty())),
        Verdict::Failed => return Err(precondition_failed(vm)),
    }
    let range = headers.get(header::RANGE).filter(|_| with_body);
    let range = range.filter(|_| validators::range_counts(headers, known.tag, known.modified));
    let range = range.and_then(|range| range.to_str().ok()).unwrap_or_default();
    let size = opened.size;
    let wanted = size.map_or(Wanted::Whole, |size| Wanted::of(range, size));
    let (offset, length) = match wanted {
        Wanted::Whole => (0, size),
        Wanted::Part { first, last } => (first, Some(last - first + 1)),
        Wanted::Nothing => return Err(not_satisfiable(vm, size.unwrap_or(0))),
    };
    let mut download = opened.start(offset, length);
    let Piece { bytes, last } = download.next().await.map_err(|error| vm.transfer_failed(error))?;
    if size.is_none() && (!last || !bytes.is_empty()) {
        // A file of 0 bytes that has some is none whose state the kernel's numbers tell.
        (known.tag, known.modified) = (None, None);
    }
    let first_piece = bytes.len() as u64;
    let whole = Whole { first: bytes, rest: (!last).then_some(download) };
    let (part, size) = match (wanted, length) {
        // It ends here, so this is all there is.
        (Wanted::Whole, _) if last => (Wanted::of(range, first_piece), Some(first_piece)),
        (Wanted::Part { first, .. }, Some(length)) if last && first_piece < length => {
            let end = first + first_piece;
            if first_piece == 0 {
                return Err(not_satisfiable(vm, end));
            }
            (Wanted::Part { first, last: end - 1 }, Some(end))
        }
        (wanted, _) => (wanted, size),
    };
    if part == Wanted::Nothing {
        return Err(not_satisfiable(vm, first_piece));
    }
    Ok(known.respond(whole.cut(wanted, part), part, size, with_body))
}

impl Known {
    fn respond(
        &self,
        content: Whole,
        part: Wanted,
        size: Option<u64>,
        with_body: bool,
    ) -> Response {
        let (status, length) = match part {
            Wanted::Part { first, last } => (StatusCode::PARTIAL_CONTENT, Some(last - first + 1)),
            Wanted::Whole | Wanted::Nothing => (StatusCode::OK, size),
        };
        let body = if with_body { content.into_body() } else { Body::empty() };
        let mut response = self.head(status, body);
        let headers = response.headers_mut();
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        if let (Wanted::Part { first, last }, Some(size)) = (part, size)
            && let Ok(range) = HeaderValue::try_from(format!("bytes {first}-{last}/{size}"))
        {
            headers.insert(header::CONTENT_RANGE, range);
        }
        let ranges = if size.is_some() { "bytes" } else { "none" };
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static(ranges));
        response
    }

    fn head(&self, status: StatusCode, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if let Some(tag) = self.tag {
            headers.insert(header::ETAG, tag.header());
        }
        if let Some(date) = self.modified.and_then(validators::date_header) {
            headers.insert(header::LAST_MODIFIED, date);
        }
        if status != StatusCode::NOT_MODIFIED {
            let bytes = HeaderValue::from_static("application/octet-stream");
            headers.insert(header::CONTENT_TYPE, bytes);
            headers.insert(header::CONTENT_DISPOSITION, self.name.clone());
        }
        // To be kept by who asked and by nobody between, and asked for again before it is used.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

/// A content: what is there of it, and what is to come.
struct Whole {
    first: Bytes,
    rest: Option<Download>,
}

impl Whole {
    /// A part that is known only now, because the size is.
    fn cut(mut self, wanted: Wanted, part: Wanted) -> Self {
        if let (Wanted::Whole, Wanted::Part { first, last }) = (wanted, part) {
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(self.first.len());
            self.first = self.first.slice(at(first)..at(last + 1));
        }
        self
    }

    /// An error within breaks the connection off, so that nobody takes a part for the whole.
    fn into_body(self) -> Body {
        if self.rest.is_none() {
            return Body::from(self.first);
        }
        Body::from_stream(unfold(self, |mut content| async move {
            if !content.first.is_empty() {
                let first = std::mem::take(&mut content.first);
                return Some((Ok(first), content));
            }
            let piece = content.rest.as_mut()?.next().await;
            match piece {
                Ok(Piece { bytes, last }) => {
                    if last {
                        content.rest = None;
                    }
                    Some((Ok(bytes), content))
                }
                Err(error) => {
                    content.rest = None;
                    Some((Err(io::Error::other(error)), content))
                }
            }
        }))
    }
}

fn precondition_failed(vm: &Vm) -> Problem {
    Problem::new(
        Code::PreconditionFailed,
        "The file's ETag or date is another one than If-Match or If-Unmodified-Since asks for.",
    )
    .vm(vm.handle.id())
}

fn not_satisfiable(vm: &Vm, size: u64) -> Problem {
    Problem::new(
        Code::RangeNotSatisfiable,
        format!("The file has {size} bytes, and none of them is in the range asked for."),
    )
    .vm(vm.handle.id())
    .size(size)
}

/// `attachment`, so that no browser shows what a guest made as if it were the gateway's, with the
/// file's name (RFC 6266): plain for old clients, and percent-encoded.
fn disposition(path: &GuestPath) -> HeaderValue {
    // Longer ones than a filesystem has would make a head that clients refuse.
    if path.name().len() > 255 {
        return HeaderValue::from_static("attachment");
    }
    let name = String::from_utf8_lossy(path.name()).into_owned();
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !"\"\\%".contains(c) || c == ' ' { c } else { '_' })
        .collect();
    let mut text = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        let of = |path: &[u8]| {
            let header = disposition(&GuestPath::new(path.to_vec()).unwrap());
            header.to_str().unwrap().to_owned()
        };
        assert_eq!(
            of(b"/var/log/a b.txt"),
            "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"
        );
        assert_eq!(
            of("/x/\"\r\né".as_bytes()),
            "attachment; filename=\"____\"; filename*=UTF-8''%22%0D%0A%C3%A9"
        );
        assert!(of(b"/x/\xff").ends_with("filename*=UTF-8''%EF%BF%BD"));
        assert_eq!(of(b"/"), "attachment; filename=\"\"; filename*=UTF-8''");
        assert_eq!(of(&[b'a'; 256]), "attachment");
    }
}
