//! `guest-get-host-name`, `guest-get-users`, `guest-get-timezone`, `guest-get-osinfo`.

use std::path::{Path, PathBuf};

use qga_proto::command::{
    Command as _, GuestGetHostName, GuestGetOsinfo, GuestGetTimezone, GuestGetUsers, HostName,
    OsInfo, Timezone,
};
use qga_proto::{Outcome, QgaError, Request};
use rustix::system::uname;
use rustix::time::{ClockId, clock_gettime};

use super::{Handler, Place, View};
use crate::{os_release, timezone, users};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestGetHostName::INFO.name, place: Place::Poll(host_name) },
    Handler { command: GuestGetUsers::INFO.name, place: Place::Queries(users) },
    Handler { command: GuestGetTimezone::INFO.name, place: Place::Queries(timezone) },
    Handler { command: GuestGetOsinfo::INFO.name, place: Place::Queries(osinfo) },
];

const ROOT: &str = "/";
const RUN: &str = "/run";

fn host_name(_: &View, request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetHostName {} = request.arguments()?;
    let system = uname();
    let name = system.nodename().to_string_lossy();
    let name = if name.is_empty() { "localhost" } else { &*name };
    Ok(Outcome::value(&HostName { host_name: name.to_owned() }))
}

fn users(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetUsers {} = request.arguments()?;
    Ok(Outcome::value(&users::logged_in(Path::new(RUN))))
}

fn timezone(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetTimezone {} = request.arguments()?;
    let zone = std::env::var("TZ").ok();
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    let timezone::Offset { seconds, abbreviation } =
        timezone::offset(Path::new(ROOT), zone.as_deref(), now);
    Ok(Outcome::value(&Timezone { zone: Some(abbreviation), offset: seconds }))
}

fn osinfo(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetOsinfo {} = request.arguments()?;
    let system = uname();
    let text = |text: &std::ffi::CStr| Some(text.to_string_lossy().into_owned());
    let mut info = OsInfo {
        kernel_release: text(system.release()),
        kernel_version: text(system.version()),
        machine: text(system.machine()),
        ..OsInfo::default()
    };
    let chosen = std::env::var_os("QGA_OS_RELEASE").map(PathBuf::from);
    os_release::parse(&os_release::read(Path::new(ROOT), chosen.as_deref()), &mut info);
    Ok(Outcome::value(&info))
}
