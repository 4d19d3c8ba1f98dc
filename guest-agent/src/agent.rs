//! The poll thread: waits for channels, signals and completions, and never blocks on anything
//! else.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::channel::Channel;
use crate::channel::reopen::Reopener;
use crate::completions::Completions;
use crate::dispatch::Dispatch;
use crate::freeze::{By, Order, phase::Phase};
use crate::quiet::Quiet;
use crate::session::{self, Session, Wants};
use crate::worker::Reply;
use crate::{errno, log, sys};

/// Tokens of what is no session; sessions have small indices in the upper half.
const SIGNALS: u64 = u64::MAX;
const COMPLETIONS: u64 = u64::MAX - 1;
const DEADLINE: u64 = u64::MAX - 2;
const QUIET: u64 = u64::MAX - 3;

/// How long to linger for a file's chunk.
const MOMENT: Duration = Duration::from_micros(50);
/// The most chunks that are not lingered for after one that took longer.
const MOST_VAIN: u32 = 127;
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
    /// After the start and after large messages, memory is given back.
    quiet: Quiet,
    /// How many handed-over chunks are to pass before another one is lingered for, of those that
    /// the last failure has cost.
    vain_left: u32,
    vain: u32,
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
        let quiet = Quiet::new()?;
        epoll::add(&epoll, &quiet, EventData::new_u64(QUIET), flags)?;
        let sessions = channels
            .into_iter()
            .enumerate()
            .map(|(index, channel)| Session::new(index, channel))
            .collect();
        Ok(Self {
            epoll,
            signals,
            completions,
            dispatch,
            sessions,
            reopener,
            quiet,
            vain_left: 0,
            vain: 0,
        })
    }

    /// Serves until a signal ends the agent or a channel is lost.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(16);
        let mut wants = Wants::AnotherTurn;
        loop {
            let may_sleep =
                wants == Wants::ToWait && !self.linger() && self.completions.may_sleep();
            let timeout = if may_sleep { self.time_to_next_wakeup() } else { Some(Duration::ZERO) };
            events.clear();
            wait(&self.epoll, &mut events, timeout)?;
            for &epoll::Event { flags, data } in &events {
                match data.u64() {
                    SIGNALS => {
                        if self.signal_ends() {
                            return Ok(());
                        }
                    }
                    // It has done its work by ending the wait.
                    COMPLETIONS => {}
                    DEADLINE => self.dispatch.freezer().tick(),
                    QUIET if self.quiet.is_reached() => self.give_back_memory(),
                    QUIET => {}
                    token => {
                        let (index, generation) = session::of_token(token);
                        if let Some(session) = self.sessions.get_mut(index) {
                            session.note(generation, flags);
                        }
                    }
                }
            }
            self.take_completions();
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
            if self.sessions.iter_mut().fold(false, |large, s| s.take_large() | large) {
                self.quiet.disturb();
            }
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
            self.completions.wait(Duration::from_secs(1));
        }
    }

    /// Ends the programs that nobody could reach any more.
    pub(crate) fn end_programs(&self) {
        self.dispatch.end_programs();
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
        let Some(completions) = self.completions.take() else { return };
        for completion in completions {
            if let Some(session) = self.sessions.get_mut(completion.channel) {
                session.complete(completion.ticket, completion.outcome);
            }
        }
        for (index, channel) in self.reopener.take() {
            self.sessions[index].resume(channel);
        }
    }

    /// A file's worker that was given a chunk has mostly moved it before this thread has gone to
    /// sleep and was woken again: so it is given a moment, but not again and again in vain.
    fn linger(&mut self) -> bool {
        if !self.dispatch.take_handed_over() {
            return false;
        }
        if self.vain_left > 0 {
            self.vain_left -= 1;
            return false;
        }
        let came = self.completions.linger(MOMENT);
        self.vain = if came { 0 } else { (2 * self.vain + 1).min(MOST_VAIN) };
        self.vain_left = self.vain;
        came
    }

    fn time_to_next_wakeup(&self) -> Option<Duration> {
        let sessions = self.sessions.iter().filter_map(Session::next_wakeup);
        let next = sessions.chain(self.reopener.next_wakeup()).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn give_back_memory(&mut self) {
        self.sessions.iter_mut().for_each(Session::shrink);
        // What was not locked may be needed from a filesystem that is frozen; the freeze engine
        // does this after the thaw.
        if self.dispatch.phase() == Phase::Thawed {
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
