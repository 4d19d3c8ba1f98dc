//! The query of `GET /freezes`: which leases, and how many of them at a time.

use std::fmt::Write as _;
use std::time::SystemTime;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as NoState;

use super::App;
use super::error::Problem;
use super::extract::{pairs, unknown_parameter};
use super::page_of_vms::{DEFAULT, Escaped, limit};
use crate::vm::{Lease, LeaseId, LeaseState};

/// Which leases, and how many of them at a time.
#[derive(Debug)]
pub(super) struct LeasePage {
    pub(super) limit: usize,
    after: Option<Place>,
    states: Vec<Standing>,
    vms: Vec<String>,
    owners: Vec<String>,
    labels: Vec<String>,
}

/// A lease's place in the list. It outlives the lease, which may be forgotten between two pages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Since 1970.
    created_ms: u128,
    id: LeaseId,
}

/// What `state` chooses.
#[derive(Clone, Copy, Debug)]
enum Standing {
    Active,
    Ended,
    Is(LeaseState),
}

impl FromRequestParts<App> for LeasePage {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let mut page = Self {
            limit: DEFAULT,
            after: None,
            states: Vec::new(),
            vms: Vec::new(),
            owners: Vec::new(),
            labels: Vec::new(),
        };
        for (name, value) in pairs(&parts.uri)? {
            match &*name {
                "limit" => page.limit = limit(&value)?,
                "after" => page.after = Some(place(&value)?),
                "state" => page.states.push(standing(&value)?),
                "vm" => page.vms.push(value),
                "owner" => page.owners.push(value),
                "label" => page.labels.push(value),
                _ => return Err(unknown_parameter(&name)),
            }
        }
        Ok(page)
    }
}

fn place(value: &str) -> Result<Place, Problem> {
    let parsed = value.split_once('.').and_then(|(created, id)| {
        Some(Place { created_ms: created.parse().ok()?, id: id.parse().ok()? })
    });
    parsed.ok_or_else(|| {
        Problem::bad_request(
            "Query parameter \"after\" must be what the page before gave as \"next\".",
        )
    })
}

fn standing(value: &str) -> Result<Standing, Problem> {
    match value {
        "active" => return Ok(Standing::Active),
        "ended" => return Ok(Standing::Ended),
        _ => {}
    }
    let state = LeaseState::deserialize(value.into_deserializer());
    state.map(Standing::Is).map_err(|_: NoState| {
        Problem::bad_request(
            "Query parameter \"state\" must be \"active\", \"ended\", or the state of a lease, such \
             as \"frozen\".",
        )
    })
}

impl Place {
    pub(super) fn of(lease: &Lease) -> Self {
        let created = lease.created_at.duration_since(SystemTime::UNIX_EPOCH);
        Self { created_ms: created.unwrap_or_default().as_millis(), id: lease.id.clone() }
    }

    /// Whose it is.
    pub(super) fn id(&self) -> &LeaseId {
        &self.id
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.created_ms, self.id)
    }
}

impl LeasePage {
    pub(super) fn wants(&self, lease: &Lease) -> bool {
        let stands = |standing: &Standing| match standing {
            Standing::Active => !lease.ended(),
            Standing::Ended => lease.ended(),
            Standing::Is(state) => lease.shown_state() == *state,
        };
        let among = |values: &[String], text: &str| values.iter().any(|value| value == text);
        let of = |vms: &[String]| lease.members.iter().any(|member| among(vms, member.vm.as_str()));
        (self.states.is_empty() || self.states.iter().any(stands))
            && (self.vms.is_empty() || of(&self.vms))
            && (self.owners.is_empty() || among(&self.owners, lease.owner.as_str()))
            && (self.labels.is_empty()
                || lease.label.as_deref().is_some_and(|label| among(&self.labels, label)))
            && self.after.as_ref().is_none_or(|after| Place::of(lease) > *after)
    }

    /// The next page, as RFC 8288 writes it.
    pub(super) fn link(&self, next: &str) -> String {
        let mut link = format!("</freezes?limit={}&after={}", self.limit, Escaped(next));
        for standing in &self.states {
            let state = match standing {
                Standing::Active => "active",
                Standing::Ended => "ended",
                Standing::Is(state) => state.as_str(),
            };
            // Writing to a string cannot fail.
            let _ = write!(link, "&state={state}");
        }
        let texts = [("vm", &self.vms), ("owner", &self.owners), ("label", &self.labels)];
        for (name, value) in texts.iter().flat_map(|(name, all)| all.iter().map(move |v| (name, v)))
        {
            let _ = write!(link, "&{name}={}", Escaped(value));
        }
        link + ">; rel=\"next\""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_as_a_place_is_one_or_refused() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/cursor");
        qga_testing::fuzz(corpus.as_ref(), 4000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let place = place(&text);
            if let Ok(Place { created_ms, id }) = &place {
                let again = super::place(&format!("{created_ms}.{id}"));
                assert!(
                    again.is_ok_and(|again| again.created_ms == *created_ms && again.id == *id)
                );
            }
            let standing = standing(&text).is_ok();
            u64::from(place.is_ok()) + 2 * u64::from(standing) + 4 * u64::from(limit(&text).is_ok())
        });
    }
}
