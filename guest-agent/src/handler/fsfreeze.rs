//! `guest-fsfreeze-status`, `-freeze`, `-freeze-list`, `-thaw`.

use qga_proto::command::{
    Command as _, FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeFreezeList,
    GuestFsfreezeStatus, GuestFsfreezeThaw,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place, View};
use crate::freeze::Order;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestFsfreezeStatus::INFO.name, place: Place::Poll(status) },
    Handler { command: GuestFsfreezeFreeze::INFO.name, place: Place::Freezer(freeze) },
    Handler { command: GuestFsfreezeFreezeList::INFO.name, place: Place::Freezer(freeze_list) },
    Handler { command: GuestFsfreezeThaw::INFO.name, place: Place::Freezer(thaw) },
];

fn status(view: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFsfreezeStatus {} = request.arguments()?;
    let status = if view.frozen { FsfreezeStatus::Frozen } else { FsfreezeStatus::Thawed };
    Ok(Outcome::value(&status))
}

fn freeze(request: &Request) -> Result<Order, QgaError> {
    let GuestFsfreezeFreeze {} = request.arguments()?;
    Ok(Order::Freeze(None))
}

fn freeze_list(request: &Request) -> Result<Order, QgaError> {
    let GuestFsfreezeFreezeList { mountpoints } = request.arguments()?;
    Ok(Order::Freeze(mountpoints))
}

fn thaw(request: &Request) -> Result<Order, QgaError> {
    let GuestFsfreezeThaw {} = request.arguments()?;
    Ok(Order::Thaw)
}
