//! Room for the bodies of requests that are kept in memory: bounded over all connections, and shared
//! out by who sends them.
//!
//! ```text
//!   head of a request ──▶ is there room? ──yes──▶ its body is read, and kept until it is answered
//!                              │ no
//!                              └──▶ nothing is read, so that the client waits ──too long──▶ 503
//! ```
//!
//! The room is taken before anything is read, for as much as may come: a body that waited half read for
//! the rest of its room could wait for one that waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::error::{Code, Outcome, Problem};
use crate::principal::Principal;
use crate::share::{Part, Shared};

/// Bodies up to this size need no room: with the bound on connections they are bounded too, and
/// freezes, renewals and thaws, which are smaller, never wait for somebody else's file.
pub(super) const SMALL: usize = 16 << 10;

/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(10);

/// All room. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Bodies {
    shared: Shared,
    freed: Arc<Notify>,
}

/// Room for one body, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    part: Option<Part>,
    freed: Arc<Notify>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.part = None;
        self.freed.notify_waiters();
    }
}

impl Bodies {
    /// Room for `size` bytes of `most` in all, once there is some.
    pub(super) async fn room(
        &self,
        who: &Principal,
        size: usize,
        most: usize,
    ) -> Result<Room, Problem> {
        let room = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                // Before looking, so that what is given back meanwhile is not missed.
                freed.as_mut().enable();
                if let Some(part) = self.shared.take(who, size, most) {
                    return Room { part: Some(part), freed: self.freed.clone() };
                }
                freed.await;
            }
        };
        timeout(PATIENCE, room).await.map_err(|_| self.full(size, most))
    }

    fn full(&self, size: usize, most: usize) -> Problem {
        Problem::new(
            Code::GatewayBusy,
            format!(
                "The bodies of requests that the gateway has in hand take {} of {most} bytes \
                 (limits.request_bodies_bytes), of which one caller gets at most half of what the \
                 others leave, and there was no room for {size} more within {} s. Nothing was sent. \
                 Send fewer large requests at once; files are better put on \
                 /vms/{{id}}/files/content, which keeps none in memory.",
                self.shared.all(),
                PATIENCE.as_secs()
            ),
        )
        .outcome(Outcome::NotSent, true)
        .retry_after(5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_for_it_and_not_for_ever() {
        let bodies = Bodies::default();
        let (one, two) = (Principal::new("one"), Principal::new("two"));
        let held = bodies.room(&one, 50, 100).await.expect("room");
        let refused = bodies.room(&one, 1, 100).await.expect_err("none");
        assert_eq!(refused.code(), Code::GatewayBusy);
        let other = bodies.room(&two, 25, 100).await.expect("another's share");
        let waiting = tokio::spawn({
            let bodies = bodies.clone();
            async move { bodies.room(&two, 20, 100).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((held, other));
        waiting.await.expect("ends").expect("room");
        assert_eq!(bodies.shared.all(), 0);
    }
}
