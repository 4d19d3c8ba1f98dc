//! `/events`: what happens, as it happens, as Server-Sent Events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use qga_proto::command::Right;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::App;
use super::caller::Caller;
use super::error::{Code, Problem, printable};
use super::extract::pairs;
use super::mirror::mirror;
use super::time::Timestamp;
use crate::share::Part;
use crate::vm::{Delivery, EventId, EventKind, Published, Subscription, VmId};

/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

mirror! {
    /// What kind of event it is. Kinds are only ever added.
    EventKind as EventKindBody {
        /// A VM is known now. `data`: its `labels`.
        #[serde(rename = "vm.added")]
        VmAdded,
        /// A VM is not known any more.
        #[serde(rename = "vm.removed")]
        VmRemoved,
        /// Another process is behind a VM's socket: it was started afresh, or replaced.
        #[serde(rename = "vm.replaced")]
        VmReplaced,
        /// QMP says that the guest was reset.
        #[serde(rename = "vm.reset")]
        VmReset,
        /// QMP says that the guest was shut down.
        #[serde(rename = "vm.shutdown")]
        VmShutdown,
        /// QMP says that the guest's kernel has panicked.
        #[serde(rename = "vm.panicked")]
        VmPanicked,
        /// The link to a VM's agent is in another state. `data`: `state`, the one `before`, and the
        /// `reason`.
        #[serde(rename = "link.changed")]
        LinkChanged,
        /// A lease holds its VM frozen. `data`: `filesystems`, `guard` and `ttl_seconds`.
        #[serde(rename = "freeze.frozen")]
        FreezeFrozen,
        /// A lease was renewed. `data`: its `ttl_seconds` from now.
        #[serde(rename = "freeze.renewed")]
        FreezeRenewed,
        /// A lease's time is over; the gateway thaws.
        #[serde(rename = "freeze.expired")]
        FreezeExpired,
        /// A lease ended thawed. `data`: the `cause` and the `verdict`.
        #[serde(rename = "freeze.thawed")]
        FreezeThawed,
        /// The VM of a lease is gone. `data`: whether it is `given_up`.
        #[serde(rename = "freeze.orphaned")]
        FreezeOrphaned,
        /// A VM is frozen, and not by this gateway.
        #[serde(rename = "freeze.external")]
        FreezeExternal,
        /// A freeze failed or its outcome is unknown; the gateway thaws.
        #[serde(rename = "freeze.rollback")]
        FreezeRollback,
        /// A thaw failed; the gateway goes on trying. `data`: the `reason`.
        #[serde(rename = "freeze.thaw_failing")]
        FreezeThawFailing,
        /// A guest went down or to sleep as it was told. `data`: `operation`, `mode`, and the
        /// `evidence`.
        #[serde(rename = "power.done")]
        PowerDone,
        /// A guest was told to go down or to sleep, and as far as can be seen did not. `data`:
        /// `operation`, `mode`, and the `reason`.
        #[serde(rename = "power.failed")]
        PowerFailed,
        /// Something went wrong that no other kind covers. `data`: the `reason`.
        #[serde(rename = "error")]
        Error,
        /// Events are missing here: they are not kept any more, or the gateway was restarted.
        /// `data`: how many were `missed`, `null` where that is not known (after a restart, to a client that
        /// has come back) or not all of them were to be seen. Look at everything anew.
        #[serde(rename = "gap")]
        Gap,
    }
}

/// One event: the `data` of a Server-Sent Event whose `id` and `event` say the same as here.
#[derive(Serialize, ToSchema)]
#[schema(as = Event, example = json!({
    "id": "0006448cbd3a71-00000b5c2f10",
    "kind": "link.changed",
    "time": "2026-11-22T09:15:04.250Z",
    "vm_id": "web-1",
    "data": {"state": "ready", "before": "silent", "reason": null}
}))]
pub(super) struct EventBody<'a> {
    /// Its place in the order of all events; a later one is greater, also by its letters. It says nothing
    /// of how many others there were.
    id: String,
    kind: EventKindBody,
    time: Timestamp,
    /// The VM concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    vm_id: Option<&'a str>,
    /// The lease concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    lease_id: Option<&'a str>,
    /// What there is to say of it, by kind.
    #[schema(value_type = Object)]
    data: &'a RawValue,
}

