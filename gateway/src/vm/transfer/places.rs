//! Files that are written where they are. A chunk of an upload that broke off may still be on its way when the
//! sender comes again, and would land in what is begun anew: so the next waits until the handle of the one
//! before is closed, or can be no more.
//!
//! ```text
//!   enter ──▶ under way ── broken off ──▶ closing ── the guest has closed it, or is another ──▶ gone
//!                 └──────────────── closed in order ───────────────────────────────────────────▶ gone
//! ```
//!
//! Parts of one file may be written at once; whoever writes the whole is alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{GuestPath, InPlace, TransferError};
use crate::vm::VmId;

/// How long an upload waits for the one before.
const BOUND: Duration = Duration::from_secs(10);

type Key = (VmId, GuestPath);

/// All such files.
#[derive(Debug, Default)]
pub(super) struct Places {
    users: Mutex<HashMap<Key, Users>>,
    fewer: Notify,
}

/// Who has one of them.
#[derive(Debug, Default)]
struct Users {
    whole: bool,
    parts: usize,
    closing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Whole,
    Part,
    Closing,
}

/// One upload's hold of its file.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    key: Key,
    how: Use,
}

impl Places {
    /// Begins to write; waits for those who are in the way, for a while.
    pub(super) async fn enter(
        self: &Arc<Self>,
        vm: &VmId,
        path: &GuestPath,
        how: InPlace,
    ) -> Result<Place, TransferError> {
        let key = (vm.clone(), path.clone());
        let how = if how == InPlace::Whole { Use::Whole } else { Use::Part };
        let until = Instant::now() + BOUND;
        loop {
            let fewer = self.fewer.notified();
            if self.lock().entry(key.clone()).or_default().admit(how) {
                return Ok(Place { places: self.clone(), key, how });
            }
            if timeout_at(until, fewer).await.is_err() {
                return Err(TransferError::InUse { after: BOUND });
            }
        }
    }

    /// Nothing panics under this lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Users>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    fn admit(&mut self, how: Use) -> bool {
        let free = !self.whole && self.closing == 0 && (how == Use::Part || self.parts == 0);
        if free {
            self.add(how);
        }
        free
    }

    fn add(&mut self, how: Use) {
        match how {
            Use::Whole => self.whole = true,
            Use::Part => self.parts += 1,
            Use::Closing => self.closing += 1,
        }
    }

    fn remove(&mut self, how: Use) {
        match how {
            Use::Whole => self.whole = false,
            Use::Part => self.parts -= 1,
            Use::Closing => self.closing -= 1,
        }
    }
}

impl Place {
    /// The upload is over, and its handle is not closed yet.
    pub(super) fn closing(&mut self) {
        if let Some(users) = self.places.lock().get_mut(&self.key) {
            users.remove(self.how);
            self.how = Use::Closing;
            users.add(self.how);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.lock();
        if let Some(users) = all.get_mut(&self.key) {
            users.remove(self.how);
            if !users.whole && users.parts + users.closing == 0 {
                all.remove(&self.key);
            }
        }
        drop(all);
        self.places.fewer.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(
        places: &Arc<Places>,
        path: &str,
        how: InPlace,
    ) -> impl Future<Output = Result<Place, TransferError>> + use<> {
        let (places, path) = (places.clone(), GuestPath::new(path.into()).unwrap());
        let vm: VmId = "vm".parse().unwrap();
        async move { places.enter(&vm, &path, how).await }
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_a_whole_file_is_alone_and_parts_are_not() {
        let places = Arc::new(Places::default());
        let whole = enter(&places, "/f", InPlace::Whole).await.unwrap();
        drop(enter(&places, "/g", InPlace::Whole).await.unwrap());
        for how in [InPlace::Whole, InPlace::Part, InPlace::PartExtended] {
            let refused = enter(&places, "/f", how).await;
            assert!(matches!(refused, Err(TransferError::InUse { .. })), "{how:?}");
        }
        drop(whole);
        let parts = [
            enter(&places, "/f", InPlace::Part).await.unwrap(),
            enter(&places, "/f", InPlace::PartExtended).await.unwrap(),
        ];
        assert!(enter(&places, "/f", InPlace::Whole).await.is_err());
        drop(parts);
        assert!(places.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_off_is_waited_for_until_it_is_closed() {
        for how in [InPlace::Whole, InPlace::Part] {
            let places = Arc::new(Places::default());
            let mut broken = enter(&places, "/f", InPlace::Part).await.unwrap();
            broken.closing();
            let next = tokio::spawn(enter(&places, "/f", how));
            tokio::time::advance(BOUND / 2).await;
            assert!(!next.is_finished());
            drop(broken);
            drop(next.await.unwrap().unwrap());
            assert!(places.lock().is_empty());
        }
    }
}
