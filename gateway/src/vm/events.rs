//! What happens, for whoever wants to know: one hub for the whole gateway.
//!
//! ```text
//!   publish ──▶ ring: the last events, bounded in number and bytes ──▶ subscription, at its place
//!                                     │ overwritten before it was read
//!                                     └─────────────────────────────▶ a gap, then what is there
//! ```
//!
//! A subscription is a place in the ring and no queue of its own, so that a publisher never waits
//! and a slow reader costs nothing but its own events.

mod kind;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::{LeaseId, VmId};
use crate::config::Limits;

pub use kind::{EventKind, InvalidEventKind};

/// The most that the data of one event may have; more is left out.
const MAX_DATA: usize = 8 << 10;

/// What an event costs besides its data, roughly.
const OVERHEAD: usize = 256;

/// How many events a subscription takes from the ring at a time.
const BATCH: usize = 64;

/// Where an event stands in the order of all events. A later one is greater, also over a restart of
/// the gateway, as long as the host's clock does not run backwards meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// When the gateway started, in microseconds since 1970.
    start: u64,
    number: u64,
}

/// A text that is no [`EventId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event's id (two hexadecimal numbers with a hyphen between them)")]
pub struct InvalidEventId;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014x}-{:08x}", self.start, self.number)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let number = |digits: &str| {
            let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().filter(|_| hex).ok_or(InvalidEventId)
        };
        let (start, count) = text.split_once('-').ok_or(InvalidEventId)?;
        Ok(Self { start: number(start)?, number: number(count)? })
    }
}

/// An event to be published.
#[derive(Clone, Debug)]
pub struct Event {
    kind: EventKind,
    vm: Option<VmId>,
    lease: Option<LeaseId>,
    data: Map<String, Value>,
}

impl Event {
    /// An event about nothing in particular yet.
    pub fn new(kind: EventKind) -> Self {
        Self { kind, vm: None, lease: None, data: Map::new() }
    }

    /// About this VM.
    #[must_use]
    pub fn vm(mut self, vm: &VmId) -> Self {
        self.vm = Some(vm.clone());
        self
    }

    /// About this lease.
    #[must_use]
    pub fn lease(mut self, lease: &LeaseId) -> Self {
        self.lease = Some(lease.clone());
        self
    }

    /// With this in its data. Text of a guest goes through `printable` first.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name.to_owned(), value.into());
        self
    }
}

/// An event as it happened.
#[derive(Debug)]
pub struct Published {
    /// Its place in the order of all events.
    pub id: EventId,
    /// What kind of event it is.
    pub kind: EventKind,
    /// The VM concerned.
    pub vm: Option<VmId>,
    /// The lease concerned.
    pub lease: Option<LeaseId>,
    /// When; wall clock, for display.
    pub time: SystemTime,
    /// What there is to say of it: a JSON object.
    pub data: Box<RawValue>,
}

/// What a subscription brings.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// An event.
    Event(Arc<Published>),
    /// Events that are not kept any more, or are those of a gateway that was stopped. What follows
    /// is in order again.
    Gap {
        /// The place of the last event that is missing.
        to: EventId,
        /// How many are missing; `None` where the gateway was restarted.
        missed: Option<u64>,
    },
}

/// As many subscribe as may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit} subscribers follow the events already")]
pub struct TooManySubscribers {
    /// How many may.
    pub limit: usize,
}

/// The hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    start: u64,
    most: usize,
    most_bytes: usize,
    most_subscribers: usize,
    subscribers: AtomicUsize,
    ring: Mutex<Ring>,
    /// The number of the last event.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Published>>,
    bytes: usize,
    /// The number of the last event, kept or not.
    last: u64,
}

