//! Connections on which nobody has proved anything yet. They are welcome while there is room; when
//! there is none, the one that has been silent longest gives way to the next that comes, so that
//! idle connections of somebody without credentials cannot keep out those who have them.
//!
//! ```text
//! silent ──request──▶ asking ──refused, or anybody may──▶ silent
//!                        └─────anything else────────────▶ known, which never gives way
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use tokio_util::sync::CancellationToken;

/// The silent ones of a listener, by when they fell silent.
#[derive(Clone, Debug, Default)]
pub(super) struct Newcomers(Arc<Mutex<Silent>>);

#[derive(Debug, Default)]
struct Silent {
    next: u64,
    since: BTreeMap<u64, CancellationToken>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Newcomer {
    others: Newcomers,
    place: Mutex<Option<u64>>,
    known: AtomicBool,
    sent_away: CancellationToken,
}

impl Newcomers {
    fn with<T>(&self, change: impl FnOnce(&mut Silent) -> T) -> T {
        // Every change is one call on the map, so there is no half of one.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn enter(&self) -> Newcomer {
        let newcomer = Newcomer {
            others: self.clone(),
            place: Mutex::new(None),
            known: AtomicBool::new(false),
            sent_away: CancellationToken::new(),
        };
        newcomer.falls_silent();
        newcomer
    }

    /// Sends the one away that has been silent longest, if there is one.
    pub(super) fn make_room(&self) {
        if let Some((_, sent_away)) = self.with(|silent| silent.since.pop_first()) {
            sent_away.cancel();
        }
    }
}

impl Newcomer {
    /// A request has come: it is answered, whoever waits.
    pub(super) fn asks(&self) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(place) = place {
            self.others.with(|silent| silent.since.remove(&place));
        }
    }

    /// The answer to a request says whether its caller is known: without proof, all that is not
    /// `public` is refused. Once known, always known.
    pub(super) fn answered(&self, status: StatusCode, public: bool) {
        let known = !public && !status.is_client_error();
        if !(self.known.fetch_or(known, Ordering::Relaxed) || known) {
            self.falls_silent();
        }
    }

    fn falls_silent(&self) {
        let place = self.others.with(|silent| {
            silent.next += 1;
            silent.since.insert(silent.next, self.sent_away.clone());
            silent.next
        });
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// Waits until it has to give way.
    pub(super) async fn gives_way(&self) {
        self.sent_away.cancelled().await;
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.asks();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(newcomer: &Newcomer) -> bool {
        newcomer.sent_away.is_cancelled()
    }

    #[test]
    fn the_one_that_has_been_silent_longest_goes_and_no_other() {
        let all = Newcomers::default();
        let [asked, first, known, second] = [(); 4].map(|()| all.enter());
        known.asks();
        known.answered(StatusCode::OK, false);
        known.asks();
        known.answered(StatusCode::NOT_FOUND, false);
        asked.asks();
        asked.answered(StatusCode::UNAUTHORIZED, false);
        all.make_room();
        assert_eq!([&asked, &first, &known, &second].map(gone), [false, true, false, false]);
        all.make_room();
        all.make_room();
        all.make_room();
        assert_eq!([&asked, &first, &known, &second].map(gone), [true, true, false, true]);
    }

    #[test]
    fn who_asks_stays_and_who_leaves_is_forgotten() {
        let all = Newcomers::default();
        let asking = all.enter();
        asking.asks();
        drop(all.enter());
        all.make_room();
        assert!(!gone(&asking));
        assert!(all.with(|silent| silent.since.is_empty()));
        asking.answered(StatusCode::OK, true);
        all.make_room();
        assert!(gone(&asking), "a public answer proves nothing");
    }
}
