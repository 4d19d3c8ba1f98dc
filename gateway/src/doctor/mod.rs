//! `qga-gateway doctor`: what keeps the gateway from its VMs, and what to do about it.
//!
//! A gateway that runs is asked over its API, because it holds the sockets. Where none runs, the
//! doctor looks for itself: at each socket, at who has it, and, only where nobody does, whether an
//! agent answers.

mod account;
mod host;
mod report;
mod running;
mod vms;

use std::path::Path;
use std::time::Duration;

pub use self::report::{Agent, Finding, Level, Report, VmFinding};
use self::running::Gateway;
use crate::config::Config;
use crate::vm::SocketTable;

/// Looks at the host and at every VM of `config`, which is from `file`. Each agent has `patience` to
/// answer. To be called on a runtime with one thread: what finding the VMs would start must not begin
/// before it is stopped again.
pub async fn examine(config: &Config, file: &Path, patience: Duration) -> Report {
    let (mut host, sockets) = match SocketTable::look() {
        Ok(sockets) => (Vec::new(), sockets),
        Err(error) => {
            let what = format!("who holds which socket cannot be told: {error}");
            (vec![Finding::note("sockets", what)], SocketTable::default())
        }
    };
    let gateway = Gateway::find(&config.listen.unix, &sockets).await;
    let account = account::service();
    host.extend(host::examine(config, file, &account));
    host.push(gateway.finding(&config.listen.unix));
    let vms = match &gateway {
        Gateway::Answers(client) => match client.vms().await {
            Ok(vms) => running::judge(vms, config, &sockets),
            Err(error) => {
                let what = format!("the gateway does not tell of its VMs: {error}");
                let todo = "run doctor as root, or as a user with the right `observe`";
                host.push(Finding::problem("gateway", what, todo));
                Vec::new()
            }
        },
        // It holds the sockets, so they are left to it.
        Gateway::Mute(_) => Vec::new(),
        Gateway::None => vms::examine(config, &sockets, &account, patience).await,
    };
    host.extend(host::grants_without_vms(config, &vms));
    Report::new(host, vms)
}
