//! A freeze lease as the API shows it, and what callers say about one.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{Code, Problem, printable};
use super::mirror::mirror;
use super::time::Timestamp;
use crate::vm::{Lease, LeaseId, Member, VmId};

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
    /// In which order several VMs freeze; they thaw in the reverse one.
    #[derive(Default, serde::Deserialize)]
    Order as OrderBody {
        /// All at once.
        #[default]
        Parallel,
        /// One after the other, as named; with a selector, by id.
        Sequential,
    }
}

mirror! {
    /// Where a lease stands, or one of its VMs.
    LeaseState as LeaseStateBody {
        /// The freeze is under way.
        Freezing,
        /// The guest said that it is frozen.
        Frozen,
        /// The thaw is under way, or being retried.
        Thawing,
        /// A VM did not freeze, and so those that did are being thawed again.
        RollingBack,
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

/// A freeze of one VM or several, present or past. What is said of the whole lease is its VM's, if
/// it has one; of several it is the sum or the worst, and `members` has the rest.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Lease, example = json!({
    "id": "frz_0123456789abcdef0123456789abcdef",
    "vm_id": "web-1",
    "state": "frozen",
    "owner": "unix:uid=0",
    "label": "nightly backup",
    "policy": "required",
    "order": "parallel",
    "all_or_nothing": true,
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
    "spread_ms": 0,
    "max_hold_seconds": null,
    "guard": "gateway+agent",
    "members": [{
        "vm_id": "web-1",
        "state": "frozen",
        "filesystems": 3,
        "skipped": [],
        "frozen_at": "2026-11-22T09:15:04.250Z",
        "thawed_at": null,
        "thaw_cause": null,
        "verdict": null,
        "evidence": [],
        "thaw_error": null,
        "max_hold_seconds": null,
        "guard": "gateway+agent"
    }]
}))]
pub(crate) struct LeaseBody {
    id: String,
    /// The VM; `null` if there are several.
    #[schema(required)]
    vm_id: Option<String>,
    state: LeaseStateBody,
    /// The principal that made it.
    owner: String,
    /// The caller's own note.
    #[schema(required)]
    label: Option<String>,
    policy: PolicyBody,
    order: OrderBody,
    /// Whether all VMs are thawed again if one does not freeze.
    all_or_nothing: bool,
    /// How many filesystems the kernel froze, of all VMs together.
    #[schema(required)]
    filesystems: Option<u64>,
    /// What was to be frozen and is not, as far as the agent tells; of several VMs, as `VM: path`.
    skipped: Vec<String>,
    /// How long the freeze may hold, from `frozen_at` or the last renewal.
    ttl_seconds: u64,
    created_at: Timestamp,
    /// When the last filesystem of the last VM was frozen.
    #[schema(required)]
    frozen_at: Option<Timestamp>,
    /// When the gateway thaws by itself.
    #[schema(required)]
    expires_at: Option<Timestamp>,
    /// When the last guest said that it has thawed.
    #[schema(required)]
    thawed_at: Option<Timestamp>,
    #[schema(required)]
    thaw_cause: Option<ThawCauseBody>,
    /// `null` until the lease has ended; of several VMs, the worst.
    #[schema(required)]
    verdict: Option<VerdictBody>,
    /// What the verdict rests on, for a person; of several VMs, as `VM: sentence`.
    evidence: Vec<String>,
    /// What a guest's thaw complained of, although it thawed.
    #[schema(required)]
    thaw_error: Option<String>,
    /// Milliseconds between the first VM's freeze and the last one's.
    #[schema(required)]
    spread_ms: Option<u64>,
    /// How long this guest can hold at all: 10 on Windows.
    #[schema(required)]
    max_hold_seconds: Option<u64>,
    guard: GuardBody,
    /// The VMs, in their order.
    members: Vec<MemberBody>,
}

