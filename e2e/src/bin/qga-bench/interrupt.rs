//! An end in the middle that leaves nothing behind.

use std::fs;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// On Ctrl-C or SIGTERM removes `dir` and ends the program; its children end with it.
pub(crate) fn removes(dir: PathBuf) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // There is nobody left to tell if that fails.
        drop(fs::remove_dir_all(&dir));
        #[expect(clippy::exit, reason = "the main thread is in the middle of a measurement")]
        std::process::exit(130);
    };
    thread::Builder::new().name("interrupt".into()).spawn(wait).context("starting a thread")?;
    Ok(())
}
