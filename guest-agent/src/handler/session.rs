//! `guest-sync`, `guest-sync-delimited`, `guest-ping`, `guest-info`.

use qga_proto::command::{
    AgentCommand, AgentInfo, COMMANDS, Command as _, GuestInfo, GuestPing, GuestSync,
    GuestSyncDelimited,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place, View};
use crate::options::QEMU_GA_VERSION;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestSyncDelimited::INFO.name, place: Place::Poll(sync_delimited) },
    Handler { command: GuestSync::INFO.name, place: Place::Poll(sync) },
    Handler { command: GuestPing::INFO.name, place: Place::Poll(ping) },
    Handler { command: GuestInfo::INFO.name, place: Place::Poll(info) },
];

fn sync_delimited(_: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestSyncDelimited { id } = request.arguments()?;
    Ok(Outcome::value(&id))
}

fn sync(_: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestSync { id } = request.arguments()?;
    Ok(Outcome::value(&id))
}

fn ping(_: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestPing {} = request.arguments()?;
    Ok(Outcome::empty())
}

fn info(view: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestInfo {} = request.arguments()?;
    let commands = COMMANDS.iter().rev().map(|info| AgentCommand {
        name: info.name.to_owned(),
        enabled: view.filter.allows_now(info, view.frozen),
        success_response: Some(info.success_response),
    });
    Ok(Outcome::value(&AgentInfo {
        version: QEMU_GA_VERSION.to_owned(),
        supported_commands: commands.collect(),
    }))
}
