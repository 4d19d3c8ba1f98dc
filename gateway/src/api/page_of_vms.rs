//! The query of `GET /vms`: which VMs, and how many of them at a time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::App;
use super::error::Problem;
use super::extract::{pairs, unknown_parameter};
use crate::vm::{LinkState, LinkStatus};

const MOST: usize = 10_000;
pub(super) const DEFAULT: usize = 1000;

/// Which VMs, and how many of them at a time.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) limit: usize,
    pub(super) after: Option<String>,
    states: Vec<LinkState>,
    labels: Vec<(String, String)>,
}

impl FromRequestParts<App> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let mut page = Self { limit: DEFAULT, after: None, states: Vec::new(), labels: Vec::new() };
        for (name, value) in pairs(&parts.uri)? {
            match &*name {
                "limit" => page.limit = limit(&value)?,
                "after" => page.after = Some(value),
                "state" => page.states.push(state(&value)?),
                "label" => page.labels.push(label(&value)?),
                _ => return Err(unknown_parameter(&name)),
            }
        }
        Ok(page)
    }
}

pub(super) fn limit(value: &str) -> Result<usize, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| {
        Problem::bad_request(format!("Query parameter \"limit\" must be from 1 to {MOST}."))
    })
}

fn state(value: &str) -> Result<LinkState, Problem> {
    let known = LinkState::ALL.into_iter().find(|state| state.as_str() == value);
    known.ok_or_else(|| {
        let known = LinkState::ALL.map(LinkState::as_str).join(", ");
        Problem::bad_request(format!("Query parameter \"state\" must be one of {known}."))
    })
}

fn label(value: &str) -> Result<(String, String), Problem> {
    let (key, value) = value.split_once('=').ok_or_else(|| {
        Problem::bad_request("Query parameter \"label\" must be a key and a value: key=value.")
    })?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Page {
    pub(super) fn wants(&self, labels: &BTreeMap<String, String>, link: &LinkStatus) -> bool {
        (self.states.is_empty() || self.states.contains(&link.state))
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// The next page, as RFC 8288 writes it.
    pub(super) fn link(&self, next: &str) -> String {
        let mut link = format!("</vms?limit={}&after={}", self.limit, Escaped(next));
        for state in &self.states {
            // Writing to a string cannot fail.
            let _ = write!(link, "&state={state}");
        }
        for (key, value) in &self.labels {
            let _ = write!(link, "&label={}%3D{}", Escaped(key), Escaped(value));
        }
        link + ">; rel=\"next\""
    }
}

/// Text as it stands in a query.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                f.write_char(byte.into())
            }
            byte => write!(f, "%{byte:02X}"),
        })
    }
}
