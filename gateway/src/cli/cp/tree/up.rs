//! Directories into a guest.

use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use hyper::Method;
use qga_gateway::client::{Gateway, empty};
use rustix::fs::OFlags;

use super::{DEPTH, Name, Tally, left_out, no_lists, shown};
use crate::cli::cp::{Options, Remote, up};
use crate::cli::exit::Usage;

/// A directory that is being copied.
struct Level {
    entries: fs::ReadDir,
    to: Remote,
}

pub(super) async fn copy(
    options: &Options,
    gateway: &Gateway,
    from: &Path,
    to: &Remote,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let meta = fs::metadata(from).with_context(|| shown(from))?;
    let to = top(gateway, from, to).await?;
    let entries = fs::read_dir(from).with_context(|| shown(from))?;
    directory(options, gateway, &to, &meta).await?;
    tally.directories += 1;
    let mut levels = vec![Level { entries, to }];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            levels.pop();
            continue;
        };
        tally.look()?;
        let entry = entry.context("reading a directory here")?;
        let (path, to) = (entry.path(), level.to.join(entry.file_name().as_bytes()));
        let what = shown(&path);
        // Of a link the link.
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            Err(error) => {
                tally.fail(&what, error.into())?;
                continue;
            }
        };
        if meta.is_dir() {
            if levels.len() == DEPTH {
                bail!(
                    "{what}: more than {DEPTH} directories within each other; nothing more is copied"
                );
            }
            match enter(options, gateway, &path, &to, &meta).await {
                Ok(entries) => {
                    tally.directories += 1;
                    levels.push(Level { entries, to });
                }
                Err(error) => tally.fail(&what, error)?,
            }
        } else if meta.is_file() {
            match file(options, gateway, &path, &to, tally).await {
                Ok(()) => tally.files += 1,
                Err(error) => tally.fail(&what, error)?,
            }
        } else {
            tally.skip(&what, left_out(kind(&meta)));
        }
    }
    Ok(())
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () => "block-device",
    }
}

/// The directory that becomes the copy: in `to`, if that is one there, under the original's name.
async fn top(gateway: &Gateway, from: &Path, to: &Remote) -> anyhow::Result<Remote> {
    match gateway.get(&format!("{}&limit=1", to.shown())).await {
        Ok(there) if there["stat"]["kind"] == "directory" => {}
        Ok(_) => bail!("{to} is there, and is no directory"),
        Err(failure) if failure.code() == Some("file_not_found") => return Ok(to.clone()),
        Err(failure) => return Err(no_lists(failure, to)),
    }
    // What `.` and `..` are called.
    let named = fs::canonicalize(from).with_context(|| shown(from))?;
    let name = named.file_name().and_then(|name| Name::new(name.as_bytes()).ok());
    match name {
        Some(name) => Ok(to.join(name.bytes())),
        None => Err(Usage(format!("{} has no name to be put into {to}", shown(from))).into()),
    }
}

async fn enter(
    options: &Options,
    gateway: &Gateway,
    from: &Path,
    to: &Remote,
    meta: &Metadata,
) -> anyhow::Result<fs::ReadDir> {
    let entries = fs::read_dir(from)?;
    directory(options, gateway, to, meta).await?;
    Ok(entries)
}

/// Makes it there, if it is not there yet.
async fn directory(
    options: &Options,
    gateway: &Gateway,
    to: &Remote,
    meta: &Metadata,
) -> anyhow::Result<()> {
    let mut path = format!("{}&kind=directory", to.shown());
    if options.preserve {
        path += &format!("&mode={:o}", meta.permissions().mode() & 0o7777);
    }
    match gateway.open(gateway.request(Method::PUT, &path), empty()).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.code() == Some("file_exists") => {
            let there = gateway.get(&format!("{}&limit=1&follow=false", to.shown())).await?;
            if there["stat"]["kind"] != "directory" {
                return Err(failure.into());
            }
            Ok(())
        }
        Err(failure) => Err(no_lists(failure, to)),
    }
}

/// What was a file a moment ago: a link or a pipe that took its place since is not followed, nor waited
/// for.
async fn file(
    options: &Options,
    gateway: &Gateway,
    from: &Path,
    to: &Remote,
    tally: &Tally,
) -> anyhow::Result<()> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(from)?;
    if !file.metadata()?.is_file() {
        bail!("it was a file a moment ago, and is none any more");
    }
    let size = file.metadata()?.len();
    up::send(options, gateway, file, from, to, true).await?;
    tally.bar.inc(size);
    Ok(())
}
