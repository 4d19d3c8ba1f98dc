//! The one task that owns a VM's wire.
//!
//! ```text
//!             a socket (persistent), or a call too (on demand)
//!   Waiting ----------------------------------------------> connect --- connected ---> Session
//!     ^  ^                                                     |                          |
//!     |  +------ pause, until: backoff over, kick, call -------+ no connection            |
//!     |                                                                                   |
//!     +------------ idle (on demand), or broken: at once if it was steady, else a pause --+
//! ```
//!
//! Nothing that a guest does ends the task, and no failure is for ever: every pause ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::door::Door;
use super::handle::{CallError, Vm};
use super::link::LinkState;
use super::session::{End, Session};
use super::socket::{self, ConnectError, Connection};
use super::timer::Timer;
use crate::config::Mode;

/// A connection that lasted this long was a good one: the next is tried without a pause.
const STEADY: Duration = Duration::from_secs(5);

/// Why libvirt's own channel is left alone, and what to do about it.
const LEFT_ALONE: &str = "libvirt holds this channel for itself and is left alone; give the VM a \
    second one for the gateway (deploy/libvirt/gateway-channel.xml), or set libvirt_channel = true \
    if libvirt does not use it";

/// Serves one VM until its handle is closed.
pub(super) async fn run(vm: Arc<Vm>) {
    let mut actor = Actor { pause: Duration::ZERO, tried: None, news: true, door: None, vm: &vm };
    while !vm.is_closed() {
        actor.turn().await;
    }
    actor.fail_queue();
}

struct Actor<'a> {
    vm: &'a Vm,
    /// The next pause after a failure.
    pause: Duration,
    /// When a connection was last tried.
    tried: Option<Instant>,
    /// The socket is new or has changed: see who is there, even if nobody calls.
    news: bool,
    /// Where QEMU connects, if it is QEMU that does.
    door: Option<Door>,
}

impl Actor<'_> {
    async fn turn(&mut self) {
        if self.vm.left_alone {
            self.enter(LinkState::Busy, LEFT_ALONE.into());
            self.fail_queue();
            self.vm.wake.notified().await;
            return;
        }
        self.news |= self.vm.take_kick();
        if self.vm.listens {
            return self.listen().await;
        }
        let wanted = self.vm.mode == Mode::Persistent
            || self.news
            || self.vm.is_pinned()
            || !self.vm.queue().is_empty();
        if !wanted {
            self.vm.wake.notified().await;
            return;
        }
        self.tried = Some(Instant::now());
        let moves = self.vm.moves();
        match socket::connect(&self.vm.socket(), &self.vm.owners) {
            Ok(connection) => self.serve(connection, moves).await,
            Err(error) => self.no_connection(&error).await,
        }
    }

    /// Waits for QEMU to connect.
    async fn listen(&mut self) {
        self.tried = Some(Instant::now());
        let moves = self.vm.moves();
        let path = self.vm.socket();
        if self.door.as_ref().is_none_or(|door| !door.is_at(&path)) {
            self.door = None;
            match Door::open(path, &self.vm.owners) {
                Ok(door) => self.door = Some(door),
                Err(e) => {
                    let reason = format!("the gateway cannot listen for QEMU: {e}");
                    return self.no_connection(&ConnectError::Refused(reason)).await;
                }
            }
        }
        let Some(door) = &self.door else { return };
        self.enter(LinkState::Absent, "the gateway listens, and no QEMU is connected".into());
        self.fail_queue();
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            () = self.vm.wake.notified() => return,
        };
        match accepted {
            Ok(connection) => {
                self.tried = Some(Instant::now());
                self.serve(connection, moves).await;
            }
            Err(e) => {
                tracing::warn!(vm.id = %self.vm.id, "{}: {e}", self.vm.id);
                // Whoever it is must not make the gateway busy.
                let pause = self.next_pause();
                self.rest(Some(pause)).await;
            }
        }
    }

    async fn serve(&mut self, Connection { stream, listener }: Connection, moves: u32) {
        self.vm.behind(listener);
        if let Some(monitor) = &self.vm.qmp {
            monitor.nudge();
        }
        if !self.vm.link.state().answers() {
            let reason = "connected; waiting for the agent's first answer";
            self.enter(LinkState::Silent, reason.into());
        }
        // Boxed, so that a VM without a connection does not pay for one.
        let mut session = Box::new(Session::new(self.vm, stream, moves, self.news));
        let end = session.run().await;
        let was_up = session.was_up;
        drop(session);
        self.ended(end, was_up).await;
    }

    async fn ended(&mut self, end: End, was_up: bool) {
        self.news = false;
        match end {
            End::Closed => {}
            End::Idle => self.pause = Duration::ZERO,
            End::Broken(reason) => {
                let lasted = self.tried.map_or(Duration::ZERO, |tried| tried.elapsed());
                if was_up {
                    self.vm.disrupted(reason.clone());
                    tracing::info!(vm.id = %self.vm.id, "{}: {reason}", self.vm.id);
                }
                // What is at the path now decides where the link stands.
                self.news = true;
                self.enter(LinkState::Silent, reason);
                if was_up && lasted >= STEADY {
                    self.pause = Duration::ZERO;
                } else {
                    if !was_up {
                        self.fail_queue();
                    }
                    let pause = self.next_pause();
                    self.rest(Some(pause)).await;
                }
            }
        }
    }

    async fn no_connection(&mut self, error: &ConnectError) {
        let state = match error {
            ConnectError::Absent => LinkState::Absent,
            ConnectError::Refused(_) => LinkState::Refused,
            ConnectError::QueueFull => LinkState::Busy,
        };
        self.enter(state, error.to_string());
        self.fail_queue();
        // On demand, the next call is the next try; and a socket that appears is told of.
        self.news = false;
        let on_demand = self.vm.mode == Mode::OnDemand && !self.vm.is_pinned();
        if on_demand && state != LinkState::Refused {
            return;
        }
        let pause = self.next_pause();
        self.news = state == LinkState::Refused;
        self.rest((state != LinkState::Absent).then_some(pause)).await;
    }

    /// Waits until the pause is over, the socket may have changed, or a call asks for another try.
    async fn rest(&mut self, pause: Option<Duration>) {
        let now = Instant::now();
        let over = pause.map(|pause| now + pause);
        // Calls must not turn a refusing socket into a busy loop.
        let soonest = self.tried.unwrap_or(now) + self.vm.settings.limits().backoff_min;
        let mut timer = Timer::default();
        loop {
            if self.vm.is_closed() {
                return;
            }
            if self.vm.take_kick() {
                self.news = true;
                return;
            }
            let now = Instant::now();
            let called = !self.vm.queue().is_empty();
            if over.is_some_and(|over| over <= now) || called && soonest <= now {
                return;
            }
            timer.arm(over.into_iter().chain(called.then_some(soonest)).min());
            tokio::select! {
                () = self.vm.wake.notified() => {}
                () = timer.fired() => {}
            }
        }
    }

    fn next_pause(&mut self) -> Duration {
        let limits = self.vm.settings.limits();
        self.pause = (self.pause * 2).clamp(limits.backoff_min, limits.backoff_max);
        self.pause
    }

    fn enter(&self, state: LinkState, reason: String) {
        self.vm.enter(state, Some(reason));
    }

    fn fail_queue(&self) {
        let waiting = self.vm.queue().take_if(|_| true);
        for pending in waiting {
            pending.answer(Err(CallError::Unavailable { link: self.vm.link.status() }));
        }
    }
}
