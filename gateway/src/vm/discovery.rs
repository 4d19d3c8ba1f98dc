//! Keeps the registry as the configuration and the sockets want it: finds those that match the
//! patterns, forgets those that are gone, and tells actors when theirs may have come or gone.
//!
//! inotify brings changes within milliseconds; looking at everything now and then mends what it
//! misses: a directory that did not exist, a mount, an overflow.

mod domain;
mod expand;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use self::domain::Domains;
use self::expand::expand;
use super::VmId;
use super::handle::VmHandle;
use super::link::LinkState;
use super::registry::Registry;
use super::watch::{Changes, Watch};
use crate::config::{Config, DiscoverConfig, VmConfig, is_libvirts};
use crate::printable::printable;

/// VMs often start many at a time: their events are taken together.
const GATHER: Duration = Duration::from_millis(50);

/// Which VMs there are to be.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    vms: Vec<VmConfig>,
    patterns: Vec<DiscoverConfig>,
}

impl Plan {
    pub(super) fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self { vms: config.all_vms(), patterns: config.discover.clone() })
    }
}

/// What a reload of the configuration did to the VMs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// VMs that are new.
    pub added: usize,
    /// VMs that are not known any more.
    pub removed: usize,
    /// VMs whose links were made anew, because something about them changed, or which have other
    /// labels.
    pub changed: usize,
    /// VMs with a lease, which change or go when it has ended.
    pub kept: Vec<VmId>,
}

/// A new plan, and who waits for its being carried out.
pub(super) type Order = (Arc<Plan>, oneshot::Sender<Reloaded>);

/// The search for sockets; the only one that adds and removes VMs.
#[derive(Debug)]
pub(super) struct Discovery {
    registry: Registry,
    plan: Arc<Plan>,
    orders: mpsc::Receiver<Order>,
    /// Something of the plan has not been compared yet with what is there.
    fresh: bool,
    /// Whose each socket is.
    sockets: HashMap<Arc<Path>, VmId>,
    /// Sockets that cannot be had, so that each is told of once.
    complained: BTreeSet<PathBuf>,
    /// Directories that cannot be looked into, so that each is told of once.
    unknown: BTreeSet<PathBuf>,
    domains: Domains,
    watch: Option<Watch>,
}

/// What makes a VM to be there.
#[derive(Debug)]
enum Source<'p> {
    Listed(&'p VmConfig),
    Found(&'p DiscoverConfig, PathBuf, Option<String>),
}

impl Source<'_> {
    fn socket(&self) -> &Path {
        match self {
            Self::Listed(vm) => &vm.socket,
            Self::Found(_, socket, _) => socket,
        }
    }

    fn config(&self, id: &VmId) -> VmConfig {
        match self {
            Self::Listed(vm) => (*vm).clone(),
            Self::Found(pattern, socket, domain) => {
                pattern.vm(id.clone(), socket, domain.as_deref())
            }
        }
    }
}

/// The sockets that are there.
#[derive(Debug, Default)]
struct Sight<'p> {
    vms: BTreeMap<VmId, Source<'p>>,
    /// Sockets that are nobody's, and why.
    left_out: BTreeMap<PathBuf, String>,
    directories: BTreeSet<PathBuf>,
    unknown: BTreeMap<PathBuf, std::io::Error>,
}

impl Sight<'_> {
    /// Whether nothing can be said of what is at `path`.
    fn hides(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.unknown.contains_key(above))
    }
}

impl Discovery {
    pub(super) fn new(registry: Registry, plan: Arc<Plan>, orders: mpsc::Receiver<Order>) -> Self {
        let watch = Watch::new()
            .inspect_err(|e| {
                tracing::error!(
                    "inotify is not to be had ({e}): sockets are looked for every second"
                );
            })
            .ok();
        let mut discovery = Self {
            registry,
            plan,
            orders,
            fresh: true,
            sockets: HashMap::new(),
            complained: BTreeSet::new(),
            unknown: BTreeSet::new(),
            domains: Domains::default(),
            watch,
        };
        // At once, so that a gateway knows its VMs when it begins to serve.
        discovery.scan();
        discovery
    }

