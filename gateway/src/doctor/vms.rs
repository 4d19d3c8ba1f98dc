//! VMs as they are found without a gateway.
//!
//! Nothing is written to a socket that serves somebody: what a second client writes reaches the guest
//! when the first one leaves.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;

use super::account::{Account, permissions};
use super::report::{Agent, Level, VmFinding};
use crate::config::{Config, ExternalFreeze, Mode, VmConfig};
use crate::printable::printable;
use crate::vm::{LinkState, Registry, SocketTable, VmHandle};

/// Looks at all VMs of the configuration, at once.
pub(super) async fn examine(
    config: &Config,
    sockets: &SocketTable,
    account: &Account,
    patience: Duration,
) -> Vec<VmFinding> {
    crate::server::raise_descriptors(config.all_vms().len());
    let mut found = Vec::new();
    let mut free = Vec::new();
    for vm in listed(config) {
        match stopped(&vm, sockets, account) {
            Some(finding) => found.push(finding),
            None => free.push(vm),
        }
    }
    let mut only = Config { limits: config.limits.clone(), ..Config::default() };
    only.limits.sync = patience;
    only.vms = free;
    let registry = Registry::start(&only);
    let mut asked = JoinSet::new();
    for vm in registry.list() {
        asked.spawn(ask(vm, patience));
    }
    while let Some(answer) = asked.join_next().await {
        found.extend(answer);
    }
    registry.close();
    for finding in &mut found {
        if let Some(socket) = &finding.socket {
            finding.listener = sockets.listeners(Path::new(socket)).into_iter().next();
        }
    }
    found
}

/// Which VMs there are. The registry's tasks are closed before they run for the first time, because
/// nothing here waits: no socket is connected to but to learn a domain's name.
fn listed(config: &Config) -> Vec<VmConfig> {
    let registry = Registry::start(config);
    registry.close();
    registry.list().iter().map(plain).collect()
}

/// The same VM, without its monitor, and connected to only when it is asked something.
fn plain(vm: &VmHandle) -> VmConfig {
    let shared = vm.shared();
    VmConfig {
        id: vm.id().clone(),
        socket: vm.socket().to_path_buf(),
        labels: Default::default(),
        mode: Mode::OnDemand,
        owner_uids: shared.owners.to_vec(),
        qmp: None,
        libvirt_channel: !shared.left_alone,
        external_freeze: ExternalFreeze::Report,
        listens: shared.listens,
    }
}

/// What can be told of a VM without touching its socket, if that is enough.
fn stopped(vm: &VmConfig, sockets: &SocketTable, account: &Account) -> Option<VmFinding> {
    let path = vm.socket.as_path();
    if vm.listens {
        let directory = path.parent().is_some_and(Path::is_dir);
        let reason = "QEMU connects to the gateway, and none runs";
        let todo = (!directory).then(|| "make the socket's directory".to_owned());
        let level = if directory { Level::Note } else { Level::Problem };
        return Some(VmFinding { level, todo, ..finding(vm, LinkState::Absent, reason) });
    }
    if vm.is_left_alone() {
        return Some(judged(finding(vm, LinkState::Busy, "libvirt holds this channel for itself")));
    }
    if let Some(held_by) = sockets.client(path) {
        let reason = "another client holds the socket";
        return Some(judged(VmFinding { held_by, ..finding(vm, LinkState::Busy, reason) }));
    }
    let why = account.stopped_at(path).filter(|_| path.exists())?;
    Some(judged(finding(vm, LinkState::Refused, &why)))
}

fn finding(vm: &VmConfig, state: LinkState, reason: &str) -> VmFinding {
    VmFinding {
        level: Level::Ok,
        id: vm.id.to_string(),
        socket: Some(vm.socket.display().to_string()),
        permissions: permissions(&vm.socket),
        state: state.to_string(),
        reason: Some(printable(reason)),
        listener: None,
        held_by: None,
        agent: None,
        todo: None,
    }
}

/// A sync, and if that is answered, what the agent is.
async fn ask(vm: VmHandle, patience: Duration) -> VmFinding {
    let said = vm.resync(patience).await;
    if said.is_ok() {
        // The agent's list comes behind the sync.
        let mut link = vm.link_changes();
        let known = async { while vm.capabilities().is_none() && link.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(patience, known).await;
    }
    let link = vm.link();
    let config = plain(&vm);
    let agent = vm.capabilities().map(|known| Agent {
        version: printable(&known.version),
        extensions: known.extensions().count(),
    });
    let reason = link.reason.unwrap_or_default();
    let mut found = VmFinding { agent, ..finding(&config, link.state, &reason) };
    found.reason = found.reason.filter(|reason| !reason.is_empty());
    judged(found)
}

/// With how bad it is and what to do: one line per state.
pub(super) fn judged(mut vm: VmFinding) -> VmFinding {
    let reason = vm.reason.as_deref().unwrap_or_default();
    let (level, todo) = match vm.state.as_str() {
        "ready" => (Level::Ok, ""),
        "absent" => (
            Level::Note,
            "nothing if the VM is off; else compare the path with QEMU's -chardev (server=on)",
        ),
        "refused" if reason.contains("nobody listens") => (
            Level::Problem,
            "start the VM; or remove the socket, which a QEMU that was killed left",
        ),
        "refused" if reason.contains("may not") || reason.contains("ermission") => (
            Level::Problem,
            "add the socket's group to the unit (SupplementaryGroups= in a drop-in); for a socket \
             that is root's alone, CAP_DAC_OVERRIDE (see drop-ins/proxmox.conf)",
        ),
        "refused" if reason.contains("expected owner") => {
            (Level::Problem, "if that user's QEMU is the VM, name its number in owner_uids")
        }
        "refused" => (Level::Problem, "name the socket itself: a path without links, of a socket"),
        "busy" if reason.contains("libvirt") => (
            Level::Problem,
            "give the VM a second channel for the gateway (examples/gateway-channel.xml)",
        ),
        "busy" => (
            Level::Problem,
            "stop what holds it, or give the gateway a port of its own (examples/two-ports.conf)",
        ),
        "silent" => (
            Level::Problem,
            "in the guest: is an agent installed and running, on this port? or is the guest booting, \
             paused or stuck?",
        ),
        "frozen" => (Level::Note, "expected while a backup runs; else DELETE /vms/ID/fsfreeze"),
        _ => (Level::Note, "resume the VM"),
    };
    vm.level = level;
    vm.todo = (!todo.is_empty()).then(|| todo.to_owned());
    vm
}
