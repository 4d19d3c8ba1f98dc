//! The thread that writes: whatever has gathered since the last write goes into the next.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dir::StateDir;
use super::file::{Change, File, guarded};
use crate::metrics::WriteFigures;

use super::{Key, Kind, Loaded, Records, Unwritable};

/// How long a change that nobody waits for gathers others.
const GATHER: Duration = Duration::from_millis(50);

/// Pauses between attempts after a failure, unless somebody waits.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);

type Told = oneshot::Sender<Result<(), Unwritable>>;

/// What the store's handles and its thread share.
pub(super) struct Writer {
    shared: Arc<Shared>,
    pub(super) dir: Option<StateDir>,
    loaded: Mutex<Loaded>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
    figures: WriteFigures,
    tables: Mutex<Tables>,
    commits: AtomicU64,
    /// The thread is at the disk.
    writing: AtomicBool,
}

#[derive(Default)]
struct Tables {
    leases: Option<Weak<dyn Records>>,
    replies: Option<Weak<dyn Records>>,
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Pending {
    keys: BTreeSet<Key>,
    waiting: Vec<Told>,
    /// When the first change came that nobody waits for.
    since: Option<Instant>,
    closed: bool,
}

impl Pending {
    pub(super) fn note(&mut self, key: Key) {
        self.keys.insert(key);
        self.since.get_or_insert_with(Instant::now);
    }

    /// As [`note`](Self::note), at once.
    pub(super) fn hasten(&mut self, key: Key) {
        self.keys.insert(key);
        self.since = Instant::now().checked_sub(GATHER).or(self.since);
    }

    pub(super) fn sync(&mut self, keys: impl IntoIterator<Item = Key>, told: Told) {
        self.keys.extend(keys);
        self.waiting.push(told);
    }
}

impl Writer {
    pub(super) fn start(file: File, dir: Option<StateDir>, loaded: Loaded) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("state".into());
        // Without threads nothing else works either; then every sync fails, and says why.
        let thread = thread.spawn(move || theirs.run(file)).ok();
        Arc::new(Self { shared, dir, loaded: Mutex::new(loaded), thread })
    }

    pub(super) fn push(&self, change: impl FnOnce(&mut Pending)) {
        if self.thread.is_some() {
            change(&mut self.shared.pending());
            self.shared.changed.notify_one();
        }
    }

    pub(super) fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Whether the thread lives and waits for the disk.
    pub(super) fn is_at_the_disk(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
            && self.shared.writing.load(Ordering::Relaxed)
    }

    pub(super) fn loaded(&self) -> MutexGuard<'_, Loaded> {
        lock(&self.loaded)
    }

    pub(super) fn figures(&self) -> &WriteFigures {
        &self.shared.figures
    }

    pub(super) fn mirror(&self, kind: Kind, records: Weak<dyn Records>) {
        let mut tables = lock(&self.shared.tables);
        match kind {
            Kind::Lease => tables.leases = Some(records),
            Kind::Reply => tables.replies = Some(records),
        }
    }
}

impl Drop for Writer {
    /// What is pending is tried once more before the directory's lock is given back.
    fn drop(&mut self) {
        self.shared.pending().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            // The last handle may be a table's own, while the thread reads a record.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, mut file: File) {
        let mut failing: Option<Duration> = None;
        while let Some((keys, waiting, last)) = self.next(failing) {
            let written = guarded(|| self.write(&mut file, &keys)).unwrap_or_else(Err);
            self.figures.came_out(written.is_ok());
            match written {
                Ok(()) => {
                    if failing.take().is_some() {
                        tracing::info!("the gateway's state can be written again");
                    }
                    tell(waiting, &Ok(()));
                }
                Err(reason) => {
                    if failing.is_none() {
                        tracing::error!(
                            "the gateway's state cannot be written: {reason}. Freezes are refused \
                             until it can; what is frozen is thawed all the same"
                        );
                    }
                    failing = Some(failing.map_or(RETRY_FIRST, |p| (p * 2).min(RETRY_MOST)));
                    let mut pending = self.pending();
                    pending.keys.extend(keys);
                    pending.since.get_or_insert_with(Instant::now);
                    drop(pending);
                    tell(waiting, &Err(Unwritable { reason: reason.into() }));
                }
            }
            if last {
                return;
            }
        }
    }

    /// Waits for work. `None`: there is none any more. True with the last of it.
    fn next(&self, failing: Option<Duration>) -> Option<(BTreeSet<Key>, Vec<Told>, bool)> {
        let retry = failing.map(|pause| Instant::now() + pause);
        let mut pending = self.pending();
        loop {
            let due = retry.or_else(|| pending.since.map(|since| since + GATHER));
            let due = due.filter(|_| !pending.keys.is_empty());
            let now = Instant::now();
            let ready = !pending.waiting.is_empty() || due.is_some_and(|due| due <= now);
            if ready || pending.closed {
                let (keys, waiting) =
                    (std::mem::take(&mut pending.keys), std::mem::take(&mut pending.waiting));
                pending.since = None;
                if keys.is_empty() && waiting.is_empty() {
                    return None;
                }
                return Some((keys, waiting, pending.closed));
            }
            pending = match due {
                Some(due) => {
                    let woken = self.changed.wait_timeout(pending, due - now);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(pending).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn write(&self, file: &mut File, keys: &BTreeSet<Key>) -> Result<(), String> {
        let (leases, replies) = {
            let tables = lock(&self.tables);
            (upgrade(tables.leases.as_ref()), upgrade(tables.replies.as_ref()))
        };
        let changes: Vec<Change<'_>> = keys
            .iter()
            .filter_map(|key| {
                let table = match key.kind {
                    Kind::Lease => leases.as_ref(),
                    Kind::Reply => replies.as_ref(),
                };
                // A table that is gone says nothing of its records.
                table.map(|table| (key.kind, &*key.name, table.record(&key.name)))
            })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        self.writing.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let written = file.write(&changes);
        self.figures.latency.observe(begun.elapsed());
        self.writing.store(false, Ordering::Relaxed);
        written?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }
}

fn upgrade(table: Option<&Weak<dyn Records>>) -> Option<Arc<dyn Records>> {
    table.and_then(Weak::upgrade)
}

fn tell(waiting: Vec<Told>, result: &Result<(), Unwritable>) {
    for told in waiting {
        let _ = told.send(result.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
