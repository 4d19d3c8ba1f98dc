//! Threads that may block, and the way back from them to the poll thread.
//!
//! ```text
//!   poll thread ──task──▶ bounded queue ──▶ worker ──completion──▶ poll thread
//! ```

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use qga_proto::{Outcome, QgaError, Request, Ticket};

use crate::completions::{Completion, Completions};
use crate::sys::threads;

/// Tasks that may wait for one worker. A channel runs its commands one by one, so only commands
/// that their clients have given up on can pile up.
const QUEUE: usize = 64;

/// Where the outcome of one order goes.
#[derive(Debug)]
pub(crate) struct Reply {
    completions: Arc<Completions>,
    to: Option<(usize, Ticket)>,
}

impl Reply {
    /// To a command that came through a channel.
    pub(crate) fn new(completions: &Arc<Completions>, channel: usize, ticket: Ticket) -> Self {
        Self { completions: Arc::clone(completions), to: Some((channel, ticket)) }
    }

    /// Only wakes the poll thread: for what the agent wants by itself.
    pub(crate) fn to_nobody(completions: &Arc<Completions>) -> Self {
        Self { completions: Arc::clone(completions), to: None }
    }

    pub(crate) fn send(self, outcome: Outcome) {
        let completion = self.to.map(|(channel, ticket)| Completion { channel, ticket, outcome });
        self.completions.add(completion);
    }

    /// Whether both go to the same channel.
    pub(crate) fn is_for_same(&self, other: &Self) -> bool {
        self.to.map(|(channel, _)| channel) == other.to.map(|(channel, _)| channel)
    }

    /// Only wakes the poll thread.
    pub(crate) fn wake(self) {
        self.completions.add(None);
    }
}

/// What a worker does with its state for one request.
pub(crate) type Run<S> = fn(&mut S, &Request) -> Result<Outcome, QgaError>;

struct Task<S> {
    run: Run<S>,
    request: Request,
    reply: Reply,
}

/// A thread that owns some state and runs one request after the other on it.
pub(crate) struct Worker<S> {
    name: &'static str,
    /// Of boxes, because all places of the queue are in memory from the start.
    queue: SyncSender<Box<Task<S>>>,
}

impl<S: Send + 'static> Worker<S> {
    /// Starts the thread, with this many bytes of stack.
    pub(crate) fn start(name: &'static str, stack: usize, state: S) -> io::Result<Self> {
        Self::spawn(name, stack, state, false)
    }

    /// As [`start`](Self::start), for tasks that can get stuck in the kernel: in a filesystem that
    /// somebody froze, say. The thread has descriptors of its own, so that it does not hold the
    /// channel when the agent is killed; what its tasks open stays with them.
    pub(crate) fn start_apart(name: &'static str, stack: usize, state: S) -> io::Result<Self> {
        Self::spawn(name, stack, state, true)
    }

    fn spawn(name: &'static str, stack: usize, mut state: S, apart: bool) -> io::Result<Self> {
        let (queue, tasks) = sync_channel::<Box<Task<S>>>(QUEUE);
        std::thread::Builder::new().name(name.into()).stack_size(stack).spawn(move || {
            let mut leaves = apart;
            for task in tasks {
                let Task { run, request, reply } = *task;
                // By the first task the agent has everything open that it starts with.
                if std::mem::take(&mut leaves) {
                    // It fails only for lack of memory, and then nothing is worse than without it.
                    let _ = threads::leave_descriptors_but(&*reply.completions);
                }
                let outcome = run(&mut state, &request).unwrap_or_else(Outcome::Error);
                // A written chunk's memory is free before the client can send the next one.
                drop(request);
                reply.send(outcome);
            }
        })?;
        Ok(Self { name, queue })
    }

    /// Hands over a request; never blocks. One that finds the queue full is answered here.
    pub(crate) fn submit(&self, run: Run<S>, request: Request, reply: Reply) {
        match self.queue.try_send(Box::new(Task { run, request, reply })) {
            Ok(()) => {}
            Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) => {
                let text = format!("too many commands wait for the {} worker", self.name);
                task.reply.send(Outcome::Error(QgaError::generic(text)));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use qga_proto::{Job, Server};
    use std::time::Instant;

    /// A job, and where its reply goes.
    pub(crate) fn job(completions: &Arc<Completions>) -> (Job, Reply) {
        let mut server = Server::new();
        server.feed(b"{'execute':'guest-ping'}");
        let job = server.poll(Instant::now(), &mut |_| true).unwrap();
        let reply = Reply::new(completions, 0, job.ticket);
        (job, reply)
    }

    /// Waits for the next completions, at most 10 s.
    pub(crate) fn next(completions: &Completions) -> Vec<Outcome> {
        let all = completions.wait(std::time::Duration::from_secs(10));
        assert!(!all.is_empty(), "no completion in 10 s");
        all.into_iter().map(|completion| completion.outcome).collect()
    }

    #[test]
    fn a_worker_keeps_its_state_and_answers_in_order() {
        let completions = Completions::new().unwrap();
        let worker = Worker::start("test", 64 << 10, 0).unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (job, reply) = job(&completions);
            let run: Run<i32> = |count, _| {
                *count += 1;
                Ok(Outcome::value(count))
            };
            worker.submit(run, job.request, reply);
            seen.extend(next(&completions));
        }
        let texts: Vec<_> = seen
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Return(text) => String::from_utf8(text).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(texts, ["1", "2", "3"]);
    }
}
