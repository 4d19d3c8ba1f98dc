//! `guest-network-get-interfaces`, `guest-network-get-route`.

use std::path::Path;

use qga_proto::command::{Command as _, GuestNetworkGetInterfaces, GuestNetworkGetRoute};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::network::{self, TABLES};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestNetworkGetInterfaces::INFO.name, place: Place::Queries(interfaces) },
    Handler { command: GuestNetworkGetRoute::INFO.name, place: Place::Queries(routes) },
];

fn interfaces(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestNetworkGetInterfaces {} = request.arguments()?;
    let found = network::interfaces().map_err(QgaError::generic)?;
    Ok(Outcome::value(&found))
}

fn routes(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestNetworkGetRoute {} = request.arguments()?;
    let found = network::routes(Path::new(TABLES)).map_err(QgaError::generic)?;
    Ok(Outcome::value(&found))
}
