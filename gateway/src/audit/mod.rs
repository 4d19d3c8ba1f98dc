//! Who did what, when, to which VM, and what came of it: one line of JSON for each request, and for
//! each thing that the gateway does to a guest by itself.
//!
//! ```text
//!   api/front ── a request has ended ──▶ ┌───────┐   a thread
//!   vm/events ── a thaw at its deadline ▶│ Audit │ ──────────▶ file or journal
//!                                        └───────┘
//! ```
//!
//! A record has no argument in clear but the name of a file or program: everything else is a keyed
//! digest, by which the same arguments can be known again and a suspected one confirmed, but none
//! guessed by somebody who has only the records.

mod config;
mod record;
mod sink;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

pub use self::config::AuditConfig;
use self::record::{EventRecord, LeftOut};
pub(crate) use self::record::{RequestRecord, Result as AuditResult};
use self::sink::Sink;
use crate::vm::{Delivery, EventKind, Events};

/// Where records go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sink: Sink,
    key: Key,
    reads: bool,
    required: bool,
}

/// What the digests of arguments are keyed with.
struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Audit {
    /// Begins to write. `key` is this installation's, and secret.
    ///
    /// # Errors
    ///
    /// If the file or the journal cannot be opened.
    pub fn start(config: &AuditConfig, key: &str) -> io::Result<Self> {
        let Some(target) = config.target() else { return Ok(Self(None)) };
        let key = Hmac::new_from_slice(key.as_bytes()).map_err(io::Error::other)?;
        let AuditConfig { reads, required, .. } = *config;
        let sink = Sink::start(target)?;
        Ok(Self(Some(Arc::new(Inner { sink, key: Key(key), reads, required }))))
    }

    /// Opens the file anew, which somebody has moved away.
    pub fn reopen(&self) {
        if let Some(inner) = &self.0 {
            inner.sink.reopen();
        }
    }

    /// Waits until all is written, for a short while.
    pub fn finish(&self) {
        if let Some(inner) = &self.0 {
            inner.sink.finish();
        }
    }

    /// Whether requests of this kind are on record.
    pub(crate) fn takes(&self, changes: bool) -> bool {
        self.0.as_ref().is_some_and(|inner| changes || inner.reads)
    }

    /// Whether what changes something must be refused, because it could not be put on record.
    pub(crate) fn refuses(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.required && inner.sink.is_broken())
    }

    /// What stands for arguments in a record.
    pub(crate) fn digest(&self, query: &str, body: &[u8]) -> Option<String> {
        let inner = self.0.as_ref()?;
        let mut mac = inner.key.0.clone();
        mac.update(query.as_bytes());
        // No query has a NUL in it.
        mac.update(&[0]);
        mac.update(body);
        let digest = mac.finalize().into_bytes();
        let hex = digest.iter().map(|byte| format!("{byte:02x}"));
        Some(std::iter::once("hmac-sha256:".to_owned()).chain(hex).collect())
    }

    /// Puts a request on record.
    pub(crate) fn request(&self, record: &RequestRecord<'_>) {
        if let Some(inner) = &self.0 {
            inner.sink.write(record);
        }
    }

    /// Puts on record that so many requests without credentials are not there one by one.
    pub(crate) fn left_out(&self, requests: u64) {
        if let Some(inner) = &self.0 {
            inner.sink.write(&LeftOut { time: SystemTime::now(), kind: "left_out", requests });
        }
    }

    /// Puts on record what happens to guests, for as long as there are events: freezes and thaws
    /// with their causes, also those that no request asked for.
    pub async fn follow(self, events: Events) {
        let Some(inner) = self.0 else { return };
        let mut subscription = events.follow();
        loop {
            match subscription.next(|event| is_act(event.kind)).await {
                Delivery::Event(event) => inner.sink.write(&EventRecord::new(&event)),
                Delivery::Gap { missed, .. } => inner.sink.lost(missed.unwrap_or(1)),
            }
        }
    }
}

/// Whether it is something that was done to a guest.
fn is_act(kind: EventKind) -> bool {
    ["freeze.", "power."].iter().any(|family| kind.as_str().starts_with(family))
}

#[cfg(test)]
mod tests;
