//! Where a client stands in both streams of a process's output.

use axum::http::{HeaderMap, HeaderName};

use super::{Choice, OutputQuery};
use crate::api::error::Problem;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What the client has of both streams.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    at: [u64; 2],
    pub(super) ended: bool,
}

impl Place {
    fn parse(id: &str) -> Option<Self> {
        let mut parts = id.split('-');
        let digits =
            |part: &&str| part.len() <= 18 && part.bytes().all(|byte| byte.is_ascii_digit());
        let mut number = || parts.next().filter(digits)?.parse::<u64>().ok();
        let at = [number()?, number()?];
        match (parts.next(), parts.next()) {
            (None, _) => Some(Self { at, ended: false }),
            (Some("end"), None) => Some(Self { at, ended: true }),
            _ => None,
        }
    }

    pub(super) fn positions(&self, choice: Option<Choice>) -> [Option<u64>; 2] {
        let wanted = |stream| matches!(choice, None | Some(Choice::Both)) || choice == Some(stream);
        [wanted(Choice::Stdout).then_some(self.at[0]), wanted(Choice::Stderr).then_some(self.at[1])]
    }
}

/// What a request says of it.
pub(super) fn place(query: &OutputQuery, headers: &HeaderMap) -> Result<Place, Problem> {
    if let Some(place) = last_event(query, headers)? {
        return Ok(place);
    }
    let Some(offset) = query.offset else { return Ok(Place::default()) };
    let at = match query.stream {
        Some(Choice::Stdout) => [offset, 0],
        Some(Choice::Stderr) => [0, offset],
        None | Some(Choice::Both) => {
            return Err(Problem::bad_request(
                "Query parameter \"offset\" needs \"stream=stdout\" or \"stream=stderr\"; both go on \
                 with \"last_event_id\".",
            ));
        }
    };
    Ok(Place { at, ended: false })
}

/// The place that an event's id names; also looked at where there are no events, so that what is no id
/// is not ignored.
pub(super) fn last_event(
    query: &OutputQuery,
    headers: &HeaderMap,
) -> Result<Option<Place>, Problem> {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?").to_owned());
    let said = |id: &String| !id.is_empty();
    let Some(id) = header.filter(said).or_else(|| query.last_event_id.clone().filter(said)) else {
        return Ok(None);
    };
    let place = Place::parse(&id);
    place
        .map(Some)
        .ok_or_else(|| Problem::bad_request("Last-Event-ID is no id of an event of this stream."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_place_in_both_streams() {
        assert_eq!(Place::parse("12-3"), Some(Place { at: [12, 3], ended: false }));
        assert_eq!(Place::parse("12-3-end"), Some(Place { at: [12, 3], ended: true }));
        for bad in [
            "",
            "1",
            "1-",
            "1-2-",
            "1-2-end-",
            "a-b",
            "-1-2",
            "1-2-3",
            "+1-2",
            "1-1000000000000000000",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
    #[test]
    fn whatever_comes_as_an_id_is_a_place_or_none() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/sse-id");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let place = Place::parse(&text);
            if let Some(Place { at: [out, err], ended }) = place {
                let end = if ended { "-end" } else { "" };
                let again = Place::parse(&format!("{out}-{err}{end}"));
                assert_eq!(again, Some(Place { at: [out, err], ended }));
            }
            let event = text.parse::<crate::vm::EventId>();
            if let Ok(id) = event {
                assert_eq!(id.to_string().parse(), Ok(id), "{text:?}");
            }
            u64::from(place.is_some()) + 2 * u64::from(event.is_ok())
        });
    }
}
