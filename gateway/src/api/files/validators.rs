//! What tells one content of a file from another: `ETag` and `Last-Modified`, and the conditions
//! that callers make of them (RFC 9110, 13).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use qga_proto::command::{Expected, FileKind, FileStat};

/// The state of a regular file, as far as its kernel's numbers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i64,
}

impl Tag {
    pub(super) fn of(stat: &FileStat) -> Option<Self> {
        let FileStat { dev, ino, size, mtime_ns, .. } = *stat;
        (stat.kind == FileKind::File).then_some(Self { dev, ino, size, mtime_ns })
    }

    /// Without the quotes.
    pub(super) fn text(self) -> String {
        let Self { dev, ino, size, mtime_ns } = self;
        format!("{dev:x}-{ino:x}-{size:x}-{mtime_ns:x}")
    }

    pub(super) fn header(self) -> HeaderValue {
        // Hexadecimal digits in quotes are always a valid header value.
        HeaderValue::try_from(format!("\"{}\"", self.text()))
            .unwrap_or(HeaderValue::from_static("\"\""))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let mut next = || numbers.next().flatten();
        let tag =
            Self { dev: next()?, ino: next()?, size: next()?, mtime_ns: next()?.cast_signed() };
        (tag.text() == text).then_some(tag)
    }

    /// What an agent is told to look for.
    pub(super) fn expected(self) -> Expected {
        let Self { ino, size, mtime_ns, .. } = self;
        Expected { absent: false, ino: Some(ino), size: Some(size), mtime_ns: Some(mtime_ns) }
    }
}

/// When a file's content changed, to the second that HTTP knows.
pub(super) fn modified(stat: &FileStat) -> Option<SystemTime> {
    let seconds = u64::try_from(stat.mtime_ns).ok()? / 1_000_000_000;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

pub(super) fn date_header(time: SystemTime) -> Option<HeaderValue> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
    HeaderValue::try_from(text).ok()
}

fn date(text: &str) -> Option<SystemTime> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok().map(SystemTime::from)
}

/// What comes of a caller's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    NotModified,
    Failed,
}

/// Judges the conditions of a read of a file that is there, in the RFC's order.
pub(super) fn judge_read(
    headers: &HeaderMap,
    tag: Option<Tag>,
    modified: Option<SystemTime>,
) -> Verdict {
    let date_of = |name| single(headers, name).and_then(date);
    if headers.contains_key(header::IF_MATCH) {
        if !names(headers, header::IF_MATCH, tag, false) {
            return Verdict::Failed;
        }
    } else if let (Some(since), Some(modified)) = (date_of(header::IF_UNMODIFIED_SINCE), modified)
        && modified > since
    {
        return Verdict::Failed;
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        if names(headers, header::IF_NONE_MATCH, tag, true) {
            return Verdict::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date_of(header::IF_MODIFIED_SINCE), modified)
        && modified <= since
    {
        return Verdict::NotModified;
    }
    Verdict::Go
}

/// Whether a `Range` counts: only of the content that the caller has the beginning of.
pub(super) fn range_counts(
    headers: &HeaderMap,
    tag: Option<Tag>,
    modified: Option<SystemTime>,
) -> bool {
    let Some(value) = single(headers, header::IF_RANGE) else {
        return !headers.contains_key(header::IF_RANGE);
    };
    if value.contains('"') {
        return tag.is_some_and(|tag| value == format!("\"{}\"", tag.text()));
    }
    // A second is long enough for two contents; of a time long past that is known to be over.
    let settled = |at: SystemTime| at.elapsed().is_ok_and(|age| age > Duration::from_secs(2));
    modified.is_some_and(|modified| date(value) == Some(modified) && settled(modified))
}

/// Whether one of a header's tags is this one, or anything will do.
fn names(headers: &HeaderMap, name: HeaderName, tag: Option<Tag>, weak: bool) -> bool {
    tags(headers, name).any(|one| {
        let quoted = if weak { one.strip_prefix("W/").unwrap_or(one) } else { one };
        one == "*" || tag.is_some_and(|tag| quoted == format!("\"{}\"", tag.text()))
    })
}

fn tags(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|tag| !tag.is_empty())
}

fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// What must stand where a caller writes or removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Condition {
    /// Anything or nothing.
    #[default]
    None,
    /// Nothing: `If-None-Match: *`.
    Absent,
    /// Something: `If-Match: *`.
    Present,
    /// One of these.
    OneOf(Vec<Tag>),
    /// None of these, as far as that is of use to somebody who writes.
    NoneOf(Vec<Tag>),
}

