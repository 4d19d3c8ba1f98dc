//! `guest-get-vcpus`, `guest-set-vcpus`, `guest-get-cpustats`, `guest-get-load`.

use std::path::Path;

use qga_proto::command::{
    Command as _, GuestGetCpustats, GuestGetLoad, GuestGetVcpus, GuestSetVcpus,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::processors::{self, PROCESSORS};
use crate::{bounded, errno};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestGetVcpus::INFO.name, place: Place::Queries(vcpus) },
    Handler { command: GuestSetVcpus::INFO.name, place: Place::Helpers(set_vcpus) },
    Handler { command: GuestGetCpustats::INFO.name, place: Place::Queries(cpustats) },
    Handler { command: GuestGetLoad::INFO.name, place: Place::Queries(load) },
];

/// `USER_HZ`, in which the kernel counts for programs on every architecture but Alpha.
const TICKS_PER_SECOND: u64 = 100;

fn vcpus(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetVcpus {} = request.arguments()?;
    let found = processors::list(Path::new(PROCESSORS)).map_err(QgaError::generic)?;
    Ok(Outcome::value(&found))
}

/// Stops at the first failure; it is an error only where nothing was done before.
fn set_vcpus(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestSetVcpus { vcpus } = request.arguments()?;
    let mut done: i64 = 0;
    for wanted in vcpus {
        match processors::set(Path::new(PROCESSORS), wanted.logical_id, wanted.online) {
            Ok(()) => done += 1,
            Err(text) if done == 0 => return Err(QgaError::generic(text)),
            Err(_) => break,
        }
    }
    Ok(Outcome::value(&done))
}

fn cpustats(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetCpustats {} = request.arguments()?;
    let stat = proc_file("stat")?;
    Ok(Outcome::value(&processors::times(&stat, TICKS_PER_SECOND)))
}

fn load(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetLoad {} = request.arguments()?;
    let load = processors::load(&proc_file("loadavg")?);
    Ok(Outcome::value(&load.map_err(|e| {
        QgaError::generic(format!("failed to read /proc/loadavg: {}", errno::text(e)))
    })?))
}

fn proc_file(name: &str) -> Result<Vec<u8>, QgaError> {
    let path = format!("/proc/{name}");
    // `/proc/stat` has a long line for interrupts.
    bounded::read(&path, bounded::LARGE)
        .map_err(|e| QgaError::generic(format!("failed to read {path}: {}", errno::of(&e))))
}
