//! What is known of one request while it is under way: for its log line and its audit record.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::access::Proof;
use super::bodies::Room;
use crate::audit::Audit;
use crate::principal::Principal;
use crate::printable::escaped;
use crate::trace::{CallSpan, Trace};
use crate::vm::{LeaseId, VmId};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One per request, shared by the front and the handler.
#[derive(Debug)]
pub(crate) struct RequestContext {
    pub(crate) id: HeaderValue,
    /// Absent only where an operation needs no credentials.
    pub(crate) proof: Option<Proof>,
    audit: Audit,
    vms: Mutex<Vec<VmId>>,
    command: OnceLock<&'static str>,
    reply_key: OnceLock<Arc<str>>,
    lease: OnceLock<LeaseId>,
    object: OnceLock<String>,
    /// For its body, as long as that is in memory.
    room: Mutex<Option<Room>>,
    arguments: OnceLock<String>,
    /// Its place in a trace, if it has one.
    pub(crate) trace: Option<Trace>,
    /// The guest commands so far, where somebody wants to know.
    calls: Option<Mutex<Vec<CallSpan>>>,
}

/// The longest name of a file or program that is put on record.
const MAX_OBJECT: usize = 4096;

impl RequestContext {
    pub(crate) fn new(id: HeaderValue, proof: Option<Proof>, audit: Audit) -> Self {
        let (vms, command, reply_key) = Default::default();
        let (lease, object, room, arguments) = Default::default();
        Self {
            id,
            proof,
            audit,
            vms,
            command,
            reply_key,
            lease,
            object,
            room,
            arguments,
            trace: None,
            calls: None,
        }
    }

    /// In a trace; with `told`, its guest commands are to be told of.
    pub(crate) fn traced(self, trace: Option<Trace>, told: bool) -> Self {
        Self { trace, calls: told.then(Mutex::default), ..self }
    }

    /// Times a guest command until what this gives is dropped.
    pub(crate) fn time(self: &Arc<Self>, command: &'static str) -> Option<TimedCall> {
        self.calls.as_ref()?;
        Some(TimedCall { context: self.clone(), command, begin: SystemTime::now() })
    }

    /// The guest commands that have ended.
    pub(crate) fn take_calls(&self) -> Vec<CallSpan> {
        let calls = self.calls.as_ref().map(|calls| calls.lock());
        // Nothing panics under this lock.
        calls
            .map(|calls| std::mem::take(&mut *calls.unwrap_or_else(PoisonError::into_inner)))
            .unwrap_or_default()
    }

    /// Who asks.
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.proof.as_ref().map(|proof| &proof.identity.principal)
    }

    /// A VM that the request turned out to be about.
    pub(crate) fn concerns(&self, vm: &VmId) {
        let mut vms = self.vms();
        // One by one for groups: their members are named once.
        if vms.len() > 8 || !vms.contains(vm) {
            vms.push(vm.clone());
        }
    }

    /// The lease that it is about, or that it made.
    pub(crate) fn is_under(&self, lease: &LeaseId) {
        self.lease.get_or_init(|| lease.clone());
    }

    /// The file or program that it is about: what is put on record in clear.
    pub(crate) fn is_about(&self, object: &str) {
        let end = object.floor_char_boundary(MAX_OBJECT);
        self.object.get_or_init(|| escaped(&object[..end]));
    }

    /// What it said, of which only a digest is put on record.
    pub(crate) fn said(&self, uri: &Uri, body: &[u8]) {
        if let Some(digest) = self.audit.digest(uri.query().unwrap_or_default(), body) {
            self.arguments.get_or_init(|| digest);
        }
    }

    /// Its body is in memory from now on.
    pub(super) fn holds(&self, room: Room) {
        *self.room() = Some(room);
    }

    /// Whether there is room for its body already.
    pub(super) fn has_room(&self) -> bool {
        self.room().is_some()
    }

    /// Nothing of its body is in memory any more, or somebody else has taken it over.
    pub(super) fn lets_go(&self) {
        drop(self.room().take());
    }

    /// Nothing panics under this lock.
    fn room(&self) -> MutexGuard<'_, Option<Room>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lease(&self) -> Option<&LeaseId> {
        self.lease.get()
    }

    pub(crate) fn object(&self) -> Option<&str> {
        self.object.get().map(String::as_str)
    }

    pub(crate) fn arguments(&self) -> Option<&str> {
        self.arguments.get().map(String::as_str)
    }

    /// The guest command that it came down to. The first one stays.
    pub(crate) fn sends(&self, command: &'static str) {
        self.command.get_or_init(|| command);
    }

    /// The name under which its answer is kept.
    pub(crate) fn has_key(&self, name: &Arc<str>) {
        self.reply_key.get_or_init(|| name.clone());
    }

    pub(crate) fn reply_key(&self) -> Option<&Arc<str>> {
        self.reply_key.get()
    }

    pub(crate) fn vms(&self) -> MutexGuard<'_, Vec<VmId>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn command(&self) -> Option<&'static str> {
        self.command.get().copied()
    }
}

/// The most guest commands of one request that are told of; a stream may send any number.
const MAX_CALLS: usize = 64;

/// A guest command under way.
#[derive(Debug)]
pub(crate) struct TimedCall {
    context: Arc<RequestContext>,
    command: &'static str,
    begin: SystemTime,
}

impl Drop for TimedCall {
    fn drop(&mut self) {
        let Some(calls) = &self.context.calls else { return };
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < MAX_CALLS {
            calls.extend(CallSpan::ended(self.command, self.begin));
        }
    }
}

/// Makes request ids: 16 random hex digits per process, then a counter.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        // Ids need to be unlike another run's, not secret: without entropy the time will do.
        let process = getrandom::u64().unwrap_or_else(|_| {
            SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.as_secs().rotate_left(32) ^ u64::from(d.subsec_nanos()))
        });
        Self { process, next: AtomicU64::new(1) }
    }

    /// The client's own id when it sent a usable one, else a new one.
    pub(crate) fn assign(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(REQUEST_ID) {
            Some(id) if is_usable(id.as_bytes()) => id.clone(),
            _ => {
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                let id = format!("{:016x}-{n:x}", self.process);
                // Hex digits and a hyphen are always a valid header value.
                HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
            }
        }
    }
}

fn is_usable(id: &[u8]) -> bool {
    (1..=64).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_sane_id_and_replaces_others() {
        let ids = RequestIds::new();
        let mut headers = HeaderMap::new();
        let first = ids.assign(&headers);
        assert_ne!(first, ids.assign(&headers));
        headers.insert(REQUEST_ID, HeaderValue::from_static("job-42.a_b"));
        assert_eq!(ids.assign(&headers), "job-42.a_b");
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            headers.insert(REQUEST_ID, HeaderValue::from_str(bad).unwrap());
            assert_ne!(ids.assign(&headers).to_str().unwrap(), bad);
        }
    }
}
