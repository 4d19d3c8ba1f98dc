//! The operator's hook, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use qga_proto::{Outcome, QgaError};

use super::{Engine, Message};
use crate::freeze::kernel::Kernel;
use crate::freeze::order::{By, Order};
use crate::worker::Reply;
use crate::{errno, log};

/// Bytes of stack of the thread.
const STACK: usize = 128 << 10;

/// What a hook is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Freeze,
    Thaw,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }
}

/// Why a hook did not succeed.
pub(super) enum HookFault {
    Failed(QgaError),
    /// A client wants a thaw while the freeze hook runs.
    Stopped(By, Reply),
}

impl<K: Kernel> Engine<K> {
    /// Runs the hook, if there is one. Only a freeze hook can be stopped.
    pub(super) fn run_hook(&mut self, verb: Verb) -> Result<(), HookFault> {
        let Some(path) = self.settings.hook.clone() else { return Ok(()) };
        self.hooks += 1;
        let number = self.hooks;
        let stop = Arc::new(AtomicBool::new(false));
        let (kernel, outbox, told) =
            (Arc::clone(&self.kernel), self.outbox.clone(), Arc::clone(&stop));
        let patience = self.settings.hook_timeout;
        self.report.publish_hook(Some(verb.as_str()));
        let spawned = {
            let path = path.clone();
            std::thread::Builder::new().name("hook".into()).stack_size(STACK).spawn(move || {
                let end = kernel.hook(&path, verb.as_str(), patience, &told);
                drop(outbox.send(Message::HookEnded(number, end)));
            })
        };
        let result = match spawned {
            Ok(_) => self.wait_for_hook(number, verb, &stop),
            Err(e) => Err(HookFault::Failed(failed(&errno::of(&e)))),
        };
        self.report.publish_hook(None);
        result.map_err(|fault| match fault {
            // qemu-ga's text for a thaw; a freeze says which program it was.
            HookFault::Failed(error) if verb == Verb::Freeze => {
                let desc = error.desc.trim_end();
                let path = path.display();
                HookFault::Failed(QgaError::generic(format!("{desc} ({path} freeze)")))
            }
            other => other,
        })
    }

    fn wait_for_hook(
        &mut self,
        number: u64,
        verb: Verb,
        stop: &AtomicBool,
    ) -> Result<(), HookFault> {
        let mut stopped = None;
        // The thread sees to the timeouts, of this hook and of one that was left behind, unless it
        // hangs in starting the program.
        let mut deadline = Instant::now() + self.settings.hook_timeout * 2 + self.patience.hook;
        let end = loop {
            match self.receive(Some(deadline)) {
                Ok(Message::HookEnded(which, end)) if which == number => break end,
                Ok(Message::Order(Order::Thaw(by), reply))
                    if verb == Verb::Freeze && stopped.is_none() =>
                {
                    match self.may_thaw(&by) {
                        Ok(()) => {
                            stop.store(true, Ordering::Relaxed);
                            deadline = Instant::now() + self.patience.hook;
                            stopped = Some((by, reply));
                        }
                        Err(error) => reply.send(Outcome::Error(error)),
                    }
                }
                Ok(other) => self.put_by(other),
                Err(_) => {
                    stop.store(true, Ordering::Relaxed);
                    let seconds = self.settings.hook_timeout.as_secs();
                    break Err(failed(&format!("no end after {seconds} s")));
                }
            }
        };
        match stopped {
            Some((by, reply)) => Err(HookFault::Stopped(by, reply)),
            None => end.map_err(HookFault::Failed),
        }
    }

    /// Runs the thaw hook, and keeps what went wrong with it.
    pub(super) fn run_thaw_hook(&mut self) {
        if let Err(HookFault::Failed(error)) = self.run_hook(Verb::Thaw) {
            log::warning(format_args!("{error}"));
            self.hook_error = Some(error);
        }
    }
}

fn failed(why: &str) -> QgaError {
    QgaError::generic(format!("child process has failed to execute fsfreeze hook: {why}"))
}
