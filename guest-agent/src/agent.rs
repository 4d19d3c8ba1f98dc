//! The poll thread: waits for channels, signals and completions, and never blocks on anything
//! else.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::channel::Channel;
use crate::channel::reopen::Reopener;
use crate::dispatch::Dispatch;
use crate::freeze::{By, Order, phase::Phase};
use crate::session::{self, Session, Wants};
use crate::worker::{Completions, Reply};
use crate::{errno, log, sys};

/// Tokens of what is no session; sessions have small indices in the upper half.
const SIGNALS: u64 = u64::MAX;
const COMPLETIONS: u64 = u64::MAX - 1;
const DEADLINE: u64 = u64::MAX - 2;

/// After large messages, memory is given back once they have stopped for this long.
const QUIET: Duration = Duration::from_secs(1);
/// How long the thaw of an agent that ends may take.
const LAST_THAW: Duration = Duration::from_secs(10);

/// All that the poll thread owns.
pub(crate) struct Agent {
    epoll: OwnedFd,
    signals: OwnedFd,
    completions: Arc<Completions>,
    dispatch: Dispatch,
    sessions: Vec<Session>,
    reopener: Reopener,
    give_back_at: Option<Instant>,
}

impl Agent {
    pub(crate) fn new(
        channels: Vec<Channel>,
        signals: OwnedFd,
        completions: Arc<Completions>,
        dispatch: Dispatch,
        mut reopener: Reopener,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), flags)?;
        epoll::add(&epoll, &*completions, EventData::new_u64(COMPLETIONS), flags)?;
        let timer = dispatch.freezer().timer();
        epoll::add(&epoll, timer, EventData::new_u64(DEADLINE), flags)?;
        for (index, channel) in channels.iter().enumerate() {
            if matches!(channel, Channel::Closed) {
                reopener.lost(index);
            }
        }
        let sessions = channels
            .into_iter()
            .enumerate()
            .map(|(index, channel)| Session::new(index, channel))
            .collect();
        Ok(Self { epoll, signals, completions, dispatch, sessions, reopener, give_back_at: None })
    }

    /// Serves until a signal ends the agent or a channel is lost.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(16);
        let mut wants = Wants::AnotherTurn;
        loop {
            let timeout = match wants {
                Wants::AnotherTurn => Some(Duration::ZERO),
                Wants::ToWait => self.time_to_next_wakeup(),
            };
            events.clear();
            wait(&self.epoll, &mut events, timeout)?;
            for &epoll::Event { flags, data } in &events {
                match data.u64() {
                    SIGNALS => {
                        if self.signal_ends() {
                            return Ok(());
                        }
                    }
                    COMPLETIONS => self.take_completions(),
                    DEADLINE => self.dispatch.freezer().tick(),
                    token => {
                        let (index, generation) = session::of_token(token);
                        if let Some(session) = self.sessions.get_mut(index) {
                            session.note(generation, flags);
                        }
                    }
                }
            }
            wants = Wants::ToWait;
            self.reopener.start_due(self.dispatch.phase() != Phase::Thawed);
            for (index, session) in self.sessions.iter_mut().enumerate() {
                match session.serve(self.epoll.as_fd(), &self.dispatch) {
                    Ok(Wants::ToWait) => {}
                    Ok(Wants::AnotherTurn) => wants = Wants::AnotherTurn,
                    Err(error) => {
                        let error = errno::text(error);
                        log::critical(format_args!("error reading channel: {error}"));
                        if !self.reopener.lost(index) {
                            return Ok(());
                        }
                        session.lose();
                    }
                }
            }
            self.give_back_memory();
        }
    }

    /// Thaws what is frozen before the agent ends: nobody would be left to do it.
    pub(crate) fn thaw_at_last(&mut self) {
        if self.dispatch.phase() == Phase::Thawed {
            return;
        }
        let deadline = Instant::now() + LAST_THAW;
        self.dispatch
            .freezer()
            .submit(Order::Thaw(By::Ending), Reply::to_nobody(&self.completions));
        while self.dispatch.phase() != Phase::Thawed && Instant::now() < deadline {
            let mut done = [PollFd::new(&*self.completions, PollFlags::IN)];
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut done, Some(&second));
            self.completions.take();
        }
    }

    /// While filesystems are frozen the agent does not end: whoever froze them must be able to
    /// thaw them.
    fn signal_ends(&self) -> bool {
        let mut ends = false;
        while sys::signals::take(&self.signals) {
            ends |= self.dispatch.phase() == Phase::Thawed;
        }
        ends
    }

    fn take_completions(&mut self) {
        for completion in self.completions.take() {
            if let Some(session) = self.sessions.get_mut(completion.channel) {
                session.complete(completion.ticket, completion.outcome);
            }
        }
        for (index, channel) in self.reopener.take() {
            self.sessions[index].resume(channel);
        }
    }

    fn time_to_next_wakeup(&self) -> Option<Duration> {
        let sessions = self.sessions.iter().filter_map(Session::next_wakeup);
        let next = sessions.chain(self.reopener.next_wakeup()).chain(self.give_back_at).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn give_back_memory(&mut self) {
        let mut large = false;
        for session in &mut self.sessions {
            large |= session.take_large();
        }
        if large {
            self.give_back_at = Some(Instant::now() + QUIET);
        } else if self.give_back_at.is_some_and(|at| Instant::now() >= at) {
            self.give_back_at = None;
            self.sessions.iter_mut().for_each(Session::shrink);
            sys::memory::give_back();
        }
    }
}

/// `None` waits without end.
fn wait(
    epoll: &OwnedFd,
    events: &mut Vec<epoll::Event>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    // Only far-off times do not convert.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match epoll::wait(epoll, spare_capacity(events), timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
