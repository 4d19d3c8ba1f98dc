//! VMs over real sockets: a fake QEMU that serves one client at a time, agents behind it that
//! answer as told, and the real `qemu-ga`.

mod away;
mod client_mode;
mod defects;
mod discovery;
mod fake;
mod groups;
mod hostile;
mod keepalive;
mod leased;
mod leases;
mod libvirt;
mod links;
mod memory;
mod modes;
mod mute;
mod old_agent;
pub(crate) mod qemu_ga;
mod qmp;
mod reload;
mod renewals;
mod repeats;
mod restarts;
mod seen;
mod thaws;
mod wire;

use std::path::Path;
use std::time::Duration;

use qga_gateway::config::Config;
use qga_gateway::vm::{
    CallError, CallOptions, FreezeRequest, LinkState, LinkStatus, Order, Policy, Registry, VmHandle,
};
use qga_proto::command::GuestPing;
use tokio::time::timeout;

/// How long anything here may take before the test fails.
const BOUND: Duration = Duration::from_secs(10);

/// Limits that let a test see every pause pass.
const QUICK: &str = "
[limits]
sync_seconds = 0.4
connect_wait_seconds = 0.3
backoff_min_seconds = 0.02
backoff_max_seconds = 0.2
idle_disconnect_seconds = 0.1
rescan_seconds = 0.5
[timeouts]
session_seconds = 1
thaw_seconds = 1
";

/// A config of VMs that are called by their socket's file name.
fn config(mode: &str, sockets: &[&Path]) -> Config {
    let mut text = String::from(QUICK);
    for socket in sockets {
        let id = socket.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let socket = socket.display();
        text += &format!("[[vm]]\nid = \"{id}\"\nsocket = \"{socket}\"\nmode = \"{mode}\"\n");
    }
    parse(&text)
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("test.toml")).expect("the config is right")
}

/// The registry of one VM, and the VM.
fn one(socket: &Path) -> (Registry, VmHandle) {
    let registry = Registry::start(&config("persistent", &[socket]));
    let vm = registry.list().remove(0);
    (registry, vm)
}

/// Until the agent answers and what it can do is known.
async fn ready(vm: &VmHandle) {
    until(vm, LinkState::Ready).await;
    eventually("known", || vm.capabilities().is_some()).await;
}

/// A freeze of everything that lasts as long as a test.
fn request() -> FreezeRequest {
    FreezeRequest {
        ttl: Duration::from_secs(60),
        freeze_timeout: Duration::from_secs(1),
        mountpoints: None,
        policy: Policy::Required,
        order: Order::Parallel,
        all_or_nothing: true,
        label: Some("backup".into()),
    }
}

/// Waits until the link is in that state, and gives its reason.
async fn until(vm: &VmHandle, state: LinkState) -> String {
    reaches(vm, |link| link.state == state).await.reason.unwrap_or_default()
}

async fn reaches(vm: &VmHandle, is: impl FnMut(&LinkStatus) -> bool) -> LinkStatus {
    let mut link = vm.link_changes();
    let found = timeout(BOUND, link.wait_for(is)).await;
    match found {
        Ok(found) => found.expect("the VM is there").clone(),
        Err(_) => panic!("the link of {} stays {}", vm.id(), vm.link()),
    }
}

/// Waits until something holds, looking often.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        let mut often = tokio::time::interval(Duration::from_millis(2));
        while !holds() {
            often.tick().await;
        }
    };
    assert!(timeout(BOUND, looking).await.is_ok(), "not within {BOUND:?}: {what}");
}

async fn ping(vm: &VmHandle) -> Result<(), CallError> {
    vm.call(GuestPing {}, quick()).await.map(drop)
}

/// Until a ping is answered; whatever went before it is over then.
async fn recovers(vm: &VmHandle) {
    let recovering = async {
        while ping(vm).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    let recovered = timeout(BOUND, recovering).await.is_ok();
    assert!(recovered, "{} does not recover: {}", vm.id(), vm.link());
}

fn quick() -> CallOptions {
    CallOptions { timeout: Duration::from_millis(300), reply_cap: 64 << 10, unless_disrupted: None }
}
