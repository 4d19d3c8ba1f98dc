//! `x-guest-file-stat`, `-list`, `-open`, `-create`, `-sync`, `-commit`, `-rename`, `-remove`, `-mkdir`,
//! `-beneath`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, PathBuf};

use qga_proto::base64::Base64Text;
use qga_proto::command::{
    Command, Expected, FileSync, GuestFileWrite, XFileBeneath, XFileCommit, XFileCreate, XFileList,
    XFileMkdir, XFileOpen, XFileRemove, XFileRename, XFileStat, XFileSync,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::files::{Attributes, Beneath, FileTable, MAX_MODE, number};
use crate::filter::Filter;
use crate::log;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: XFileStat::INFO.name, place: Place::Files(stat) },
    Handler { command: XFileList::INFO.name, place: Place::Files(list) },
    Handler { command: XFileOpen::INFO.name, place: Place::FilesIf(may_open, open) },
    Handler { command: XFileCreate::INFO.name, place: Place::Files(create) },
    Handler { command: XFileSync::INFO.name, place: Place::Files(sync) },
    Handler { command: XFileCommit::INFO.name, place: Place::Files(commit) },
    Handler { command: XFileRename::INFO.name, place: Place::Files(rename) },
    Handler { command: XFileRemove::INFO.name, place: Place::Files(remove) },
    Handler { command: XFileMkdir::INFO.name, place: Place::Files(mkdir) },
    Handler { command: XFileBeneath::INFO.name, place: Place::Files(reach) },
];

fn stat(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileStat { path, path_b64, handle, follow, beneath } = arguments(request)?;
    let stat = match (handle, &path, &path_b64, &beneath) {
        (Some(handle), None, None, None) => files.stat_open(handle)?,
        (Some(_), None, None, Some(_)) => return Err(invalid("beneath goes with a path")),
        (Some(_), ..) => return Err(invalid("one of path, path-b64 and handle is needed")),
        (None, ..) => {
            let (path, below) = (named("path", path, path_b64)?, directories(beneath)?);
            files.stat(Beneath(below.as_deref()), &path, follow.unwrap_or(true))?
        }
    };
    Ok(Outcome::value(&stat))
}

fn list(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileList { path, path_b64, after_b64, limit, beneath } = arguments(request)?;
    let (path, below) = (named("path", path, path_b64)?, directories(beneath)?);
    let after = after_b64.map_or(Ok(Vec::new()), bytes)?;
    Ok(Outcome::value(&files.list(Beneath(below.as_deref()), &path, &after, limit)?))
}

/// Opening for writing needs what a file is written by.
fn may_open(filter: &Filter, request: &Request) -> Result<(), QgaError> {
    let XFileOpen { write, .. } = arguments(request)?;
    if write == Some(true) && !filter.allows(GuestFileWrite::INFO.name) {
        return Err(QgaError::disabled(GuestFileWrite::INFO.name));
    }
    Ok(())
}

fn open(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileOpen { path, path_b64, write, beneath } = arguments(request)?;
    let (path, below) = (named("path", path, path_b64)?, directories(beneath)?);
    let write = write.unwrap_or(false);
    let opened = files.open_existing(Beneath(below.as_deref()), &path, write)?;
    let (handle, path) = (opened.handle, path.display());
    log::info(format_args!(
        "x-guest-file-open, handle: {handle}, filepath: {path}, write: {write}"
    ));
    Ok(Outcome::value(&opened))
}

fn create(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileCreate { path, path_b64, beneath } = arguments(request)?;
    let (path, below) = (named("path", path, path_b64)?, directories(beneath)?);
    let created = files.create(Beneath(below.as_deref()), &path)?;
    let (handle, path) = (created.handle, path.display());
    log::info(format_args!("x-guest-file-create, handle: {handle}, filepath: {path}"));
    Ok(Outcome::value(&created))
}

fn sync(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileSync { handle } = arguments(request)?;
    Ok(Outcome::value(&FileSync { done: files.sync(handle)? }))
}

