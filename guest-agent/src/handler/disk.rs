//! `guest-get-disks`, `guest-get-diskstats`.

use qga_proto::command::{Command as _, GuestGetDisks, GuestGetDiskstats};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::disk::{Roots, list, statistics};
use crate::errno;
use crate::gauge::Gauge;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestGetDisks::INFO.name, place: Place::Filesystems(disks) },
    Handler { command: GuestGetDiskstats::INFO.name, place: Place::Queries(diskstats) },
];

fn disks(_: &mut Gauge, request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetDisks {} = request.arguments()?;
    let disks = list::disks(&Roots::system()).map_err(|e| {
        QgaError::generic(format!("Can't open directory \"/sys/block\": {}", errno::of(&e)))
    })?;
    Ok(Outcome::value(&disks))
}

fn diskstats(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetDiskstats {} = request.arguments()?;
    let table = std::fs::read("/proc/diskstats")
        .map_err(|e| QgaError::generic(format!("open(\"/proc/diskstats\"): {}", errno::of(&e))))?;
    Ok(Outcome::value(&statistics::parse(&table)))
}
