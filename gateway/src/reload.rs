//! SIGHUP: the configuration is read again, and what has changed is taken over.
//!
//! A file with an error changes nothing at all. Links, leases and requests in hand go on; only VMs
//! about which something has changed are connected to anew.

use std::path::{Path, PathBuf};

use sd_notify::NotifyState;

use crate::config::{Config, ConfigError};
use crate::rights::{Authority, Rules};
use crate::vm::Registry;

/// Reads the configuration again when told to.
#[derive(Debug)]
pub(crate) struct Reloader {
    file: PathBuf,
    /// As it was when the gateway started: what only a start takes over.
    started: Config,
}

impl Reloader {
    pub(crate) fn new(file: &Path, started: &Config) -> Self {
        Self { file: file.into(), started: started.clone() }
    }

    /// Takes the file over as it is now, and tells systemd when that is done.
    pub(crate) async fn reload(&self, registry: &Registry, authority: &Authority) {
        let mut begun = vec![NotifyState::Reloading];
        // systemd tells by it which of several reloads this is.
        begun.extend(NotifyState::monotonic_usec_now().ok());
        crate::daemon::notify(&begun);
        if let Err(error) = self.take_over(registry, authority).await {
            tracing::error!("the configuration stays as it was: {error}");
        }
        crate::daemon::notify(&[NotifyState::Ready]);
    }

    async fn take_over(
        &self,
        registry: &Registry,
        authority: &Authority,
    ) -> Result<(), ConfigError> {
        let config = Config::load(&self.file)?;
        // First, so that nobody reaches a new VM by the old rules; and until all have their labels,
        // nobody reaches an old one by the new rules alone.
        authority.begin(Rules::new(&config.grants, &config.tokens));
        crate::server::raise_descriptors(config.all_vms().len());
        let done = registry.reload(&config).await;
        authority.settle();
        // The registry is closed only once nobody reloads any more.
        let Some(done) = done else { return Ok(()) };
        tracing::info!(
            "{} is taken over: VMs added {}, removed {}, changed {}",
            self.file.display(),
            done.added,
            done.removed,
            done.changed
        );
        if !done.kept.is_empty() {
            let kept: Vec<&str> = done.kept.iter().map(|id| id.as_str()).collect();
            tracing::warn!(
                "until their leases have ended, these stay as they were but for their labels: {}",
                kept.join(", ")
            );
        }
        let left = config.needs_restart(&self.started);
        if !left.is_empty() {
            tracing::warn!("only a restart takes over: {}", left.join(", "));
        }
        Ok(())
    }
}
