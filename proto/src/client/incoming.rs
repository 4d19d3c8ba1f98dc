//! Lines that came, and which call each is for.

use std::time::Instant;

use super::handshake::{Handshake, Step};
use super::in_flight::InFlight;
use super::{Client, ClientEvent, DropReason, Phase, ReplyError};
use crate::reply::{Content, Reply};
use crate::scan;

impl Client {
    pub(super) fn receive_line(&mut self, now: Instant, line: Vec<u8>) {
        // Whatever stands before the last sentinel was sent to somebody else.
        let start = scan::last(&line, 0xFF).map_or(0, |at| at + 1);
        let delimited = start > 0;
        if line[start..].iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let reply = Reply::parse(line, start);
        match (&self.phase, reply) {
            (Phase::Syncing { handshake, .. }, Ok(reply)) => {
                let handshake = *handshake;
                self.receive_while_syncing(now, handshake, reply, delimited);
            }
            (Phase::Syncing { .. }, Err(_)) => self.drop(DropReason::Garbage),
            (_, Ok(reply)) => self.receive_in_turn(reply, delimited),
            (_, Err(cause)) => self.receive_garbage(cause),
        }
    }

    fn receive_while_syncing(
        &mut self,
        now: Instant,
        mut handshake: Handshake,
        reply: Reply,
        delimited: bool,
    ) {
        let step = handshake.receive(&reply, delimited);
        if let Phase::Syncing { handshake: kept, .. } = &mut self.phase {
            *kept = handshake;
        }
        match step {
            Step::Wait => {}
            Step::SendPlain => {
                handshake.write_plain(&mut self.output);
                self.plain_sync = Some(handshake.plain());
                self.in_flight.iter_mut().for_each(|call| call.behind_sync = false);
                // It is another round trip.
                let deadline = now + self.config.sync_timeout;
                self.phase = Phase::Syncing { handshake, deadline };
            }
            Step::Synced { echoes_id, delimited } => {
                self.synced(handshake.session(), echoes_id, delimited);
            }
            // A slow reply to a call that is still waiting.
            Step::NotMine if !delimited && reply.id().is_some() => self.receive_reply(reply),
            Step::NotMine => self.drop(DropReason::Unsolicited),
        }
    }

    fn synced(&mut self, session: u64, echoes_id: bool, delimited: bool) {
        self.phase = Phase::Ready;
        self.was_synced = true;
        self.echoes_id = echoes_id;
        self.delimited = delimited;
        self.session = session;
        // Agents answer in order: what is not answered by now never will be.
        let events = &mut self.events;
        self.in_flight.retain_mut(|call| {
            if !call.behind_sync {
                let result = Err(ReplyError::Lost);
                events.push_back(ClientEvent::Reply { call: call.call, result });
            }
            std::mem::take(&mut call.behind_sync)
        });
        self.give_back();
        self.events.push_back(ClientEvent::Synced { echoes_id, delimited });
    }

    fn receive_in_turn(&mut self, reply: Reply, delimited: bool) {
        let fenced = self.in_flight.iter().position(|call| call.is_next_after(&reply, delimited));
        if let Some(at) = fenced {
            // Agents answer in order: what was sent before and is not answered never will be.
            for lost in self.in_flight.drain(..at) {
                let result = Err(ReplyError::Lost);
                self.events.push_back(ClientEvent::Reply { call: lost.call, result });
            }
            self.in_flight[0].fence = None;
        } else if delimited {
            self.drop(DropReason::Unsolicited);
        } else {
            self.receive_reply(reply);
        }
    }

    fn receive_reply(&mut self, reply: Reply) {
        if reply.id().is_none() && self.plain_sync.is_some_and(|plain| reply.is_integer(plain)) {
            return self.drop(DropReason::Unsolicited);
        }
        let waiting = match reply.id() {
            Some(id) => {
                let id = id.strip_prefix('"').and_then(|id| id.strip_suffix('"'));
                let found = self
                    .in_flight
                    .iter()
                    .find(|call| call.id.as_deref().is_some_and(|own| Some(own) == id));
                let Some(found) = found else { return self.drop(DropReason::OtherId) };
                found
            }
            // An agent that echoes ids does so in every reply to a command.
            None if self.echoes_id => return self.drop(DropReason::OtherId),
            None => match self.in_flight.front() {
                Some(first) if first.fence.is_none() => first,
                _ => return self.drop(DropReason::Unsolicited),
            },
        };
        let call = waiting.call;
        if reply.len() > waiting.cap {
            let cause = format!(
                "the reply has {} bytes, more than the {} allowed",
                reply.len(),
                waiting.cap
            );
            self.end(call, Err(ReplyError::BadReply(cause)));
            return;
        }
        let result = match reply.into_content() {
            Content::Return(text) => Ok(text),
            Content::Error(error) => Err(ReplyError::Agent(error)),
        };
        self.end(call, result);
    }

    fn receive_garbage(&mut self, cause: String) {
        match self.in_flight.front() {
            Some(InFlight { call, fence: None, .. }) => {
                self.end(*call, Err(ReplyError::BadReply(cause)));
                self.lose_place();
            }
            // Whatever it was, it is not the reply.
            _ => self.drop(DropReason::Garbage),
        }
    }

    pub(super) fn receive_oversize(&mut self, cap: usize) {
        self.drop(DropReason::Oversize);
        if self.is_synced() && !self.in_flight.is_empty() {
            self.receive_garbage(format!("a line longer than {cap} bytes"));
        }
    }
}
