//! Being told to end: by Ctrl-C, by SIGTERM, or by a terminal that closes.

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// Notices signals. Those after the first are swallowed, so that nothing cuts the cleaning up
/// short.
#[derive(Debug)]
pub(crate) struct Stop {
    told: Receiver<()>,
    seen: bool,
}

impl Stop {
    /// Listens from now on. A signal interrupts all waits of `qga_e2e`, and [`Stop::pause`].
    pub(crate) fn listen() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let within = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        drop(within);
        let (tell, told) = mpsc::sync_channel(1);
        thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    qga_e2e::interrupt();
                    // Full: it has been told already.
                    let _told = tell.try_send(());
                }
            });
        });
        Ok(Self { told, seen: false })
    }

    /// Waits for `time`, less if told to end; says whether it has been told.
    pub(crate) fn pause(&mut self, time: Duration) -> bool {
        self.seen = self.seen || self.told.recv_timeout(time).is_ok();
        self.seen
    }
}
