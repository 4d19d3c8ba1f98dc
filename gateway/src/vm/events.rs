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
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
/// the gateway, as long as the host's clock does not run backwards meanwhile. It is a time and no count,
/// so that who gets some of the events does not learn how many others there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// When the gateway started, in microseconds since 1970.
    start: u64,
    /// Microseconds since then, or a little more, so that each event has its own.
    number: u64,
}

/// A text that is no [`EventId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event's id (two hexadecimal numbers with a hyphen between them)")]
pub struct InvalidEventId;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014x}-{:012x}", self.start, self.number)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let number = |digits: &str| {
            let hex = digits.len() <= 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
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
        /// How many are missing; `None` where that is not known: after a restart of the gateway, and to
        /// a reader that has come back.
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
    begun: Instant,
    most: usize,
    most_bytes: usize,
    most_subscribers: usize,
    subscribers: AtomicUsize,
    ring: Mutex<Ring>,
    /// How many events were published.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Published>>,
    bytes: usize,
    /// The last number that an event has, or that a reader was told as its place.
    last: u64,
    /// The number of the last event that is not kept any more.
    gone: u64,
    /// How many events were published.
    count: u64,
}

impl Events {
    pub(crate) fn new(limits: &Limits) -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Hub {
            start: u64::try_from(start.as_micros()).unwrap_or(u64::MAX),
            begun: Instant::now(),
            most: limits.events_kept,
            most_bytes: limits.events_kept_bytes,
            most_subscribers: limits.event_subscribers,
            subscribers: AtomicUsize::new(0),
            ring: Mutex::default(),
            count: watch::Sender::new(0),
        }))
    }

    /// Says that something happened. Never waits; takes no lock but the hub's own, so that it may be
    /// called under any other.
    pub fn publish(&self, event: Event) {
        let Event { kind, vm, lease, data } = event;
        let data = bounded(&data);
        let mut ring = self.0.ring();
        let number = self.0.now().max(ring.last + 1);
        ring.last = number;
        ring.count += 1;
        let id = EventId { start: self.0.start, number };
        ring.bytes += cost(&data);
        let time = SystemTime::now();
        ring.events.push_back(Arc::new(Published { id, kind, vm, lease, time, data }));
        while ring.events.len() > self.0.most || ring.bytes > self.0.most_bytes {
            let Some(oldest) = ring.events.pop_front() else { break };
            ring.bytes -= cost(&oldest.data);
            ring.gone = oldest.id.number;
        }
        // Under the lock, so that the count that is told only grows.
        self.0.count.send_replace(ring.count);
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
        *self.0.count.borrow()
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
        let mut subscription = self.follow();
        subscription.counted = true;
        match after {
            None => {}
            Some(id) if id.start == self.0.start && id.number <= subscription.place => {
                (subscription.place, subscription.seen) = (id.number, None);
            }
            // Another run's: what this one has kept is all new.
            Some(_) => subscription.stranger = true,
        }
        Ok(subscription)
    }

    /// Follows the events from the next one on, for the gateway itself.
    pub(crate) fn follow(&self) -> Subscription {
        let (hub, count) = (self.0.clone(), self.0.count.subscribe());
        let mut ring = hub.ring();
        let (place, seen) = (ring.reach(hub.now()), Some(ring.count));
        drop(ring);
        let batch = VecDeque::new();
        Subscription { hub, count, place, seen, stranger: false, batch, counted: false }
    }
}

/// A reader's place among the events.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    count: watch::Receiver<u64>,
    /// Events with greater numbers are yet to be taken from the ring.
    place: u64,
    /// How many of all events lie up to there, if that is known.
    seen: Option<u64>,
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
            self.count.mark_unchanged();
            if let Some(gap) = self.take_batch() {
                return gap;
            }
            if self.batch.is_empty() && self.count.changed().await.is_err() {
                // The hub lives as long as this does.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A place behind all events that were looked at: what a reader that comes back names. Where there is
    /// no other event yet it is that of now, which says nothing of when the last was.
    pub fn position(&mut self) -> EventId {
        let number = match self.batch.front() {
            Some(next) => next.id.number - 1,
            None => {
                let mut ring = self.hub.ring();
                if ring.behind(self.place) == ring.events.len() && self.place >= ring.gone {
                    self.place = ring.reach(self.hub.now());
                }
                self.place
            }
        };
        EventId { start: self.hub.start, number }
    }

    fn take_batch(&mut self) -> Option<Delivery> {
        let ring = self.hub.ring();
        let gone = ring.count - ring.events.len() as u64;
        let stranger = std::mem::take(&mut self.stranger);
        if stranger || self.place < ring.gone {
            let missed = self.seen.filter(|_| !stranger).map(|seen| gone - seen);
            (self.place, self.seen) = (ring.gone, Some(gone));
            let to = EventId { start: self.hub.start, number: ring.gone };
            return Some(Delivery::Gap { to, missed });
        }
        let skip = ring.behind(self.place);
        self.batch.extend(ring.events.iter().skip(skip).take(BATCH).cloned());
        if let Some(last) = self.batch.back() {
            self.place = last.id.number;
        }
        self.seen = Some(gone + (skip + self.batch.len()) as u64);
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

impl Ring {
    /// How many of the events that are kept lie up to there.
    fn behind(&self, place: u64) -> usize {
        self.events.partition_point(|event| event.id.number <= place)
    }

    /// A place behind all events, and before all that come.
    fn reach(&mut self, now: u64) -> u64 {
        self.last = self.last.max(now);
        self.last
    }
}

impl Hub {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

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