/// Which events a caller wants, and from where on.
#[derive(Debug, Default)]
pub(super) struct EventsQuery {
    vms: Vec<VmId>,
    kinds: Vec<EventKind>,
    after: Option<EventId>,
}

impl FromRequestParts<App> for EventsQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let mut query = Self::default();
        for (name, value) in pairs(&parts.uri)? {
            match &*name {
                "vm" => query.vms.push(value.parse().map_err(|why| {
                    Problem::bad_request(format!("Query parameter \"vm\" is {why}."))
                })?),
                "kind" => query.kinds.extend(kinds(&value)?),
                "last_event_id" if value.is_empty() => {}
                "last_event_id" => query.after = Some(event_id(&value)?),
                _ => return Err(super::extract::unknown_parameter(&name)),
            }
        }
        if let Some(id) = parts.headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
            query.after = Some(event_id(id.to_str().unwrap_or_default())?);
        }
        Ok(query)
    }
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse().map_err(|why| {
        Problem::bad_request(format!("\"{}\" as the last event's id is {why}.", printable(text)))
    })
}

/// One kind by its name, or with `freeze.*` a family.
fn kinds(text: &str) -> Result<Vec<EventKind>, Problem> {
    let family = text.strip_suffix('*').filter(|family| family.ends_with('.'));
    let kinds: Vec<_> = match family {
        Some(family) => {
            EventKind::ALL.iter().copied().filter(|k| k.as_str().starts_with(family)).collect()
        }
        None => text.parse().into_iter().collect(),
    };
    if kinds.is_empty() {
        let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        return Err(Problem::bad_request(format!(
            "Query parameter \"kind\" must be one of {}, or a family such as freeze.*.",
            known.join(", ")
        )));
    }
    Ok(kinds)
}

impl EventsQuery {
    fn wants(&self, event: &Published) -> bool {
        let vm = self.vms.is_empty() || event.vm.as_ref().is_some_and(|vm| self.vms.contains(vm));
        vm && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }
}

/// Follow what happens
///
/// Server-Sent Events: VMs that come and go, links, freezes and thaws with their cause, outcomes of
/// shutdowns and suspends. Each has the kind as its `event`, an `id`, and an `Event` as its `data`.
/// A client that comes back names the last id that it saw, and gets what happened meanwhile; what is
/// not kept any more is an event of kind `gap`. Without an id the stream begins now. A comment shows
/// every 15 seconds (as configured) that the connection lives; it moves the last id on too. For whoever
/// has the right on any VM, of whose events it gets those; without, it is `forbidden`.
#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    params(
        ("vm" = Option<Vec<String>>, Query, description = "Only of these VMs. May be repeated.", example = json!(["web-1"])),
        ("kind" = Option<Vec<String>>, Query, description = "Only these kinds, or families such as `freeze.*`. May be repeated. A `gap` is always told.", example = json!(["freeze.*"])),
        ("last_event_id" = Option<String>, Query, description = "As the header, for clients that cannot send one."),
        ("last-event-id" = Option<String>, Header, description = "The last event that the client has: what came after it is sent first."),
    ),
    responses((
        status = 200,
        description = "Events, until the client or the gateway ends the stream.",
        content_type = "text/event-stream",
        body = String,
        example = json!("id: 0006448cbd3a71-00000b5c2f10\nevent: link.changed\ndata: {\"id\":\"0006448cbd3a71-00000b5c2f10\",\"kind\":\"link.changed\",\"time\":\"2026-11-22T09:15:04.250Z\",\"vm_id\":\"web-1\",\"data\":{\"state\":\"ready\",\"before\":\"silent\",\"reason\":null}}\n\n")
    )),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-problems" = json!(["too_many_subscribers", "shutting_down"])),
    )
)]
pub(super) async fn follow_events(caller: Caller, query: EventsQuery) -> Result<Response, Problem> {
    let app = caller.app();
    if app.stopping.is_cancelled() {
        return Err(Problem::new(
            Code::ShuttingDown,
            "The gateway is stopping, so there is nothing left to follow.",
        )
        .retry_after(5));
    }
    caller.knows(Right::Observe)?;
    let events = app.registry.events();
    let full = |limit| {
        Problem::new(
            Code::TooManySubscribers,
            format!(
                "As many clients follow the events as may: {limit} in all \
                 (limits.event_subscribers), of which one caller gets at most half of what the \
                 others leave. Try again when one of yours has gone."
            ),
        )
        .retry_after(10)
    };
    let part = app.followers().take(caller.principal(), 1, events.limit());
    let part = part.ok_or_else(|| full(events.limit()))?;
    let subscription = events.subscribe(query.after).map_err(|error| full(error.limit))?;
    let feed = Feed {
        heartbeat: app.limits().event_heartbeat,
        stopping: app.stopping.clone(),
        subscription,
        query,
        caller,
        greeted: false,
        _part: part,
    };
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(feed.stream())).into_response())
}