fn commit(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let wanted: XFileCommit = arguments(request)?;
    let expected = expectation(wanted.expect)?;
    let attributes = Attributes::read(&wanted)?;
    Ok(Outcome::value(&files.commit(wanted.handle, attributes, &expected)?))
}

fn rename(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileRename { path, path_b64, to, to_b64, replace, beneath } = arguments(request)?;
    let below = directories(beneath)?;
    let (from, to) = (named("path", path, path_b64)?, named("to", to, to_b64)?);
    files.rename(Beneath(below.as_deref()), &from, &to, replace.unwrap_or(false))?;
    log::info(format_args!("x-guest-file-rename, from: {}, to: {}", from.display(), to.display()));
    Ok(Outcome::empty())
}

fn remove(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileRemove { path, path_b64, expect, beneath } = arguments(request)?;
    let (path, below) = (named("path", path, path_b64)?, directories(beneath)?);
    files.remove(Beneath(below.as_deref()), &path, &expectation(expect)?)?;
    log::info(format_args!("x-guest-file-remove, filepath: {}", path.display()));
    Ok(Outcome::empty())
}

fn mkdir(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileMkdir { path, path_b64, mode, parents, beneath } = arguments(request)?;
    let (path, below) = (named("path", path, path_b64)?, directories(beneath)?);
    let mode = number("mode", mode, MAX_MODE)?;
    files.make_directory(Beneath(below.as_deref()), &path, mode, parents.unwrap_or(false))?;
    log::info(format_args!("x-guest-file-mkdir, filepath: {}", path.display()));
    Ok(Outcome::empty())
}

fn reach(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let XFileBeneath { path, path_b64, beneath } = arguments(request)?;
    let (path, below) = (named("path", path, path_b64)?, directories(Some(beneath))?);
    files.reach(Beneath(below.as_deref()), &path)?;
    Ok(Outcome::empty())
}

fn arguments<C: Command>(request: &Request) -> Result<C, QgaError> {
    request.arguments().map_err(|error| error.with_errno("EINVAL"))
}

/// The path of one of two arguments.
fn named(
    argument: &str,
    text: Option<String>,
    base64: Option<Base64Text>,
) -> Result<PathBuf, QgaError> {
    let path = match (text, base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => bytes(base64)?,
        _ => return Err(invalid(&format!("one of {argument} and {argument}-b64 is needed"))),
    };
    if path.is_empty() || path.contains(&0) {
        return Err(invalid(&format!("{argument} is empty or contains a NUL")));
    }
    Ok(PathBuf::from(OsString::from_vec(path)))
}

/// The directories of `beneath`, whose names say where they are.
fn directories(beneath: Option<Vec<String>>) -> Result<Option<Vec<PathBuf>>, QgaError> {
    let Some(beneath) = beneath else { return Ok(None) };
    let directories: Vec<_> = beneath.into_iter().map(PathBuf::from).collect();
    let plain = |path: &PathBuf| {
        let up = path.components().any(|part| part == Component::ParentDir);
        path.is_absolute() && !up && !path.as_os_str().as_encoded_bytes().contains(&0)
    };
    if directories.is_empty() || !directories.iter().all(plain) {
        return Err(invalid("beneath takes absolute paths without '..', one at least"));
    }
    Ok(Some(directories))
}

fn bytes(base64: Base64Text) -> Result<Vec<u8>, QgaError> {
    base64.decode().map_err(|error| error.with_errno("EINVAL"))
}

fn expectation(expected: Option<Expected>) -> Result<Expected, QgaError> {
    let expected = expected.unwrap_or_default();
    let of_a_file = Expected { absent: false, ..expected } != Expected::default();
    if expected.absent && of_a_file {
        return Err(invalid("expect says absent, and more"));
    }
    Ok(expected)
}

fn invalid(text: &str) -> QgaError {
    QgaError::generic(text).with_errno("EINVAL")
}