impl Condition {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let parsed = |name| -> Vec<Tag> {
            let quoted = tags(headers, name).filter_map(|t| t.strip_prefix('"')?.strip_suffix('"'));
            quoted.filter_map(Tag::parse).collect()
        };
        let has = |name| headers.contains_key(name);
        let any = |name| tags(headers, name).any(|tag| tag == "*");
        if any(header::IF_NONE_MATCH) {
            Self::Absent
        } else if any(header::IF_MATCH) {
            Self::Present
        } else if has(header::IF_MATCH) {
            Self::OneOf(parsed(header::IF_MATCH))
        } else if has(header::IF_NONE_MATCH) {
            Self::NoneOf(parsed(header::IF_NONE_MATCH))
        } else {
            Self::None
        }
    }

    /// Whether it holds of what stands there now, and what an agent is to look for when it acts.
    pub(super) fn on(&self, now: Option<&FileStat>) -> Option<Option<Expected>> {
        let tag = now.and_then(Tag::of);
        match self {
            Self::None => Some(None),
            Self::Absent => {
                now.is_none().then(|| Some(Expected { absent: true, ..Expected::default() }))
            }
            Self::Present => now.is_some().then(|| Some(Expected::default())),
            Self::OneOf(tags) => {
                let tag = tag.filter(|tag| tags.contains(tag))?;
                Some(Some(tag.expected()))
            }
            Self::NoneOf(tags) => (!tag.is_some_and(|tag| tags.contains(&tag))).then_some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat() -> FileStat {
        let mtime_ns = 1_700_000_000_250_999_123;
        FileStat {
            kind: FileKind::File,
            size: 10,
            ino: 7,
            dev: 2049,
            mtime_ns,
            ..FileStat::default()
        }
    }

    #[test]
    fn whatever_comes_as_a_condition_is_judged() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/conditions");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Some(tag) = Tag::parse(&text) {
                assert_eq!(tag.text(), text, "another tag would match");
            }
            let Ok(value) = HeaderValue::from_bytes(bytes) else { return 0 };
            let verdicts = [
                header::IF_MATCH,
                header::IF_NONE_MATCH,
                header::IF_MODIFIED_SINCE,
                header::IF_UNMODIFIED_SINCE,
                header::IF_RANGE,
            ]
            .map(|name| {
                let headers = HeaderMap::from_iter([(name, value.clone())]);
                let stat = stat();
                let tag = Tag::of(&stat);
                let on = Condition::of(&headers).on(Some(&stat)).is_some();
                let counts = range_counts(&headers, tag, modified(&stat));
                (judge_read(&headers, tag, modified(&stat)), on, counts)
            });
            qga_testing::digest(format!("{verdicts:?}"))
        });
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_tag_is_read_as_it_is_written() {
        let tag = Tag::of(&stat()).unwrap();
        assert_eq!(Tag::parse(&tag.text()), Some(tag));
        let before_1970 = Tag { mtime_ns: -5, ..tag };
        assert_eq!(Tag::parse(&before_1970.text()), Some(before_1970));
        for wrong in ["", "1-2-3", "1-2-3-4-5", "01-2-3-4", "x-1-1-1", "+1-1-1-1"] {
            assert_eq!(Tag::parse(wrong), None, "{wrong}");
        }
        let directory = FileStat { kind: FileKind::Directory, ..stat() };
        assert_eq!(Tag::of(&directory), None);
    }

    #[test]
    fn conditions_of_reads_are_judged_in_order() {
        let tag = Tag::of(&stat());
        let at = modified(&stat());
        let own = format!("\"{}\"", tag.unwrap().text());
        let weak = format!("W/{own}");
        let later = "Tue, 14 Nov 2023 22:13:21 GMT";
        let same = "Tue, 14 Nov 2023 22:13:20 GMT";
        let before = "Tue, 14 Nov 2023 22:13:19 GMT";
        assert_eq!(date_header(at.unwrap()).unwrap(), same);
        use Verdict::{Failed, Go, NotModified};
        for (name, value, verdict) in [
            ("if-match", &*own, Go),
            ("if-match", "*", Go),
            ("if-match", &*weak, Failed),
            ("if-match", "\"x\"", Failed),
            ("if-none-match", &*own, NotModified),
            ("if-none-match", &*weak, NotModified),
            ("if-none-match", "*", NotModified),
            ("if-none-match", "\"x\"", Go),
            ("if-modified-since", same, NotModified),
            ("if-modified-since", later, NotModified),
            ("if-modified-since", before, Go),
            ("if-modified-since", "yesterday", Go),
            ("if-unmodified-since", same, Go),
            ("if-unmodified-since", before, Failed),
        ] {
            assert_eq!(judge_read(&headers(name, value), tag, at), verdict, "{name}: {value}");
        }
        for (value, counts) in
            [(&*own, true), (&*weak, false), ("\"x\"", false), (same, true), (later, false)]
        {
            assert_eq!(range_counts(&headers("if-range", value), tag, at), counts, "{value}");
        }
        assert!(range_counts(&HeaderMap::new(), None, None));
        assert!(!range_counts(&headers("if-range", same), None, None));
        assert!(!range_counts(&headers("if-range", same), tag, Some(SystemTime::now())));
    }

    #[test]
    fn conditions_of_writes_become_what_the_agent_looks_for() {
        let tag = Tag::of(&stat()).unwrap();
        let own = format!("\"{}\"", tag.text());
        let on = |name, value: &str, now: Option<&FileStat>| {
            Condition::of(&headers(name, value)).on(now)
        };
        let now = Some(&stat()).cloned();
        let now = now.as_ref();
        assert_eq!(on("if-match", &own, now), Some(Some(tag.expected())));
        assert_eq!(on("if-match", &own, None), None);
        assert_eq!(on("if-match", "\"x\"", now), None);
        assert_eq!(on("if-match", "*", now), Some(Some(Expected::default())));
        assert_eq!(on("if-match", "*", None), None);
        let absent = Expected { absent: true, ..Expected::default() };
        assert_eq!(on("if-none-match", "*", None), Some(Some(absent)));
        assert_eq!(on("if-none-match", "*", now), None);
        assert_eq!(on("if-none-match", &own, now), None);
        assert_eq!(on("x-other", "1", None), Some(None));
    }
}
