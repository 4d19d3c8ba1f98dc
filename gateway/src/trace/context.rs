//! `traceparent` and `tracestate`, as W3C Trace Context (level 1) has them.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The most that a `tracestate` may have; what is longer is left out, as §3.3.1.5 allows.
const MAX_STATE: usize = 512;

/// 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceId(pub(super) [u8; 16]);

/// 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanId(pub(super) [u8; 8]);

/// A request's place in a trace.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    /// The request's own span.
    pub(crate) span: SpanId,
    /// The caller's span, if it sent one.
    pub(super) parent: Option<SpanId>,
    /// Whether somebody keeps this trace.
    pub(crate) sampled: bool,
    /// What the caller's tracing systems have to tell each other.
    pub(crate) state: Option<String>,
}

impl Trace {
    /// The caller's trace, or with `begin` a new one where it sent none that can be understood.
    pub(crate) fn of(headers: &HeaderMap, begin: bool) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let parent = match (values.next(), values.next()) {
            (Some(value), None) => parse(value.as_bytes()),
            _ => None,
        };
        match parent {
            Some((id, parent, sampled)) => {
                let state = state(headers);
                Some(Self { id, span: SpanId::random()?, parent: Some(parent), sampled, state })
            }
            None if begin => {
                let id = TraceId::random()?;
                Some(Self { id, span: SpanId::random()?, parent: None, sampled: true, state: None })
            }
            None => None,
        }
    }

    /// For the answer: the trace, and the gateway's span in it.
    pub(crate) fn traceparent(&self) -> HeaderValue {
        let text = format!("00-{}-{}-{:02x}", self.id, self.span, u8::from(self.sampled));
        // Hex digits and hyphens are always a valid header value.
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"))
    }
}

/// `version-trace-parent-flags`, lower case. Of a later version the beginning is understood.
fn parse(value: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (head, rest) = value.split_at_checked(55)?;
    let hyphens = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let version: [u8; 1] = hex(&head[..2])?;
    let later = version[0] != 0 && version[0] != 0xff && rest.first().is_none_or(|b| *b == b'-');
    if !hyphens || !(version[0] == 0 && rest.is_empty() || later) {
        return None;
    }
    let (id, parent) = (hex(&head[3..35])?, hex(&head[36..52])?);
    let flags: [u8; 1] = hex(&head[53..])?;
    let known = id != [0; 16] && parent != [0; 8];
    known.then_some((TraceId(id), SpanId(parent), flags[0] & 1 == 1))
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// All `tracestate` headers as one, if each member looks like one: at most 32 of `key=value`.
fn state(headers: &HeaderMap) -> Option<String> {
    let mut members = Vec::new();
    for value in headers.get_all(TRACESTATE) {
        for member in value.to_str().ok()?.split(',').map(|m| m.trim_matches([' ', '\t'])) {
            if !member.is_empty() {
                members.push(Some(member).filter(|m| is_member(m))?);
            }
        }
    }
    let keys = members.iter().filter_map(|m| m.split_once('=')).map(|(key, _)| key);
    let twice = keys.clone().enumerate().any(|(n, key)| keys.clone().take(n).any(|k| k == key));
    let text = members.join(",");
    let fits = (1..=32).contains(&members.len()) && text.len() <= MAX_STATE && !twice;
    fits.then_some(text)
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let begins = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let of_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
    let of_value = |b: u8| matches!(b, b' '..=b'~') && b != b',' && b != b'=';
    begins
        && key.len() <= 256
        && key.bytes().all(of_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(of_value)
}

impl TraceId {
    fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        // Without entropy there is no trace.
        getrandom::fill(&mut bytes).ok().filter(|()| bytes != [0; 16]).map(|()| Self(bytes))
    }
}

impl SpanId {
    pub(super) fn random() -> Option<Self> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).ok().filter(|()| bytes != [0; 8]).map(|()| Self(bytes))
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn whatever_comes_as_a_trace_is_one_or_none() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/trace");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| {
            let Ok(value) = HeaderValue::from_bytes(bytes) else { return 0 };
            let parsed = parse(bytes);
            if let Some((id, parent, _)) = &parsed {
                let again = parse(format!("00-{id:?}-{parent:?}-01").as_bytes());
                assert!(again.is_some_and(|(other, ..)| other == *id));
            }
            let headers = HeaderMap::from_iter([(TRACESTATE, value)]);
            let state = state(&headers);
            if let Some(state) = &state {
                assert!(state.len() <= MAX_STATE && HeaderValue::try_from(state.as_str()).is_ok());
            }
            u64::from(parsed.is_some()) + 2 * u64::from(state.is_some())
        });
    }

    fn trace(parents: &[&str], states: &[&str]) -> Option<Trace> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).expect("a value"));
        }
        for state in states {
            headers.append(TRACESTATE, HeaderValue::from_str(state).expect("a value"));
        }
        Trace::of(&headers, false)
    }

    #[test]
    fn a_callers_trace_goes_on() {
        let got = trace(&[GOOD], &["congo=t61rcWkgMzE"]).expect("a trace");
        assert_eq!(got.id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(got.parent.map(|p| p.to_string()).as_deref(), Some("00f067aa0ba902b7"));
        assert!(got.sampled && got.state.as_deref() == Some("congo=t61rcWkgMzE"));
        let back = got.traceparent();
        let (_, own, sampled) = parse(back.as_bytes()).expect("what we write, we read");
        assert!(sampled && own == got.span && got.parent != Some(own));
        // Any flag but the first is unknown; a later version may have more behind it.
        assert!(!trace(&[&GOOD.replace("-01", "-fe")], &[]).expect("a trace").sampled);
        for later in ["cc-", "01-"] {
            let value = GOOD.replacen("00-", later, 1);
            assert!(trace(&[&value], &[]).is_some(), "{value}");
            assert!(trace(&[&(value.clone() + "-what")], &[]).is_some());
            assert!(trace(&[&(value + ".what")], &[]).is_none());
        }
    }

    #[test]
    fn what_is_not_as_the_standard_says_is_no_trace() {
        let long = format!("{GOOD}-00");
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &long,
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("4bf9", "4bg9"),
            &format!(" {}", &GOOD[..54]),
        ] {
            assert!(trace(&[bad], &["a=1"]).is_none(), "{bad}");
        }
        assert!(trace(&[GOOD, GOOD], &[]).is_none(), "twice");
        assert!(trace(&[], &["a=1"]).is_none());
        let new = Trace::of(&HeaderMap::new(), true).expect("begun");
        assert!(new.sampled && new.parent.is_none());
    }

    #[test]
    fn a_tracestate_is_taken_whole_or_not_at_all() {
        let state = |states: &[&str]| trace(&[GOOD], states).expect("a trace").state;
        assert_eq!(state(&["a=1, b@c=2", "", "d=x y"]).as_deref(), Some("a=1,b@c=2,d=x y"));
        let (many, long) = (vec!["a=1"; 33].join(","), format!("a={}", "x".repeat(257)));
        let sum: Vec<_> = (0..20).map(|n| format!("k{n}={}", "x".repeat(40))).collect();
        for bad in ["", "a", "A=1", "=1", "a=", "a=1,a=2", "a=b=c", &many, &long, &sum.join(",")] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
    }
}
