//! First answers, kept for requests that are sent again under the same `Idempotency-Key`.
//!
//! ```text
//!   begin --> in hand --(on disk)--> go --> the guest --> finish --(on disk)--> done
//!               |                     |
//!               | dropped, or nothing | dropped, or the gateway died
//!               | reached the guest   v
//!               v                    lost: what became of it is not known
//!              free
//! ```
//!
//! A request that makes a freeze lease goes to disk with the lease, in one write (`When`): no guest
//! hears of it before, and neither is there without the other.
//!
//! Whoever comes while it is in hand waits for what becomes of it, which is no longer than the operation
//! itself may take. The table knows nothing of HTTP
//! but that an answer has a status, headers and a body.

mod rows;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::rows::{Most, Row, Rows};
use crate::principal::Principal;
use crate::share::{Part, Shared};
use crate::store::{Key, Kind, LoadError, Records, Store, Unwritable};
use crate::vm::Registry;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The most that the bodies of all answers may take.
const MAX_BYTES: usize = 32 << 20;

/// Raised when a record can no longer be read by an older gateway.
const VERSION: u32 = 1;

/// All answers that are kept. Cheap to clone.
#[derive(Clone)]
pub struct Replies(Arc<Table>);

/// An answer as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// None if it was too large to keep.
    pub(crate) body: Option<String>,
}

/// What a request under a key meets.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It is the first, and on disk as such where that was to be at once.
    First(InHand),
    /// It was answered before.
    Done(Reply),
    /// It was begun by a gateway that died meanwhile.
    Lost,
    /// The key stands for another request.
    Other,
}

/// When a request that is begun goes to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Before it goes on.
    AtOnce,
    /// In the write of the lease that it makes, which knows its name. If it makes none, it changes
    /// nothing.
    WithLease,
}

/// Why a request under a key cannot be begun. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    #[error("{max} requests with keys are in hand, or the caller has its share of them")]
    Full { max: usize },
}

struct Table {
    registry: Registry,
    store: Store,
    /// Requests in hand.
    shared: Shared,
    rows: Mutex<Rows>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    at: u64,
    owner: &'a str,
    fingerprint: &'a str,
    reply: Option<&'a Reply>,
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    at: u64,
    /// Not there in what older gateways have written.
    #[serde(default)]
    owner: String,
    fingerprint: String,
    reply: Option<Reply>,
}

impl Replies {
    /// An empty table, which forgets everything with the process.
    pub fn new(registry: &Registry) -> Self {
        Self::over(registry, Store::in_memory(), Rows::default())
    }

    /// The answers that the store holds.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn load(registry: &Registry, store: Store) -> Result<Self, LoadError> {
        let mut found = Vec::new();
        for (name, record) in store.take(Kind::Reply) {
            let read: Read = serde_json::from_slice(&record)
                .map_err(|error| store.damaged(&format!("reply {name}: {error}")))?;
            if read.version > VERSION {
                let why = format!("reply {name}: version {}, run the later release", read.version);
                return Err(store.damaged(&why));
            }
            found.push((name, read));
        }
        found.sort_by_key(|(_, read)| read.at);
        let mut rows = Rows::default();
        for (name, Read { at, owner, fingerprint, reply, .. }) in found {
            let owner = Principal::new(owner);
            let row = Row { age: 0, at, owner, fingerprint, reply, written: true, in_hand: None };
            rows.enter(name.into(), row);
        }
        Ok(Self::over(registry, store, rows))
    }

    fn over(registry: &Registry, store: Store, rows: Rows) -> Self {
        let table = Arc::new(Table {
            registry: registry.clone(),
            store,
            shared: Shared::default(),
            rows: Mutex::new(rows),
        });
        let records: Weak<dyn Records> = Arc::downgrade(&(table.clone() as Arc<dyn Records>));
        table.store.mirror(Kind::Reply, records);
        Self(table)
    }

    /// Begins a request, or waits for the one that is in hand under the same name. Cancelling it
    /// changes nothing.
    pub(crate) async fn begin(
        &self,
        owner: &Principal,
        name: &str,
        fingerprint: &str,
        when: When,
    ) -> Result<Begun, BeginError> {
        loop {
            let mut in_hand = match self.0.meet(owner, name, fingerprint)? {
                Met::First(in_hand) => {
                    if when == When::AtOnce {
                        self.0.store.sync([key(&in_hand.name)]).await?;
                    }
                    return Ok(Begun::First(in_hand));
                }
                Met::InHand(in_hand) => in_hand,
                Met::Settled(begun) => return Ok(begun),
            };
            // Nothing is ever sent: it ends when the sender goes.
            while in_hand.changed().await.is_ok() {}
        }
    }
}