    pub(super) async fn run(mut self) {
        let settings = self.registry.settings().clone();
        loop {
            let mut pause = settings.limits().rescan;
            if self.watch.is_none() {
                pause = pause.min(Duration::from_secs(1));
            }
            // Only the sockets without a domain are of interest then.
            let everything = !self.domains.pending();
            if !everything {
                pause = pause.min(domain::ASK_AGAIN);
            }
            let due = Instant::now() + pause;
            let changed = async {
                match &mut self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let changes = tokio::select! {
                changes = changed => changes,
                Some((plan, done)) = self.orders.recv() => {
                    (self.plan, self.fresh) = (plan, true);
                    // Who asked may have gone; it is done all the same.
                    let _ = done.send(self.scan());
                    continue;
                }
                () = settings.unpinned.notified() => Ok(Changes::default()),
                () = sleep_until(due) => Ok(Changes { everything, ..Changes::default() }),
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
            let id = self.sockets.get(path.as_path());
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

    /// Looks at everything: adds what is new, changes what has changed, removes what is gone,
    /// renews the watches.
    fn scan(&mut self) -> Reloaded {
        let plan = self.plan.clone();
        let sight = self.look(&plan);
        self.complain(&sight);
        let report = self.reconcile(&sight);
        if let Some(watch) = &mut self.watch {
            watch.retain(|path| sight.directories.contains(path) || sight.hides(path));
            for directory in &sight.directories {
                if let Err(e) = watch.add(directory) {
                    tracing::warn!("{} cannot be watched: {e}", directory.display());
                }
            }
        }
        report
    }

    fn look<'p>(&mut self, plan: &'p Plan) -> Sight<'p> {
        let mut sight = Sight::default();
        for vm in &plan.vms {
            sight.directories.extend(vm.socket.parent().and_then(existing).map(Path::to_path_buf));
            sight.vms.insert(vm.id.clone(), Source::Listed(vm));
        }
        let listed: BTreeSet<&Path> = plan.vms.iter().map(|vm| vm.socket.as_path()).collect();
        let mut seen = BTreeSet::new();
        self.domains.begin();
        for pattern in &plan.patterns {
            let expansion = expand(&pattern.glob);
            sight.directories.extend(expansion.directories);
            sight.unknown.extend(expansion.unknown);
            for socket in expansion.sockets {
                if !listed.contains(socket.as_path()) && seen.insert(socket.clone()) {
                    self.place(&mut sight, pattern, socket);
                }
            }
        }
        self.domains.end(|socket| seen.contains(socket));
        sight
    }

    /// Finds out whose a socket is. Of several with one id, a VM that is there keeps it, else the
    /// first has it; but what libvirt keeps for itself makes room for any other.
    fn place<'p>(&mut self, sight: &mut Sight<'p>, pattern: &'p DiscoverConfig, socket: PathBuf) {
        let alone = !pattern.libvirt_channel && is_libvirts(&socket);
        let mut domain = None;
        if pattern.needs_domain() {
            let state = pattern.libvirt_state();
            match self.domains.of(&socket, state, pattern.owners(), !alone) {
                Ok(name) => domain = Some(name),
                // It would only be shown as left alone.
                Err(_) if alone => return,
                Err(why) => {
                    sight.left_out.insert(socket, why.into());
                    return;
                }
            }
        }
        let Some(id) = pattern.id.apply(&socket, domain.as_deref()) else {
            let name = domain.as_deref().map(printable).unwrap_or_default();
            let named =
                if name.is_empty() { String::new() } else { format!(" (domain \"{name}\")") };
            sight.left_out.insert(socket, format!("it makes no VM id{named}"));
            return;
        };
        let source = Source::Found(pattern, socket.clone(), domain);
        let Some(holder) = sight.vms.get(&id) else {
            sight.vms.insert(id, source);
            return;
        };
        let found = matches!(holder, Source::Found(..));
        let holder_alone = found && holder.config(&id).is_left_alone();
        if alone || holder_alone {
            if holder_alone && !alone {
                sight.vms.insert(id, source);
            }
            return;
        }
        let is_there =
            |socket: &Path| self.registry.get(&id).is_some_and(|vm| *vm.socket() == *socket);
        let taken =
            |by: &Path| format!("its id `{id}` is that of {}, which keeps it", by.display());
        if found && is_there(&socket) {
            let (loser, why) = (holder.socket().to_path_buf(), taken(&socket));
            sight.left_out.insert(loser, why);
            sight.vms.insert(id, source);
        } else {
            let why = taken(holder.socket());
            sight.left_out.insert(socket, why);
        }
    }

    /// Tells of what cannot be had, once each.
    fn complain(&mut self, sight: &Sight<'_>) {
        for (path, error) in &sight.unknown {
            if !self.unknown.contains(path) {
                let path = path.display();
                tracing::error!("{path}: {error}: what was found below stays as it is");
            }
        }
        self.unknown = sight.unknown.keys().cloned().collect();
        self.complained.retain(|socket| sight.left_out.contains_key(socket) || sight.hides(socket));
        for (socket, why) in &sight.left_out {
            if self.complained.insert(socket.clone()) {
                tracing::error!("{} is left out: {why}", socket.display());
            }
        }
    }

    /// Makes the registry what the sight wants it to be.
    fn reconcile(&mut self, sight: &Sight<'_>) -> Reloaded {
        let mut report = Reloaded::default();
        let fresh = std::mem::take(&mut self.fresh);
        self.sockets.clear();
        for vm in self.registry.list() {
            match sight.vms.get(vm.id()) {
                Some(source) if !fresh && *vm.socket() == *source.socket() => {}
                Some(source) => self.change(&vm, source, &mut report),
                // A lease keeps its VM: its ending has to be recorded somewhere.
                None if vm.is_pinned() => report.kept.push(vm.id().clone()),
                None if sight.hides(&vm.socket()) => {}
                None => {
                    tracing::info!(vm.id = %vm.id(), "{}: its socket is gone, or it is not configured any more", vm.id());
                    self.registry.remove(vm.id());
                    report.removed += 1;
                    continue;
                }
            }
            self.sockets.insert(vm.socket(), vm.id().clone());
        }
        for (id, source) in &sight.vms {
            if self.registry.get(id).is_none() {
                if let Source::Found(_, socket, _) = source {
                    tracing::info!(vm.id = %id, "{id}: found at {}", socket.display());
                }
                self.registry.add(source.config(id));
                self.sockets.insert(source.socket().into(), id.clone());
                report.added += 1;
            }
        }
        report
    }

    /// A VM that is there, and is to be another way.
    fn change(&mut self, vm: &VmHandle, source: &Source<'_>, report: &mut Reloaded) {
        let config = source.config(vm.id());
        // A lease keeps the link as it is. Rights hang on the labels, and wait for no lease.
        let relabelled = vm.is_pinned() && vm.relabel(&config);
        if relabelled {
            tracing::info!(vm.id = %vm.id(), "{}: it has other labels from now on", vm.id());
        }
        let alike = vm.is_as(&config);
        if !alike && !vm.is_pinned() {
            tracing::info!(vm.id = %vm.id(), "{}: its configuration has changed", vm.id());
            self.registry.remove(vm.id());
            self.registry.add(config);
            report.changed += 1;
            return;
        }
        // A lease follows its VM to where its sockets are.
        let moved = vm.move_to(&config);
        if moved {
            tracing::info!(
                vm.id = %vm.id(),
                "{}: its socket is {} from now on", vm.id(), config.socket.display()
            );
        }
        report.changed += usize::from(moved || relabelled);
        if !alike {
            report.kept.push(vm.id().clone());
            self.fresh = true;
        }
    }
}

/// The directory itself, or the nearest one above it that exists.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.is_dir())
}
