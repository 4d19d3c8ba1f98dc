//! `guest-get-fsinfo`, `guest-fstrim`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::ScopedJoinHandle;

use qga_proto::command::{
    Command as _, FilesystemInfo, GuestFstrim, GuestGetFsinfo, TrimReport, TrimResult,
};
use qga_proto::{Outcome, QgaError, Request};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::{Handler, Place};
use crate::disk::{Roots, address};
use crate::freeze::mounts::{Device, Mount, Mounts};
use crate::gauge::Gauge;
use crate::sys::fstrim::Trimmed;
use crate::{errno, log, sys};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestGetFsinfo::INFO.name, place: Place::Filesystems(info) },
    Handler { command: GuestFstrim::INFO.name, place: Place::Trims(trim) },
];

/// Bytes of stack of a thread that trims one filesystem.
const STACK: usize = 64 << 10;

fn info(gauge: &mut Gauge, request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetFsinfo {} = request.arguments()?;
    let roots = Roots::system();
    let mounts = mounts()?;
    let filesystems = mounts.on_devices().into_iter().rev();
    let filesystems: Vec<_> =
        filesystems.map(|(device, mount)| filesystem(gauge, &roots, device, mount)).collect();
    Ok(Outcome::value(&filesystems))
}

fn filesystem(gauge: &mut Gauge, roots: &Roots, device: Device, mount: &Mount) -> FilesystemInfo {
    let number = device.to_string();
    let device = roots.block_device(&number).ok();
    let sizes = gauge.measure(&number, &mount.path);
    FilesystemInfo {
        name: device.as_ref().map_or(number, |device| device.kernel_name()),
        mountpoint: mount.path.to_string_lossy().into_owned(),
        fs_type: mount.fs_type.clone(),
        used_bytes: sizes.map(|sizes| sizes.used),
        total_bytes: sizes.map(|sizes| sizes.total),
        total_bytes_privileged: sizes.map(|sizes| sizes.privileged),
        disk: device.as_ref().map(address::places).unwrap_or_default(),
    }
}

fn trim(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestFstrim { minimum } = request.arguments()?;
    log::info(format_args!("guest-fstrim called"));
    let minimum = minimum.unwrap_or(0).cast_unsigned();
    let targets = mounts()?.targets();
    let mut paths: Vec<_> = targets.iter().map(|target| trim_one(&target.path, minimum)).collect();
    paths.reverse();
    Ok(Outcome::value(&TrimReport { paths }))
}

fn trim_one(mount_point: &Path, minimum: u64) -> TrimResult {
    let mut result =
        TrimResult { path: mount_point.to_string_lossy().into_owned(), ..TrimResult::default() };
    let directory = match open(mount_point, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(directory) => directory,
        Err(e) => {
            result.error = Some(format!("failed to open: {}", errno::text(e)));
            return result;
        }
    };
    match trim_apart(&directory, minimum) {
        Ok(trimmed) => {
            result.trimmed = Some(trimmed.bytes.cast_signed());
            result.minimum = Some(trimmed.minimum.cast_signed());
        }
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => result.error = Some("trim not supported".into()),
        Err(e) => result.error = Some(format!("failed to trim: {}", errno::text(e))),
    }
    result
}

/// On a thread of its own: a call that hangs outlives a SIGKILL of the agent, and must not keep its
/// channel open.
fn trim_apart(directory: &OwnedFd, minimum: u64) -> Result<Trimmed, Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("fstrim".into()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || {
            sys::threads::leave_descriptors_but(directory)?;
            sys::fstrim::trim(directory, minimum)
        });
        match thread.map(ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Errno::AGAIN),
        }
    })
}

fn mounts() -> Result<Mounts, QgaError> {
    Mounts::read().map_err(|_| QgaError::generic("failed to open mtab file: '/proc/self/mounts'"))
}
