//! Freezing and thawing filesystems.
//!
//! The poll thread hands an [`Order`] to the [`Freezer`]; the [`engine`], a thread of its own,
//! carries it out and sends the reply. Each FIFREEZE and FITHAW runs on a thread of *its* own,
//! because any of them can sleep uninterruptibly while the others must go on.

pub(crate) mod choice;
mod engine;
mod kernel;
pub(crate) mod marker;
pub(crate) mod mounts;
pub(crate) mod phase;
mod predecessor;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use qga_proto::{Outcome, QgaError};

use self::engine::{Engine, Message};
use self::kernel::Linux;
use self::marker::Marker;
use self::phase::{Phase, SharedPhase};
use crate::worker::Reply;

/// Orders and results that may wait for the engine.
const INBOX: usize = 64;
/// Bytes of stack of the engine's thread and of those that make one ioctl each.
const STACK: usize = 64 << 10;

/// What a client wants of the filesystems.
#[derive(Debug)]
pub(crate) enum Order {
    /// Freeze these, or all.
    Freeze(Option<Vec<String>>),
    /// Thaw all.
    Thaw,
}

/// What to do once, when a frozen start ends.
pub(crate) type WhenThawed = Box<dyn FnOnce() + Send>;

/// The poll thread's hold on the engine.
#[derive(Debug)]
pub(crate) struct Freezer {
    phase: Arc<SharedPhase>,
    inbox: SyncSender<Message>,
}

impl Freezer {
    /// Starts the engine; frozen, if the marker is there.
    pub(crate) fn start(marker: Marker, when_thawed: Option<WhenThawed>) -> io::Result<Self> {
        let frozen = marker.exists();
        let phase = Arc::new(SharedPhase::new(if frozen { Phase::Frozen } else { Phase::Thawed }));
        let (outbox, inbox) = sync_channel(INBOX);
        let engine = Engine::new(
            Arc::new(Linux),
            Arc::clone(&phase),
            marker,
            when_thawed,
            (outbox.clone(), inbox),
        );
        std::thread::Builder::new()
            .name("freeze".into())
            .stack_size(STACK)
            .spawn(move || engine.run())?;
        Ok(Self { phase, inbox: outbox })
    }

    /// Where the engine stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.now()
    }

    /// Hands over an order; never blocks. An order that is not taken is answered here.
    pub(crate) fn submit(&self, order: Order, reply: Reply) {
        let freezes = matches!(order, Order::Freeze(_));
        if freezes {
            self.phase.set(Phase::Freezing);
        }
        match self.inbox.try_send(Message::Order(order, reply)) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if freezes {
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
