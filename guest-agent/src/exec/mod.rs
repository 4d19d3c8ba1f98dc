//! Programs that clients start: `guest-exec` and `guest-exec-status`.
//!
//! ```text
//!   poll thread ──request──▶ inbox ──▶ exec thread ──reply──▶ poll thread
//!                              ▲            │ one thread per start
//!                              └──started───┘
//! ```
//!
//! The exec thread owns all records ([`table`]) and waits, in one epoll, for requests, for output
//! of programs and for their ends. Looking a program up and executing it can hang, on a network
//! filesystem that does not answer: each start is on a thread of its own that ends with it. One that
//! hangs takes a place among the running programs, but its client is answered.
//!
//! Programs of our own commands, `x-guest-exec-…`, are in [`live`]: on the same thread, in the same
//! epoll and within the same bounds.

mod live;
mod program;
mod record;
mod table;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use qga_proto::base64::Base64Text;
use qga_proto::command::{CaptureOutput, GuestExec};
use qga_proto::{Outcome, QgaError, Request};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use self::live::Lives;
pub(crate) use self::live::Order as LiveOrder;
use self::program::Program;
use self::record::Child;
pub(crate) use self::table::Programs;
use crate::freeze::Identity;
use crate::policy::Policy;
use crate::worker::Reply;
use crate::{errno, sys};

/// Requests and started programs that may wait for the exec thread.
const INBOX: usize = 64;
/// How long programs may take to end with the agent.
const LAST_ENDS: Duration = Duration::from_secs(4);
/// Bytes of stack of the exec thread.
const STACK: usize = 128 << 10;

/// What is held at most. Full means an error, or that results give way that nobody has fetched.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Programs that run, or whose output is open.
    running: usize,
    /// Those, and the ended ones whose results have not been fetched.
    records: usize,
    /// Bytes of output and of input still to be written, of all of them.
    held: usize,
    /// Bytes of one stream of one program.
    stream: usize,
    /// How long a client waits for a start.
    patience: Duration,
}

impl Limits {
    /// A running program takes up to four descriptors; there are 1024, and files have 512.
    const DEFAULT: Self = Self {
        running: 100,
        records: 512,
        held: 64 << 20,
        stream: QEMU_GA_STREAM,
        patience: Duration::from_secs(10),
    };
}

/// qemu-ga keeps this much of a stream, to the byte.
const QEMU_GA_STREAM: usize = 16 << 20;

/// What a command does with the programs. The reply may be sent later.
pub(crate) type Ask = fn(&mut Programs, &Request, Reply);

enum Message {
    Ask(Ask, Request, Reply),
    /// The start with this number has succeeded or failed.
    Started(u64, Result<Fresh, QgaError>),
    /// The agent ends.
    End(SyncSender<()>),
}

/// What a start has made.
enum Fresh {
    Plain(Child),
    Live(Box<live::Fresh>),
}

/// A program to be started.
pub(crate) struct Order {
    program: Program,
    input: Option<Vec<u8>>,
    capture: CaptureOutput,
}

impl Order {
    /// Reads the arguments of a `guest-exec`.
    pub(crate) fn new(arguments: GuestExec) -> Result<Self, QgaError> {
        let GuestExec { path, arg, env, input_data, capture_output } = arguments;
        let input = input_data.map(Base64Text::decode).transpose()?;
        let program = Program::new(path, &arg.unwrap_or_default(), env.as_deref());
        Ok(Self { program, input, capture: capture_output.unwrap_or(CaptureOutput::None) })
    }

    /// On a thread of its own.
    fn carry_out(self) -> Result<Fresh, QgaError> {
        let Self { program, input, capture } = self;
        let child = Child::start(&program, input, capture);
        child.map(Fresh::Plain).map_err(|e| not_executed(program.name(), e))
    }
}

fn not_executed(name: &str, e: Errno) -> QgaError {
    let e = errno::text(e);
    QgaError::generic(format!("Failed to execute child process “{name}” ({e})"))
}

/// The poll thread's hold on the exec thread.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    inbox: SyncSender<Message>,
    wake: Arc<OwnedFd>,
}

impl Executor {
    /// Starts the exec thread.
    pub(crate) fn start(
        policy: Arc<Policy>,
        identity: &Identity,
        state_dir: &Path,
    ) -> io::Result<Self> {
        // Ignored by whoever started the agent, it would leave no status to wait for.
        sys::signals::notice_children();
        let (executor, inbox) = Self::new()?;
        let lives = Lives::new(identity, state_dir);
        let programs = Programs::new(executor.clone(), Limits::DEFAULT, policy, lives)?;
        std::thread::Builder::new()
            .name("exec".into())
            .stack_size(STACK)
            .spawn(move || programs.run(&inbox))?;
        Ok(executor)
    }

    fn new() -> io::Result<(Self, Receiver<Message>)> {
        let (outbox, inbox) = sync_channel(INBOX);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Self { inbox: outbox, wake }, inbox))
    }

    /// Hands over a request; never blocks. One that finds the inbox full is answered here.
    pub(crate) fn submit(&self, ask: Ask, request: Request, reply: Reply) {
        match self.inbox.try_send(Message::Ask(ask, request, reply)) {
            Ok(()) => self.wake(),
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Ask(_, _, reply) = message {
                    let error = QgaError::generic("too many commands wait for the exec worker");
                    reply.send(Outcome::Error(error));
                }
            }
        }
    }

    /// Ends the programs that do not outlive the agent, and waits for that.
    pub(crate) fn end(&self) {
        let (done, ended) = sync_channel(1);
        // A full inbox means that the thread hangs; then the next agent ends them.
        if self.inbox.try_send(Message::End(done)).is_ok() {
            self.wake();
            let _ = ended.recv_timeout(LAST_ENDS);
        }
    }

    /// From a thread that has tried to start a program.
    fn started(&self, number: u64, result: Result<Fresh, QgaError>) {
        drop(self.inbox.send(Message::Started(number, result)));
        self.wake();
    }

    fn wake(&self) {
        // It fails only when 2^64 wake-ups are pending.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}