/// One VM of a freeze.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = LeaseMember)]
pub(crate) struct MemberBody {
    vm_id: String,
    state: LeaseStateBody,
    /// How many filesystems the kernel froze.
    #[schema(required)]
    filesystems: Option<u64>,
    /// What was to be frozen and is not, as far as the agent tells.
    skipped: Vec<String>,
    /// When the last filesystem was frozen.
    #[schema(required)]
    frozen_at: Option<Timestamp>,
    /// When the guest said that it has thawed.
    #[schema(required)]
    thawed_at: Option<Timestamp>,
    #[schema(required)]
    thaw_cause: Option<ThawCauseBody>,
    /// `null` until it has ended, and if it never froze.
    #[schema(required)]
    verdict: Option<VerdictBody>,
    /// What the verdict rests on, or why the VM did not freeze, for a person.
    evidence: Vec<String>,
    /// What the guest's thaw complained of, although it thawed.
    #[schema(required)]
    thaw_error: Option<String>,
    /// How long this guest can hold at all: 10 on Windows.
    #[schema(required)]
    max_hold_seconds: Option<u64>,
    guard: GuardBody,
}

impl From<Member> for MemberBody {
    fn from(member: Member) -> Self {
        let text = |s: &String| printable(s);
        Self {
            vm_id: member.vm.to_string(),
            state: member.state.into(),
            filesystems: member.filesystems,
            skipped: member.skipped.iter().map(text).collect(),
            frozen_at: member.frozen_at.map(Into::into),
            thawed_at: member.thawed_at.map(Into::into),
            thaw_cause: member.thaw_cause.map(Into::into),
            verdict: member.verdict.map(Into::into),
            evidence: member.evidence.iter().map(text).collect(),
            thaw_error: member.thaw_error.as_ref().map(text),
            max_hold_seconds: member.max_hold_seconds,
            guard: member.guard.into(),
        }
    }
}

/// The answer to a freeze.
pub(super) type Created = (StatusCode, [(HeaderName, String); 2], axum::Json<LeaseBody>);

pub(super) fn created(lease: Lease) -> Created {
    let headers = [
        (header::LOCATION, format!("/freezes/{}", lease.id)),
        (header::ETAG, format!("\"{}\"", lease.id)),
    ];
    (StatusCode::CREATED, headers, axum::Json(lease.into()))
}

impl From<Lease> for LeaseBody {
    fn from(lease: Lease) -> Self {
        let several = lease.sole().is_none();
        let said = |vm: &VmId, text: &str| {
            if several { format!("{vm}: {}", printable(text)) } else { printable(text) }
        };
        let all = |lines: fn(&Member) -> &[String]| -> Vec<String> {
            let of = |m: &Member| lines(m).iter().map(|line| said(&m.vm, line)).collect::<Vec<_>>();
            lease.members.iter().flat_map(of).collect()
        };
        let complaint = |m: &Member| m.thaw_error.as_ref().map(|text| said(&m.vm, text));
        Self {
            id: lease.id.to_string(),
            vm_id: lease.sole().map(|member| member.vm.to_string()),
            state: lease.shown_state().into(),
            owner: lease.owner.to_string(),
            policy: lease.policy.into(),
            order: lease.order.into(),
            all_or_nothing: lease.all_or_nothing,
            filesystems: lease.filesystems(),
            skipped: all(|member| &member.skipped),
            ttl_seconds: lease.ttl.as_secs(),
            created_at: lease.created_at.into(),
            frozen_at: lease.frozen_at.map(Into::into),
            expires_at: lease.expires_at.map(Into::into),
            thawed_at: lease.thawed_at.map(Into::into),
            thaw_cause: lease.thaw_cause.map(Into::into),
            verdict: lease.verdict.map(Into::into),
            evidence: all(|member| &member.evidence),
            thaw_error: lease.members.iter().find_map(complaint),
            spread_ms: lease.spread.map(|s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX)),
            max_hold_seconds: lease.max_hold_seconds(),
            guard: lease.guard().into(),
            label: lease.label,
            members: lease.members.into_iter().map(Into::into).collect(),
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
                "If-Match does not name the lease that this is about, {}. Nothing was done.",
                lease.id
            ),
        )
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
