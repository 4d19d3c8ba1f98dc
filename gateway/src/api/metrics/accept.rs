//! Which format a scraper wants.

use axum::http::{HeaderMap, header};

use crate::metrics::page::Format;

/// The format that the `Accept` headers prefer; `None` if they rule both out.
pub(super) fn format(headers: &HeaderMap) -> Option<Format> {
    let mut best: Option<(f32, Format)> = None;
    let mut named_any = false;
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')).map(str::trim) {
        if range.is_empty() {
            continue;
        }
        named_any = true;
        let Some((format, quality)) = offer(range) else { continue };
        // Of what is wanted alike, the first.
        if quality > 0.0 && best.is_none_or(|(least, _)| quality > least) {
            best = Some((quality, format));
        }
    }
    match best {
        Some((_, format)) => Some(format),
        None => (!named_any).then_some(Format::Prometheus),
    }
}

/// What a media range asks for of what there is, and how much it wants it.
fn offer(range: &str) -> Option<(Format, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let (format, versions) = match &*media {
        "application/openmetrics-text" => (Format::OpenMetrics, ["1.0.0", "0.0.1"]),
        "text/plain" | "text/*" | "*/*" => (Format::Prometheus, ["0.0.4", "0.0.4"]),
        _ => return None,
    };
    let mut quality = 1.0;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => quality = value.parse().unwrap_or(0.0),
            "version" if !versions.contains(&value) => return None,
            _ => {}
        }
    }
    Some((format, quality))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_scraper_chooses() {
        let asked = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            format(&headers)
        };
        // As Prometheus 2.42 and 3 send it.
        for accept in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text",
        ] {
            assert_eq!(asked(accept), Some(Format::OpenMetrics), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/plain;version=0.0.4, application/openmetrics-text;q=0.5",
            "application/openmetrics-text; version=2.0.0, text/*;q=0.1",
            "application/openmetrics-text;q=0, */*;q=0.1",
        ] {
            assert_eq!(asked(accept), Some(Format::Prometheus), "{accept}");
        }
        for accept in ["application/json", "text/html", "text/plain;q=0", "text/plain;version=1"] {
            assert_eq!(asked(accept), None, "{accept}");
        }
        assert_eq!(format(&HeaderMap::new()), Some(Format::Prometheus));
    }
}
