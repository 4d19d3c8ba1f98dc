//! The chardev: one client at a time, the others in the listener's queue; and the port's way to
//! the agent.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use qga_proto::{Job, Outcome};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::sim::script::{Act, Met, Moment};

thread_local! {
    /// Ten thousand idle connections hold no buffer.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

/// How long to wait after an accept that failed for want of descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Serves one client after the other.
pub(super) async fn serve(shared: Arc<Shared>, listener: UnixListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        shared.state().connect();
        shared.notify();
        // However it ended, the next one may come.
        drop(serve_client(&shared, &stream).await);
        drop(stream);
        shared.state().disconnect();
        shared.notify();
    }
}

async fn serve_client(shared: &Arc<Shared>, stream: &UnixStream) -> io::Result<()> {
    loop {
        let (reads, writes, wakeup) = {
            let mut state = shared.state();
            while let Some(job) = state.next_slow() {
                tokio::spawn(take_time(shared.clone(), state.epoch, job));
            }
            if !state.out.is_empty() {
                match stream.try_write(&state.out) {
                    Ok(count) => state.out.advance(count),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
                if state.out.is_empty() {
                    state.out = BytesMut::new();
                }
            }
            if std::mem::take(&mut state.hang_up) {
                return Ok(());
            }
            (state.wants_input(), !state.out.is_empty(), state.next_wakeup())
        };
        let interest = match (reads, writes) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        let readable = tokio::select! {
            ready = ready(stream, interest) => ready? && reads,
            () = shared.wake.notified() => false,
            () = until(wakeup) => false,
        };
        if readable && !receive(shared, stream)? {
            return Ok(());
        }
    }
}

/// Without interest it waits for what the caller else waits for.
async fn ready(stream: &UnixStream, interest: Option<Interest>) -> io::Result<bool> {
    match interest {
        Some(interest) => Ok(stream.ready(interest).await?.is_readable()),
        None => std::future::pending().await,
    }
}

async fn until(wakeup: Option<std::time::Instant>) {
    match wakeup {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// False at the end of the stream.
fn receive(shared: &Shared, stream: &UnixStream) -> io::Result<bool> {
    let open = BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            shared.state().feed(&buffer[..count]);
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    });
    shared.changed.notify_all();
    open
}

/// Sees a command through that is slow, or that the script has something to say about.
async fn take_time(shared: Arc<Shared>, epoch: u64, job: Job) {
    let act = meet(&shared, epoch, &job, Moment::Received).await;
    let latency = shared.state().script.draw(job.info);
    if !latency.is_zero() {
        wait(&shared, epoch, &job, latency).await;
    }
    let late = if let Act::Late(late) = act { late } else { Duration::ZERO };
    let (skipped, hang_up) = (matches!(act, Act::Swallow | Act::Answer(_)), act == Act::HangUp);
    let outcome = {
        let mut state = shared.state();
        if state.epoch != epoch {
            return;
        }
        state.hang_up |= hang_up;
        if skipped { Outcome::Silent } else { state.run(&job) }
    };
    shared.notify();
    let act = match act {
        Act::Pass | Act::HangUp => meet(&shared, epoch, &job, Moment::Executed).await,
        act => act,
    };
    let late = if let Act::Late(late) = act { late } else { late };
    if !late.is_zero() {
        tokio::time::sleep(late).await;
    }
    {
        let mut state = shared.state();
        if state.epoch != epoch {
            return;
        }
        state.done();
        state.complete(job.ticket, outcome, &act);
    }
    shared.notify();
}

/// What the command meets here, after the test has let it go.
async fn meet(shared: &Shared, epoch: u64, job: &Job, moment: Moment) -> Act {
    let met = shared.state().script.meet(job.info, moment);
    let id = match met {
        Met::Act(act) => return act,
        Met::Stop(id) => id,
    };
    shared.notify();
    loop {
        let mut moved = std::pin::pin!(shared.moved.notified());
        moved.as_mut().enable();
        {
            let mut state = shared.state();
            if let Some(act) = state.script.released(id) {
                return act;
            }
            let stopped = moment == Moment::Received && state.is_stopped(job.ticket);
            if stopped || state.epoch != epoch {
                return Act::Pass;
            }
        }
        moved.await;
    }
}

/// Takes time, unless a thaw ends the freeze that takes it.
async fn wait(shared: &Shared, epoch: u64, job: &Job, latency: Duration) {
    let end = Instant::now() + latency;
    loop {
        let mut moved = std::pin::pin!(shared.moved.notified());
        moved.as_mut().enable();
        {
            let state = shared.state();
            if state.is_stopped(job.ticket) || state.epoch != epoch {
                return;
            }
        }
        tokio::select! {
            () = sleep_until(end) => return,
            () = moved => {}
        }
    }
}
