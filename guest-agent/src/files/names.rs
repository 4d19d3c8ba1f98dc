//! Renaming, removing, making directories.

use std::os::fd::OwnedFd;
use std::path::Path;

use qga_proto::command::Expected;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::failure::Failure;
use super::place::{NO_NAME, Place, kind};
use super::stat::check;
use super::upload::rename_to_nothing;
use crate::policy::Policy;

pub(super) fn rename(
    policy: &Policy,
    from: &Path,
    to: &Path,
    replace: bool,
) -> Result<(), Failure> {
    let from = Place::of(policy, from, false)?;
    let to = Place::of(policy, to, false)?;
    let is_directory = is_directory(&from.look()?.ok_or(Errno::NOENT)?);
    if (from.slash || to.slash) && !is_directory {
        return Err(Errno::NOTDIR.into());
    }
    if replace {
        renameat(&from.dir, &from.name, &to.dir, &to.name)?;
    } else {
        rename_to_nothing(&from.dir, &from.name, &to.dir, &to.name, is_directory)?;
    }
    Ok(())
}

pub(super) fn remove(policy: &Policy, path: &Path, expected: &Expected) -> Result<(), Failure> {
    let place = Place::of(policy, path, false)?;
    let found = place.look()?;
    check(expected, found.as_ref())?;
    let is_directory = is_directory(&found.ok_or(Errno::NOENT)?);
    if place.slash && !is_directory {
        return Err(Errno::NOTDIR.into());
    }
    let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    Ok(unlinkat(&place.dir, &place.name, flags)?)
}

pub(super) fn make_directory(
    policy: &Policy,
    path: &Path,
    mode: Option<u32>,
    parents: bool,
) -> Result<(), Failure> {
    if !parents {
        return Ok(make(&Place::of(policy, path, false)?, mode)?);
    }
    // From the last one upwards until one is there, and then downwards again.
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        match open(policy, ancestor) {
            Ok(_) => break,
            Err(failure) if matches!(failure.errno, Errno::NOENT | Errno::NOTDIR) => {}
            Err(failure) => return Err(failure),
        }
        missing.push(ancestor);
    }
    for (left, path) in missing.iter().enumerate().rev() {
        let mode = if left == 0 { mode } else { None };
        let made = Place::of(policy, path, false).and_then(|place| Ok(make(&place, mode)?));
        // Somebody else may have made it meanwhile, and `..` is there when what it follows is.
        if let Err(failure) = made
            && let Err(absent) = open(policy, path)
        {
            let of_path = failure != NO_NAME && (left == 0 || failure.errno != Errno::EXIST);
            return Err(if of_path { failure } else { absent });
        }
    }
    Ok(())
}

fn make(place: &Place, mode: Option<u32>) -> Result<(), Errno> {
    let Place { dir, name, .. } = place;
    let Some(mode) = mode else { return mkdirat(dir, name, Mode::from_raw_mode(0o777)) };
    // Closed to others until it is what it is to be; and the umask has no say in that.
    mkdirat(dir, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let set = || {
        let made = openat(dir, name, flags, Mode::empty())?;
        // What it has of the directory above, as every new one.
        let inherited = Mode::from_raw_mode(fstat(&made)?.st_mode) & Mode::SGID;
        fchmod(&made, Mode::from_raw_mode(mode) | inherited)
    };
    set().inspect_err(|_| {
        let _ = unlinkat(dir, name, AtFlags::REMOVEDIR);
    })
}

/// Whether a directory is there is told by opening it.
fn open(policy: &Policy, path: &Path) -> Result<OwnedFd, Failure> {
    // Of a path that is relative, the last ancestor is nothing.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(policy.open(path, flags, Mode::empty())?)
}

fn is_directory(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}
