//! What comes back over a connection, and what it means for callers and for the link.

use std::io;

use qga_proto::command::{
    Command as _, CommandInfo, FreezeState, FsfreezeStatus, GuestFsfreezeStatus, GuestFsfreezeThaw,
    GuestInfo, XFsfreezeFreeze, XFsfreezeReport, XFsfreezeThaw,
};
use qga_proto::{Call, CallId, ClientEvent, ReplyError, ReplyText};
use tokio::time::Instant;

use crate::config::Mode;
use crate::metrics::CommandOutcome;

use super::{Caller, Session, Stage};
use crate::vm::capabilities::Capabilities;
use crate::vm::handle::{CallError, CallOptions, Pending, Work};
use crate::vm::link::LinkState;
use crate::vm::surplus::Weight;

impl Session<'_> {
    pub(super) fn take_events(&mut self, now: Instant) -> io::Result<()> {
        let Weight { empty, all } = std::mem::take(&mut self.unjudged);
        let (mut answers, mut drops) = (false, false);
        while let Some(event) = self.client.poll_event() {
            answers |= matches!(event, ClientEvent::Synced { .. } | ClientEvent::Reply { .. });
            match event {
                ClientEvent::Synced { echoes_id, delimited } => {
                    (self.echoes_id, self.delimited) = (echoes_id, delimited);
                    self.synced(now);
                }
                ClientEvent::Reply { call, result } => self.reply(call, result, now),
                ClientEvent::Dropped(reason) => {
                    self.vm.counters.dropped.add(1);
                    drops = true;
                    tracing::debug!(vm.id = %self.vm.id, "{}: dropped {reason:?}", self.vm.id);
                }
                // The session times syncs by itself.
                ClientEvent::SyncFailed => {}
            }
        }
        let unasked = drops || !answers && self.client.in_flight() == 0;
        if all > 0 {
            self.distrusted = unasked;
        }
        if unasked {
            self.surplus.add(all);
        } else if empty > 0 {
            self.surplus.add(empty);
        }
        if self.client.needs_sync() && matches!(self.stage, Stage::Up) {
            self.start_sync()?;
        }
        Ok(())
    }

    fn synced(&mut self, now: Instant) {
        let unsure = std::mem::take(&mut self.unsure) || matches!(self.stage, Stage::Silent { .. });
        self.stage = Stage::Up;
        self.was_up = true;
        self.doubting = false;
        self.idle_since = now;
        self.surplus.late = 0;
        for pending in self.resyncs.drain(..) {
            pending.answer(Ok(None));
        }
        if unsure {
            self.wants.status = true;
        }
    }

    /// Nobody answered the sync: what hung on it ends.
    pub(super) fn fall_silent(&mut self) {
        for pending in self.resyncs.drain(..) {
            pending.timed_out(true);
        }
        // A guest that was told to go and went does not answer.
        let gone = |(_, caller): &mut (CallId, Caller)| match caller {
            Caller::Pending(pending) => pending.silent_success(),
            Caller::Status | Caller::Info => false,
        };
        for (_, caller) in self.calls.extract_if(.., gone) {
            if let Caller::Pending(pending) = caller {
                self.vm.note(&pending, CommandOutcome::Ok);
                pending.answer(Ok(None));
            }
        }
    }

    /// Sends the session's own questions.
    pub(super) fn send_wants(&mut self, now: Instant) {
        if self.wants.status && self.ask(&GuestFsfreezeStatus::INFO, Caller::Status, now) {
            self.wants.status = false;
        }
        if self.wants.info && !self.is_frozen() && self.ask(&GuestInfo::INFO, Caller::Info, now) {
            self.wants.info = false;
        }
    }

    fn ask(&mut self, info: &CommandInfo, caller: Caller, now: Instant) -> bool {
        if !self.client.can_send(info) {
            return false;
        }
        let CallOptions { timeout, reply_cap, .. } = self.vm.options(info);
        let call = Call {
            name: info.name.into(),
            arguments: "{}".into(),
            pipelined: info.pipelined,
            yields: info.yields.is_some(),
            success_response: info.success_response,
            deadline: (now + timeout).into_std(),
            reply_cap,
        };
        match self.client.send(&call) {
            Ok(id) => {
                self.vm.counters.calls.add(1);
                self.calls.push((id, caller));
                true
            }
            Err(_) => false,
        }
    }

    fn reply(&mut self, call: CallId, result: Result<ReplyText, ReplyError>, now: Instant) {
        self.idle_since = now;
        let Some(at) = self.calls.iter().position(|(id, _)| *id == call) else { return };
        match self.calls.swap_remove(at).1 {
            Caller::Status => self.status(&result),
            Caller::Info => self.info(&result),
            Caller::Pending(pending) => self.answer(*pending, result),
        }
    }

    /// The first answer after a connect or a silence decides where the link stands.
    fn status(&mut self, result: &Result<ReplyText, ReplyError>) {
        let status = match result {
            Ok(text) => text.decode::<GuestFsfreezeStatus>(),
            Err(error) => Err(error.clone()),
        };
        match status {
            Ok(status) => self.says(status),
            // Some agents cannot freeze at all.
            Err(ReplyError::Agent(_)) => self.enter(LinkState::Ready, None),
            Err(_) => {
                let reason = "the agent answers syncs, but no guest-fsfreeze-status";
                self.enter(LinkState::Ready, Some(reason));
            }
        }
        let known = self.vm.has_capabilities() && self.vm.mode == Mode::OnDemand;
        self.wants.info = self.refresh || !known;
    }

    fn info(&mut self, result: &Result<ReplyText, ReplyError>) {
        let decoded = result.as_ref().map(ReplyText::decode::<GuestInfo>);
        let Ok(Ok(info)) = decoded else {
            tracing::info!(vm.id = %self.vm.id, "{}: no usable guest-info", self.vm.id);
            return;
        };
        // Asked unfrozen, but answered after a freeze: the list says little then.
        if self.is_frozen() {
            self.wants.info = true;
            return;
        }
        self.vm.set_capabilities(Capabilities::new(info, self.echoes_id, self.delimited));
    }

    fn answer(&mut self, pending: Pending, result: Result<ReplyText, ReplyError>) {
        let Work::Call { info, reply_cap, .. } = &pending.work else { return };
        // Whether the guest is frozen is open, then.
        let unanswered = !matches!(result, Ok(_) | Err(ReplyError::Agent(_)));
        self.wants.status |= unanswered && (info.is_freeze() || info.is_thaw());
        let outcome = match &result {
            // Silence is what was asked for.
            Err(error) if !matches!(error, ReplyError::Agent(_)) && pending.silent_success() => {
                CommandOutcome::Ok
            }
            result => CommandOutcome::of(result),
        };
        self.vm.note(&pending, outcome);
        match result {
            Ok(text) => {
                self.observe(info, &text);
                pending.answer(Ok(Some(text)));
            }
            Err(ReplyError::Agent(error)) if error.is_not_found() => {
                pending.answer(Err(CallError::Unsupported));
            }
            Err(ReplyError::Agent(error)) => pending.answer(Err(CallError::Agent(error))),
            Err(_) if pending.silent_success() => pending.answer(Ok(None)),
            Err(ReplyError::TimedOut) => {
                self.vm.counters.timeouts.add(1);
                if std::mem::take(&mut self.doubting) {
                    self.vm.disrupted("a command was not answered, nor the sync behind it");
                }
                self.surplus.late = self.surplus.late.max(*reply_cap);
                let name = info.name;
                tracing::info!(
                    vm.id = %self.vm.id, qga.command = name,
                    "{}: {name} was not answered in time", self.vm.id
                );
                pending.timed_out(true);
            }
            Err(ReplyError::BadReply(reason)) => {
                self.vm.counters.bad_replies.add(1);
                pending.answer(Err(CallError::BadReply { reason }));
            }
            Err(ReplyError::Lost) => {
                let reason = "a later sync was answered, and this was not".to_owned();
                pending.answer(Err(CallError::Interrupted { reason }));
            }
        }
    }

    /// Learns from an answer whether the guest is frozen.
    fn observe(&mut self, info: &CommandInfo, text: &ReplyText) {
        let count = || serde_json::from_slice::<i64>(text.json()).unwrap_or(-1);
        let status = match info.name {
            "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" => {
                (count() > 0).then_some(FsfreezeStatus::Frozen)
            }
            name if name == GuestFsfreezeThaw::INFO.name => {
                (count() >= 0).then_some(FsfreezeStatus::Thawed)
            }
            name if name == XFsfreezeFreeze::INFO.name => {
                let freeze = text.decode::<XFsfreezeFreeze>().ok();
                freeze.filter(|freeze| freeze.count > 0).map(|_| FsfreezeStatus::Frozen)
            }
            name if name == XFsfreezeThaw::INFO.name => {
                text.decode::<XFsfreezeThaw>().ok().map(|_| FsfreezeStatus::Thawed)
            }
            name if name == GuestFsfreezeStatus::INFO.name => {
                text.decode::<GuestFsfreezeStatus>().ok()
            }
            name if name == XFsfreezeReport::INFO.name => {
                match text.decode::<XFsfreezeReport>().ok().map(|report| report.state) {
                    Some(FreezeState::Thawed) => Some(FsfreezeStatus::Thawed),
                    Some(FreezeState::Frozen | FreezeState::Thawing) => {
                        Some(FsfreezeStatus::Frozen)
                    }
                    Some(FreezeState::Freezing) | None => None,
                }
            }
            _ => None,
        };
        let Some(status) = status else { return };
        self.says(status);
        self.wants.info |= status == FsfreezeStatus::Thawed && !self.vm.has_capabilities();
    }

    /// What the guest says of its freeze is where the link stands.
    fn says(&self, status: FsfreezeStatus) {
        match status {
            FsfreezeStatus::Thawed => self.enter(LinkState::Ready, None),
            FsfreezeStatus::Frozen => self.enter(LinkState::Frozen, None),
            FsfreezeStatus::Error => {
                let reason = "the agent says that a freeze or thaw failed half-way";
                self.enter(LinkState::Frozen, Some(reason));
            }
        }
    }

    pub(super) fn enter(&self, state: LinkState, reason: Option<&str>) {
        self.vm.enter(state, reason.map(Into::into));
    }
}
