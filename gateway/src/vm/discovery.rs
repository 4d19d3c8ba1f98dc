//! Finds the sockets that match the configured patterns, and tells actors when theirs may have
//! come or gone.
//!
//! inotify brings changes within milliseconds; looking at everything now and then mends what it
//! misses: a directory that did not exist, a mount, an overflow.

mod expand;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::expand::expand;
use super::VmId;
use super::link::LinkState;
use super::registry::Registry;
use super::watch::{Changes, Watch};
use crate::config::{DiscoverConfig, VmConfig};

/// VMs often start many at a time: their events are taken together.
const GATHER: Duration = Duration::from_millis(50);

/// The search for sockets.
#[derive(Debug)]
pub(super) struct Discovery {
    registry: Registry,
    patterns: Vec<DiscoverConfig>,
    /// What this search has added, by socket.
    found: BTreeMap<PathBuf, VmId>,
    /// Sockets that cannot be had, so that each is told of once.
    complained: BTreeSet<PathBuf>,
    /// Directories that cannot be looked into, so that each is told of once.
    unknown: BTreeSet<PathBuf>,
    /// The sockets of configured VMs.
    fixed: BTreeMap<PathBuf, VmId>,
    watch: Option<Watch>,
}

impl Discovery {
    pub(super) fn new(registry: Registry, patterns: &[DiscoverConfig]) -> Self {
        let fixed = registry.list();
        let fixed = fixed.iter().map(|vm| (vm.socket().to_path_buf(), vm.id().clone())).collect();
        let watch = Watch::new()
            .inspect_err(|e| {
                tracing::error!(
                    "inotify is not to be had ({e}): sockets are looked for every second"
                );
            })
            .ok();
        let mut discovery = Self {
            registry,
            patterns: patterns.to_vec(),
            found: BTreeMap::new(),
            complained: BTreeSet::new(),
            unknown: BTreeSet::new(),
            fixed,
            watch,
        };
        // At once, so that a gateway knows its VMs when it begins to serve.
        discovery.scan();
        discovery
    }

    pub(super) async fn run(mut self) {
        let settings = self.registry.settings().clone();
        loop {
            let pause = if self.watch.is_some() {
                settings.limits.rescan
            } else {
                settings.limits.rescan.min(Duration::from_secs(1))
            };
            let due = Instant::now() + pause;
            let changed = async {
                match &mut self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let changes = tokio::select! {
                changes = changed => changes,
                () = settings.unpinned.notified() => Ok(Changes::default()),
                () = sleep_until(due) => Ok(Changes { everything: true, ..Changes::default() }),
            };
            match changes {
                Ok(changes) => self.react(&changes).await,
                Err(e) => {
                    tracing::error!("inotify failed ({e}): sockets are looked for every second");
                    self.watch = None;
                }
            }
        }
    }

    async fn react(&mut self, changes: &Changes) {
        for path in &changes.paths {
            let id = self.fixed.get(path).or_else(|| self.found.get(path));
            if let Some(vm) = id.and_then(|id| self.registry.get(id)) {
                vm.kick();
            }
        }
        if !changes.paths.is_empty() && !changes.everything {
            tokio::time::sleep(GATHER).await;
        }
        self.scan();
        if changes.everything {
            self.kick_the_unconnected();
        }
    }

    fn kick_the_unconnected(&self) {
        for vm in self.registry.list() {
            if matches!(vm.link().state, LinkState::Absent | LinkState::Refused) {
                vm.kick();
            }
        }
    }

    /// Looks at everything: adds what is new, removes what is gone, renews the watches.
    fn scan(&mut self) {
        let mut directories = BTreeSet::new();
        let mut present = BTreeSet::new();
        let mut unknown = BTreeSet::new();
        for pattern in self.patterns.clone() {
            let expansion = expand(&pattern.glob);
            directories.extend(expansion.directories);
            for (path, error) in expansion.unknown {
                if !self.unknown.contains(&path) {
                    tracing::error!(
                        "{}: {error}: what was found below stays as it is",
                        path.display()
                    );
                }
                unknown.insert(path);
            }
            for socket in expansion.sockets {
                self.add(&pattern, &socket);
                present.insert(socket);
            }
        }
        for socket in self.fixed.keys() {
            directories.extend(socket.parent().and_then(existing).map(Path::to_path_buf));
        }
        let is_unknown = |path: &Path| path.ancestors().any(|above| unknown.contains(above));
        self.complained.retain(|socket| present.contains(socket) || is_unknown(socket));
        let registry = &self.registry;
        self.found.retain(|socket, id| {
            // A lease keeps its VM: its ending has to be recorded somewhere.
            let kept = present.contains(socket)
                || is_unknown(socket)
                || registry.get(id).is_some_and(|vm| vm.is_pinned());
            if !kept {
                tracing::info!(vm.id = %id, "{id}: its socket is gone");
                registry.remove(id);
            }
            kept
        });
        self.renew_watches(&directories, is_unknown);
        self.unknown = unknown;
    }

    fn add(&mut self, pattern: &DiscoverConfig, socket: &Path) {
        if self.found.contains_key(socket) || self.fixed.contains_key(socket) {
            return;
        }
        let problem = match pattern.id.apply(socket) {
            None => "its path makes no VM id".to_owned(),
            Some(id) => {
                let config = VmConfig {
                    id: id.clone(),
                    socket: socket.into(),
                    labels: pattern.labels.clone(),
                    mode: pattern.mode(),
                    owner_uids: pattern.owner_uids.clone(),
                    qmp: pattern.qmp.as_ref().and_then(|qmp| qmp.apply(socket)),
                };
                match self.registry.add(config) {
                    None => {
                        tracing::info!(vm.id = %id, "{id}: found at {}", socket.display());
                        self.complained.remove(socket);
                        self.found.insert(socket.into(), id);
                        return;
                    }
                    Some(holder) => {
                        format!(
                            "its id `{id}` is that of {}, which keeps it",
                            holder.socket().display()
                        )
                    }
                }
            }
        };
        if self.complained.insert(socket.into()) {
            tracing::error!("{} is left out: {problem}", socket.display());
        }
    }

    fn renew_watches(
        &mut self,
        directories: &BTreeSet<PathBuf>,
        is_unknown: impl Fn(&Path) -> bool,
    ) {
        let Some(watch) = &mut self.watch else { return };
        watch.retain(|path| directories.contains(path) || is_unknown(path));
        for directory in directories {
            if let Err(e) = watch.add(directory) {
                tracing::warn!("{} cannot be watched: {e}", directory.display());
            }
        }
    }
}

/// The directory itself, or the nearest one above it that exists.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.is_dir())
}
