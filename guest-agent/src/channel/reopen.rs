//! `-r`: channels that cannot be opened, or were lost, are tried again.
//!
//! ```text
//!          5 s                 a thread of its own
//!   Lost ───────▶ Opening ──────────────────────────▶ open, or Lost again
//! ```
//!
//! Opening has a thread of its own, because making a socket on a filesystem that somebody else
//! froze blocks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Channel, OpenError};
use crate::completions::Completions;
use crate::config::ChannelConfig;
use crate::log;
use crate::worker::Reply;

/// The pause between two attempts; qemu-ga's.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of stack of the thread that opens.
const STACK: usize = 64 << 10;

type Opened = Mutex<Vec<(usize, Result<Channel, OpenError>)>>;

/// The channels' configuration, and which of them are away.
#[derive(Debug)]
pub(crate) struct Reopener {
    completions: Arc<Completions>,
    channels: Vec<Entry>,
    opened: Arc<Opened>,
}

#[derive(Debug)]
struct Entry {
    config: ChannelConfig,
    /// When to try again.
    at: Option<Instant>,
    /// What was logged last: the same failure is not logged every 5 seconds.
    said: Option<String>,
}

impl Reopener {
    /// For these channels. All are open.
    pub(crate) fn new(completions: Arc<Completions>, channels: Vec<ChannelConfig>) -> Self {
        let entry = |config| Entry { config, at: None, said: None };
        let channels = channels.into_iter().map(entry).collect();
        Self { completions, channels, opened: Arc::default() }
    }

    /// Whether a channel that is lost is to be opened again; if so, it will be.
    pub(crate) fn lost(&mut self, index: usize) -> bool {
        let Some(entry) = self.channels.get_mut(index).filter(|entry| entry.config.retry) else {
            return false;
        };
        entry.at = Some(Instant::now() + INTERVAL);
        true
    }

    /// When the next attempt is due.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        self.channels.iter().filter_map(|entry| entry.at).min()
    }

    /// Starts the attempts that are due. While filesystems are frozen no socket is made: the one
    /// that it is to lie on may be among them.
    pub(crate) fn start_due(&mut self, frozen: bool) {
        if self.next_wakeup().is_none() {
            return;
        }
        let now = Instant::now();
        for (index, entry) in self.channels.iter_mut().enumerate() {
            if entry.at.is_none_or(|at| at > now) {
                continue;
            }
            if frozen && entry.config.method == "unix-listen" {
                entry.at = Some(now + INTERVAL);
                continue;
            }
            let (config, opened) = (entry.config.clone(), Arc::clone(&self.opened));
            let done = Reply::to_nobody(&self.completions);
            let open = move || {
                let result = Channel::open(&config.method, config.path);
                opened.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                done.wake();
            };
            let thread = std::thread::Builder::new().name("open".into()).stack_size(STACK);
            entry.at = thread.spawn(open).is_err().then(|| now + INTERVAL);
        }
    }

    /// Takes the channels that were opened.
    pub(crate) fn take(&mut self) -> Vec<(usize, Channel)> {
        let results =
            std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        let mut channels = Vec::new();
        for (index, result) in results {
            let entry = &mut self.channels[index];
            match result {
                Ok(channel) => {
                    entry.said = None;
                    log::info(format_args!("a channel was opened again: {}", entry.config.name()));
                    channels.push((index, channel));
                }
                Err(error) => {
                    let text = error.to_string();
                    if entry.said.as_ref() != Some(&text) {
                        error.log();
                        entry.said = Some(text);
                    }
                    entry.at = Some(Instant::now() + INTERVAL);
                }
            }
        }
        channels
    }
}