enum Met {
    First(InHand),
    InHand(watch::Receiver<()>),
    Settled(Begun),
}

impl Table {
    fn meet(
        self: &Arc<Self>,
        owner: &Principal,
        name: &str,
        fingerprint: &str,
    ) -> Result<Met, BeginError> {
        let mut rows = self.rows();
        self.forget_old(&mut rows, None);
        if let Some(row) = rows.get(name) {
            return Ok(match (&row.in_hand, &row.reply) {
                _ if row.fingerprint != fingerprint => Met::Settled(Begun::Other),
                (Some(in_hand), _) => Met::InHand(in_hand.clone()),
                (None, Some(reply)) => Met::Settled(Begun::Done(reply.clone())),
                (None, None) => Met::Settled(Begun::Lost),
            });
        }
        let max = self.registry.limits().idempotency_keys;
        // Who has everything in hand would leave nobody a place, however many answers can go.
        let part = self.shared.take(owner, 1, max).ok_or(BeginError::Full { max })?;
        self.forget_old(&mut rows, Some(owner));
        if rows.len() >= max {
            return Err(BeginError::Full { max });
        }
        let name: Arc<str> = name.into();
        let (done, in_hand) = watch::channel(());
        let fingerprint = fingerprint.to_owned();
        let in_hand = Some(in_hand);
        let (reply, written) = (None, false);
        let owner = owner.clone();
        let row = Row { age: 0, at: now(), owner, fingerprint, reply, written, in_hand };
        rows.enter(name.clone(), row);
        Ok(Met::First(InHand { table: self.clone(), name, went: false, _part: part, _done: done }))
    }

    /// Makes room for one more of `comes`. What is in hand stays.
    fn forget_old(&self, rows: &mut Rows, comes: Option<&Principal>) {
        let max = self.registry.limits().idempotency_keys;
        let now = now();
        // A clock that was set back makes nothing old.
        let old = |row: &Row| now.saturating_sub(row.at) >= KEPT.as_secs();
        let next = |rows: &Rows| match () {
            () if rows.oldest_settled().is_some_and(|(row, _)| old(row)) => {
                rows.oldest_settled().map(|(_, name)| name)
            }
            () if rows.len() + usize::from(comes.is_some()) > max => {
                rows.oldest_of(Most::Rows, comes)
            }
            () if rows.bytes() > MAX_BYTES => rows.oldest_of(Most::Bytes, comes),
            () => None,
        };
        while let Some(name) = next(rows) {
            rows.remove(&name);
            self.store.note(key(&name));
        }
    }

    /// Nothing panics under this lock.
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records for Table {
    fn record(&self, name: &str) -> Option<Vec<u8>> {
        let mut rows = self.rows();
        let row = rows.get_mut(name)?;
        row.written = true;
        let (fingerprint, reply) = (&*row.fingerprint, row.reply.as_ref());
        let owner = row.owner.as_str();
        let written = Written { version: VERSION, at: row.at, owner, fingerprint, reply };
        // Strings and numbers: their serialization cannot fail.
        Some(serde_json::to_vec(&written).unwrap_or_default())
    }
}

/// A request that was begun. Dropped before [`go`](Self::go) it frees its key; dropped afterwards,
/// nobody knows what became of it.
pub(crate) struct InHand {
    table: Arc<Table>,
    name: Arc<str>,
    went: bool,
    _part: Part,
    _done: watch::Sender<()>,
}

impl InHand {
    /// The key's name in the table.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// From now on the guest may have heard of it.
    pub(crate) fn go(&mut self) {
        self.went = true;
    }

    /// Nothing reached the guest: the key is as if it had never been used.
    pub(crate) fn free(mut self) {
        self.went = false;
    }

    /// Keeps the answer, and waits until it is on disk.
    pub(crate) async fn finish(self, reply: Reply) -> Result<(), Unwritable> {
        {
            self.table.rows().answer(&self.name, reply);
        }
        self.table.store.sync([key(&self.name)]).await
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut rows = self.table.rows();
        if self.went {
            if let Some(row) = rows.get_mut(&self.name) {
                row.in_hand = None;
            }
        } else {
            let written = rows.remove(&self.name);
            drop(rows);
            if written {
                self.table.store.note(key(&self.name));
            }
        }
    }
}

fn key(name: &Arc<str>) -> Key {
    Key { kind: Kind::Reply, name: name.clone() }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("kept", &self.0.rows().len()).finish()
    }
}

impl fmt::Debug for InHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InHand").field(&self.name).finish()
    }
}