impl Events {
    pub(crate) fn new(limits: &Limits) -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Hub {
            start: u64::try_from(start.as_micros()).unwrap_or(u64::MAX),
            most: limits.events_kept,
            most_bytes: limits.events_kept_bytes,
            most_subscribers: limits.event_subscribers,
            subscribers: AtomicUsize::new(0),
            ring: Mutex::default(),
            last: watch::Sender::new(0),
        }))
    }

    /// Says that something happened. Never waits; takes no lock but the hub's own, so that it may be
    /// called under any other.
    pub fn publish(&self, event: Event) {
        let Event { kind, vm, lease, data } = event;
        let data = bounded(&data);
        let mut ring = self.0.ring();
        ring.last += 1;
        let number = ring.last;
        let id = EventId { start: self.0.start, number };
        ring.bytes += cost(&data);
        let time = SystemTime::now();
        ring.events.push_back(Arc::new(Published { id, kind, vm, lease, time, data }));
        while ring.events.len() > self.0.most || ring.bytes > self.0.most_bytes {
            let Some(oldest) = ring.events.pop_front() else { break };
            ring.bytes -= cost(&oldest.data);
        }
        // Under the lock, so that the number that is told only grows.
        self.0.last.send_replace(number);
    }

    /// How many may follow them.
    pub(crate) fn limit(&self) -> usize {
        self.0.most_subscribers
    }

    /// How many follow them, of those that are bounded.
    pub(crate) fn subscribers(&self) -> usize {
        self.0.subscribers.load(Ordering::Relaxed)
    }

    /// How many were published so far.
    pub(crate) fn published(&self) -> u64 {
        *self.0.last.borrow()
    }

    /// Follows the events: from the next one on, or from the one behind `after`.
    ///
    /// # Errors
    ///
    /// If as many follow them already as may.
    pub fn subscribe(&self, after: Option<EventId>) -> Result<Subscription, TooManySubscribers> {
        let limit = self.0.most_subscribers;
        let count = &self.0.subscribers;
        count
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .map_err(|_| TooManySubscribers { limit })?;
        let last = self.0.last.subscribe();
        let newest = self.0.ring().last;
        let (next, stranger) = match after {
            None => (newest + 1, false),
            Some(id) if id.start == self.0.start && id.number <= newest => (id.number + 1, false),
            // Another run's: what this one has kept is all new.
            Some(_) => (1, true),
        };
        Ok(Subscription {
            hub: self.0.clone(),
            last,
            next,
            stranger,
            batch: VecDeque::new(),
            counted: true,
        })
    }

    /// Follows the events from the next one on, for the gateway itself.
    pub(crate) fn follow(&self) -> Subscription {
        let last = self.0.last.subscribe();
        let next = self.0.ring().last + 1;
        let (hub, batch) = (self.0.clone(), VecDeque::new());
        Subscription { hub, last, next, stranger: false, batch, counted: false }
    }
}

/// A reader's place among the events.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    last: watch::Receiver<u64>,
    /// The number of the next event to be looked at in the ring.
    next: u64,
    /// The reader's last event was another run's.
    stranger: bool,
    /// Taken from the ring and not yet delivered.
    batch: VecDeque<Arc<Published>>,
    /// It is one of the subscribers that are bounded.
    counted: bool,
}

impl Subscription {
    /// The next event that is `wanted`, or a gap. Waits for one; may be cancelled without loss.
    pub async fn next(&mut self, wanted: impl Fn(&Published) -> bool) -> Delivery {
        loop {
            while let Some(event) = self.batch.pop_front() {
                if wanted(&event) {
                    return Delivery::Event(event);
                }
            }
            self.last.mark_unchanged();
            if let Some(gap) = self.take_batch() {
                return gap;
            }
            if self.batch.is_empty() && self.last.changed().await.is_err() {
                // The hub lives as long as this does.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The place of the last event that was looked at: what a reader that comes back names.
    pub fn position(&self) -> EventId {
        let next = self.batch.front().map_or(self.next, |event| event.id.number);
        EventId { start: self.hub.start, number: next - 1 }
    }

    fn take_batch(&mut self) -> Option<Delivery> {
        let ring = self.hub.ring();
        let oldest = ring.last + 1 - ring.events.len() as u64;
        if std::mem::take(&mut self.stranger) {
            self.next = oldest;
            let to = EventId { start: self.hub.start, number: oldest - 1 };
            return Some(Delivery::Gap { to, missed: None });
        }
        if self.next < oldest {
            let missed = Some(oldest - self.next);
            self.next = oldest;
            let to = EventId { start: self.hub.start, number: oldest - 1 };
            return Some(Delivery::Gap { to, missed });
        }
        let skip = usize::try_from(self.next - oldest).unwrap_or(usize::MAX);
        self.batch.extend(ring.events.iter().skip(skip).take(BATCH).cloned());
        self.next += self.batch.len() as u64;
        None
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.counted {
            self.hub.subscribers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Hub {
    /// Nothing panics under this lock.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bounded(data: &Map<String, Value>) -> Box<RawValue> {
    // Maps with string keys: their serialization cannot fail.
    let whole = serde_json::value::to_raw_value(data).unwrap_or_default();
    if whole.get().len() <= MAX_DATA {
        return whole;
    }
    let cut = serde_json::json!({"left_out_bytes": whole.get().len()});
    serde_json::value::to_raw_value(&cut).unwrap_or_default()
}

fn cost(data: &RawValue) -> usize {
    OVERHEAD + data.get().len()
}

#[cfg(test)]
mod tests;