/// One client's stream.
struct Feed {
    subscription: Subscription,
    query: EventsQuery,
    caller: Caller,
    heartbeat: Duration,
    stopping: CancellationToken,
    greeted: bool,
    _part: Part,
}

impl Feed {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        unfold(self, |mut feed| async move {
            let text = feed.next().await?;
            Some((Ok(text.into()), feed))
        })
    }

    async fn next(&mut self) -> Option<String> {
        if !self.greeted {
            self.greeted = true;
            let (retry, id) = (RETRY.as_millis(), self.query.after);
            // Who has no place yet gets one: what happens before the first event is not lost.
            let id = id.unwrap_or_else(|| self.subscription.position());
            return Some(format!("retry: {retry}\nid: {id}\n\n"));
        }
        let (query, caller) = (&self.query, &self.caller);
        let wanted = |event: &Published| {
            let may = |vm| caller.authorise(vm, Right::Observe).is_ok();
            query.wants(event) && event.vm.as_ref().is_none_or(may)
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            () = caller.revoked(|| caller.knows(Right::Observe).is_ok()) => None,
            delivery = self.subscription.next(wanted) => {
                let all = || caller.may_everywhere(Right::Observe);
                Some(frame(&delivery, all))
            }
            () = sleep(self.heartbeat) => {
                // An id without data is no event, but moves a client's place on (HTML, 9.2.6).
                Some(format!(": still here\nid: {}\n\n", self.subscription.position()))
            }
        }
    }
}

/// A delivery as it is sent to somebody to whom `all` events are shown, or not.
fn frame(delivery: &Delivery, all: impl Fn() -> bool) -> String {
    let gap;
    let body = match delivery {
        Delivery::Event(event) => EventBody {
            id: event.id.to_string(),
            kind: event.kind.into(),
            time: event.time.into(),
            vm_id: event.vm.as_ref().map(VmId::as_str),
            lease_id: event.lease.as_ref().map(|lease| lease.as_str()),
            data: &event.data,
        },
        Delivery::Gap { to, missed } => {
            let missed = missed.filter(|_| all());
            gap = serde_json::value::to_raw_value(&serde_json::json!({"missed": missed}))
                .unwrap_or_default();
            EventBody {
                id: to.to_string(),
                kind: EventKindBody::Gap,
                time: std::time::SystemTime::now().into(),
                vm_id: None,
                lease_id: None,
                data: &gap,
            }
        }
    };
    let kind = match delivery {
        Delivery::Event(event) => event.kind,
        Delivery::Gap { .. } => EventKind::Gap,
    };
    // Strings, numbers and JSON on one line: the serialization cannot fail, nor hold a line feed.
    let json = serde_json::to_string(&body).unwrap_or_default();
    format!("id: {}\nevent: {kind}\ndata: {json}\n\n", body.id)
}
