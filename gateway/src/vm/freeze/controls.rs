//! What a lease's keeper is told: to thaw, to renew, and that the gateway is to stop.
//!
//! Thaws do not stand in one line with renewals: a renewal may wait for a guest that does not
//! answer, and for none of the other VMs may that put off the thaw. The stop is a flag, because no
//! line may be too full for it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Reply;
use crate::vm::lease::ThawCause;

/// Callers of one lease are few; a full line makes them wait, not its keeper.
const WAITING: usize = 8;

/// What a keeper is told.
#[derive(Debug)]
pub(super) enum Control {
    End(End),
    Renew(Renewal),
}

/// Thaw. Of a stop, told once, nobody waits to hear.
#[derive(Debug)]
pub(super) struct End {
    pub(super) cause: ThawCause,
    pub(super) reply: Option<Reply>,
}

/// Hold for so long from now.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) ttl: Duration,
    pub(super) reply: Reply,
}

/// The end of those who tell.
#[derive(Clone, Debug)]
pub(super) struct Line {
    thaws: mpsc::Sender<Reply>,
    renewals: mpsc::Sender<Renewal>,
    stop: CancellationToken,
}

/// The keeper's end.
#[derive(Debug)]
pub(super) struct Controls {
    thaws: mpsc::Receiver<Reply>,
    renewals: mpsc::Receiver<Renewal>,
    stop: CancellationToken,
    stopped: bool,
}

impl Line {
    /// A new line, which hears of a stop that was called for on this flag.
    pub(super) fn new(stop: CancellationToken) -> (Self, Controls) {
        let (thaws, thaws_end) = mpsc::channel(WAITING);
        let (renewals, renewals_end) = mpsc::channel(WAITING);
        let line = Self { thaws, renewals, stop: stop.clone() };
        let stopped = false;
        (line, Controls { thaws: thaws_end, renewals: renewals_end, stop, stopped })
    }

    /// One to another keeper, which takes over and hears of the stop too.
    pub(super) fn again(&self) -> (Self, Controls) {
        Self::new(self.stop.clone())
    }

    /// That of a lease which nobody keeps any more.
    pub(super) fn dead() -> Self {
        Self::new(CancellationToken::new()).0
    }

    /// Asks for the thaw, and waits where many have before. What is dropped is the reply: the
    /// keeper is gone.
    pub(super) async fn thaw(&self, reply: Reply) {
        let _ = self.thaws.send(reply).await;
    }

    /// As [`thaw`](Self::thaw).
    pub(super) async fn renew(&self, ttl: Duration, reply: Reply) {
        let _ = self.renewals.send(Renewal { ttl, reply }).await;
    }

    /// Tells the keeper at once that the gateway is to stop.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Controls {
    /// Through which nothing comes.
    pub(super) fn none() -> Self {
        Line::new(CancellationToken::new()).1
    }

    /// The next. Nothing is lost if what this gives is dropped.
    pub(super) async fn recv(&mut self) -> Control {
        tokio::select! {
            biased;
            end = end(&mut self.thaws, &self.stop, &mut self.stopped) => Control::End(end),
            Some(renewal) = self.renewals.recv() => Control::Renew(renewal),
        }
    }

    /// The next one that no renewal may hold up.
    pub(super) async fn end(&mut self) -> End {
        end(&mut self.thaws, &self.stop, &mut self.stopped).await
    }

    /// Whether the gateway is to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Takes nothing any more, and gives who is left.
    pub(super) fn close(&mut self) -> Vec<Reply> {
        self.thaws.close();
        self.renewals.close();
        let mut left = Vec::new();
        while let Ok(reply) = self.thaws.try_recv() {
            left.push(reply);
        }
        while let Ok(renewal) = self.renewals.try_recv() {
            left.push(renewal.reply);
        }
        left
    }
}

/// Waits for ever once all who could tell are gone.
async fn end(
    thaws: &mut mpsc::Receiver<Reply>,
    stop: &CancellationToken,
    stopped: &mut bool,
) -> End {
    tokio::select! {
        biased;
        () = stop.cancelled(), if !*stopped => {
            *stopped = true;
            End { cause: ThawCause::Shutdown, reply: None }
        }
        Some(reply) = thaws.recv() => End { cause: ThawCause::Requested, reply: Some(reply) },
        else => std::future::pending().await,
    }
}
