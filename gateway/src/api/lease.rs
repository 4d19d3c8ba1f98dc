//! A freeze lease as the API shows it, and what callers say about one.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{Code, Problem, printable};
use super::mirror::mirror;
use super::time::Timestamp;
use crate::vm::{Lease, LeaseId};

mirror! {
    /// What happens when not everything freezes.
    #[derive(Default, serde::Deserialize)]
    Policy as PolicyBody {
        /// Everything asked for is frozen, or the freeze fails and everything is thawed.
        #[default]
        Required,
        /// What could be frozen is, and the rest is named in `skipped`.
        BestEffort,
    }
}

mirror! {
    /// Where a lease stands.
    LeaseState as LeaseStateBody {
        /// The freeze is under way.
        Freezing,
        /// The guest said that it is frozen.
        Frozen,
        /// The thaw is under way, or being retried.
        Thawing,
        /// Over: the guest said that it is thawed.
        Thawed,
        /// Over: it never held.
        Failed,
        /// The VM is gone.
        Orphaned,
    }
}

mirror! {
    /// Why a lease was thawed.
    ThawCause as ThawCauseBody {
        /// Somebody asked.
        Requested,
        /// Its time was over.
        Expired,
        /// The freeze did not come out as asked for.
        Rollback,
        /// Somebody else thawed, or the guest did by itself.
        External,
        /// The gateway was stopped.
        Shutdown,
        /// Somebody asked to thaw what was not frozen through this gateway.
        Forced,
    }
}

mirror! {
    /// Whether the filesystems stood still from freeze to thaw.
    Verdict as VerdictBody {
        /// The agent proves it.
        Held,
        /// The counts agree, and no reset or reconnect was seen: the best a stock agent can show.
        CountsAgree,
        /// They did not: what was copied meanwhile is not consistent.
        Lost,
        /// Some were never frozen.
        Partial,
        /// There is no telling.
        Unknown,
    }
}

mirror! {
    /// Who thaws if the caller does not.
    Guard as GuardBody {
        /// The gateway alone.
        Gateway,
        /// The gateway, and the agent by itself a little later.
        #[serde(rename = "gateway+agent")]
        GatewayAndAgent,
    }
}

/// A freeze of one VM, present or past.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lease, example = json!({
    "id": "frz_0123456789abcdef0123456789abcdef",
    "vm_id": "web-1",
    "state": "frozen",
    "owner": "unix:uid=0",
    "label": "nightly backup",
    "policy": "required",
    "filesystems": 3,
    "skipped": [],
    "ttl_seconds": 60,
    "created_at": "2026-11-22T09:15:04.102Z",
    "frozen_at": "2026-11-22T09:15:04.250Z",
    "expires_at": "2026-11-22T09:16:04.250Z",
    "thawed_at": null,
    "thaw_cause": null,
    "verdict": null,
    "evidence": [],
    "thaw_error": null,
    "max_hold_seconds": null,
    "guard": "gateway"
}))]
pub(super) struct LeaseBody {
    id: String,
    vm_id: String,
    state: LeaseStateBody,
    /// The principal that made it.
    owner: String,
    /// The caller's own note.
    #[schema(required)]
    label: Option<String>,
    policy: PolicyBody,
    /// How many filesystems the kernel froze.
    #[schema(required)]
    filesystems: Option<u64>,
    /// What was to be frozen and is not, as far as the agent tells.
    skipped: Vec<String>,
    /// How long the freeze may hold, from `frozen_at` or the last renewal.
    ttl_seconds: u64,
    created_at: Timestamp,
    /// When the last filesystem was frozen.
    #[schema(required)]
    frozen_at: Option<Timestamp>,
    /// When the gateway thaws by itself.
    #[schema(required)]
    expires_at: Option<Timestamp>,
    /// When the guest said that it has thawed.
    #[schema(required)]
    thawed_at: Option<Timestamp>,
    #[schema(required)]
    thaw_cause: Option<ThawCauseBody>,
    /// `null` until the lease has ended.
    #[schema(required)]
    verdict: Option<VerdictBody>,
    /// What the verdict rests on, for a person.
    evidence: Vec<String>,
    /// What the guest's thaw complained of, although it thawed.
    #[schema(required)]
    thaw_error: Option<String>,
    /// How long this guest can hold at all: 10 on Windows.
    #[schema(required)]
    max_hold_seconds: Option<u64>,
    guard: GuardBody,
}

impl From<Lease> for LeaseBody {
    fn from(lease: Lease) -> Self {
        let text = |s: &String| printable(s);
        Self {
            id: lease.id.to_string(),
            vm_id: lease.vm.to_string(),
            state: lease.state.into(),
            owner: lease.owner.to_string(),
            label: lease.label,
            policy: lease.policy.into(),
            filesystems: lease.filesystems,
            skipped: lease.skipped.iter().map(text).collect(),
            ttl_seconds: lease.ttl.as_secs(),
            created_at: lease.created_at.into(),
            frozen_at: lease.frozen_at.map(Into::into),
            expires_at: lease.expires_at.map(Into::into),
            thawed_at: lease.thawed_at.map(Into::into),
            thaw_cause: lease.thaw_cause.map(Into::into),
            verdict: lease.verdict.map(Into::into),
            evidence: lease.evidence.iter().map(text).collect(),
            thaw_error: lease.thaw_error.as_ref().map(text),
            max_hold_seconds: lease.max_hold_seconds,
            guard: lease.guard.into(),
        }
    }
}

/// `If-Match: "frz_…"`: the caller acts only if this is still the lease.
#[derive(Debug)]
pub(super) struct IfMatch(Option<Vec<String>>);

impl FromRequestParts<App> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Self::parse(&parts.headers)
    }
}

impl IfMatch {
    fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut tags = None;
        for value in headers.get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| {
                Problem::bad_request("The If-Match header must hold lease ids in quotes.")
            })?;
            let list = text.split(',').map(|tag| tag.trim().trim_matches('"').to_owned());
            tags.get_or_insert_with(Vec::new).extend(list.filter(|tag| !tag.is_empty()));
        }
        Ok(Self(tags))
    }

    /// Refuses unless the header is absent, `*`, or names this lease.
    pub(super) fn check(&self, lease: &Lease) -> Result<(), Problem> {
        if self.0.is_none() || self.named().any(|tag| tag == "*" || tag == lease.id.as_str()) {
            return Ok(());
        }
        Err(Problem::new(
            Code::LeaseMismatch,
            format!(
                "If-Match does not name the lease of VM \"{}\", which is {}. Nothing was done.",
                lease.vm, lease.id
            ),
        )
        .vm(&lease.vm)
        .lease(&lease.id))
    }

    /// The leases named.
    pub(super) fn ids(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.named().filter_map(|tag| tag.parse().ok())
    }

    pub(super) fn is_present(&self) -> bool {
        self.0.is_some()
    }

    fn named(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }
}
