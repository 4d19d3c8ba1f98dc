//! Freezing and thawing filesystems.
//!
//! The poll thread hands an [`Order`] to the [`Freezer`]; the [`engine`], a thread of its own,
//! carries it out and sends the reply. Each FIFREEZE and FITHAW runs on a thread of *its* own,
//! because any of them can sleep uninterruptibly while the others must go on; so does the hook.

pub(crate) mod choice;
mod device_writes;
mod engine;
mod hook_process;
mod kernel;
pub(crate) mod marker;
pub(crate) mod mounts;
mod order;
pub(crate) mod phase;
pub(crate) mod predecessor;
mod reach;
mod record;
mod report;
pub(crate) mod settings;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use qga_proto::command::FsfreezeReport;
use qga_proto::{Outcome, QgaError};

use self::engine::{Engine, Message};
use self::kernel::Linux;
use self::marker::Marker;
use self::phase::{Phase, SharedPhase};
use self::report::SharedReport;
use self::settings::FreezeSettings;
use crate::worker::Reply;

pub(crate) use self::order::{By, Lease, Order, Term};
pub(crate) use self::report::Identity;

/// Orders and results that may wait for the engine.
const INBOX: usize = 64;
/// Bytes of stack of the engine's thread.
const ENGINE_STACK: usize = 128 << 10;
/// Bytes of stack of the threads that make one ioctl each.
const STACK: usize = 64 << 10;

/// What to do once, when a frozen start ends.
pub(crate) type WhenThawed = Box<dyn FnOnce() + Send>;

/// The poll thread's hold on the engine.
#[derive(Debug)]
pub(crate) struct Freezer {
    phase: Arc<SharedPhase>,
    report: Arc<SharedReport>,
    timer: Arc<OwnedFd>,
    inbox: SyncSender<Message>,
}

impl Freezer {
    /// Starts the engine; frozen, if the marker is there.
    pub(crate) fn start(
        marker: Marker,
        settings: FreezeSettings,
        when_thawed: Option<WhenThawed>,
    ) -> io::Result<Self> {
        let frozen = marker.exists();
        let phase = Arc::new(SharedPhase::new(if frozen { Phase::Frozen } else { Phase::Thawed }));
        let report = Arc::new(SharedReport::new(Identity::new()));
        let linux = Linux::new(marker.state_dir())?;
        let timer = linux.timer();
        let (outbox, inbox) = sync_channel(INBOX);
        let mut engine = Engine::new(
            Arc::new(linux),
            settings,
            Arc::clone(&phase),
            Arc::clone(&report),
            marker,
            when_thawed,
            (outbox.clone(), inbox),
        );
        engine.load();
        std::thread::Builder::new()
            .name("freeze".into())
            .stack_size(ENGINE_STACK)
            .spawn(move || engine.run())?;
        Ok(Self { phase, report, timer, inbox: outbox })
    }

    /// Where the engine stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.now()
    }

    /// Which agent this is, in which boot.
    pub(crate) fn identity(&self) -> &Identity {
        self.report.identity()
    }

    /// What there is to say about freezes.
    pub(crate) fn report(&self) -> FsfreezeReport {
        self.report.read(self.phase.now(), kernel::now_ms())
    }

    /// What becomes readable when a deadline may have passed; call [`tick`](Self::tick) then.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Tells the engine; never blocks.
    pub(crate) fn tick(&self) {
        // It fails when another thread has read it already.
        let _ = rustix::io::read(&self.timer, &mut [0_u8; 8]);
        // If the inbox is full, the timer ticks again in a second.
        let _ = self.inbox.try_send(Message::Tick);
    }

    /// Hands over an order; never blocks. An order that is not taken is answered here.
    pub(crate) fn submit(&self, order: Order, reply: Reply) {
        let freezes = matches!(order, Order::Freeze { .. });
        let began = freezes && self.phase.begin_freezing();
        match self.inbox.try_send(Message::Order(order, reply)) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if began {
                    self.phase.set(Phase::Thawed);
                }
                if let Message::Order(_, reply) = message {
                    let error = QgaError::generic("too many freezes and thaws are waiting");
                    reply.send(Outcome::Error(error));
                }
            }
        }
    }
}
