//! What QMP has seen, and what it means for a connection.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::{End, Session};
use crate::vm::link::LinkState;
use crate::vm::signs::{News, Sign};

impl Session<'_> {
    /// The first sync of a connection.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        // It is of the time before.
        self.vm.signs.take();
        self.start_sync()?;
        if self.vm.signs.port_is_closed() {
            // The sync waits in the pipe for whoever opens the port.
            self.silent(Instant::now(), Duration::ZERO);
        }
        Ok(())
    }

    /// Draws the conclusions from what QMP has seen. An end means: connect anew.
    pub(super) fn take_news(&mut self, now: Instant) -> io::Result<Option<End>> {
        let news = self.vm.signs.take();
        if news == News::default() {
            return Ok(None);
        }
        let gone = news.ended.or_else(|| news.closed.then_some(Sign::PortClosed));
        if let Some(sign) = gone {
            self.vm.open_files.empty();
            // What was sent and has not been read would be run by the next agent, at a time that
            // nobody knows. QEMU drops it with the connection.
            if self.client.in_flight() > 0 {
                return Ok(Some(End::Broken(sign.text().into())));
            }
            // The next agent may be another one.
            (self.unsure, self.refresh) = (true, true);
            self.start_sync()?;
            if news.opened || news.ended.is_some() && !self.vm.signs.port_is_closed() {
                self.vm.disrupted(sign.text());
                self.enter(LinkState::Silent, Some(sign.text()));
            } else {
                self.silent(now, Duration::ZERO);
            }
        } else if news.opened {
            self.look_again(now);
        }
        Ok(None)
    }
}
