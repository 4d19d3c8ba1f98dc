//! Out of a guest.
//!
//! A file here gets its name when all of it is there; until then its bytes are in `.NAME.qga-part`
//! beside it, with the tag (`ETag`) that they belong to in `.NAME.qga-part.etag`. A copy that goes on asks
//! for the rest of exactly that content (`If-Range`), and begins afresh if there is another by now.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode, header};
use indicatif::ProgressBar;
use qga_gateway::client::{Failure, Gateway, empty};

use super::bar::bar;
use super::{Options, Remote};
use crate::cli::bytes_out::{Output, Stream};
use crate::cli::exit::Usage;
use crate::cli::out::say;

/// To standard output.
pub(super) async fn stream(
    options: &Options,
    gateway: &Gateway,
    from: &Remote,
) -> anyhow::Result<()> {
    if options.resume || options.preserve {
        return Err(Usage("--continue and --preserve need a file, and - is none".into()).into());
    }
    let answer = open(gateway, from, None).await?;
    let tag = tag(&answer);
    let output = Output::start();
    let bar = bar(options.quiet, &from.to_string(), length(&answer), 0);
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|error| broken(from, &error))?.into_data() else { continue };
        bar.inc(bytes.len() as u64);
        if output.write(Stream::Out, bytes.into()).await.is_err() {
            bail!("standard output is closed");
        }
    }
    if output.finish().await.is_err() {
        bail!("standard output is closed");
    }
    bar.finish_and_clear();
    unchanged(options, gateway, from, tag).await
}

/// To a file or into a directory.
pub(super) async fn file(
    options: &Options,
    gateway: &Gateway,
    from: &Remote,
    to: &Path,
) -> anyhow::Result<()> {
    let place = Place::of(from, to)?;
    let mode = if options.preserve { Some(mode(gateway, from).await?) } else { place.mode() };
    if place.is_special {
        return into(options, gateway, from, &place.target).await;
    }
    let (mut part, had) = place.open(options.resume)?;
    let known = fs::read_to_string(&place.tag).ok().filter(|tag| !tag.is_empty());
    let mut at = had;
    let answer = match open(gateway, from, (at > 0).then_some((at, known.as_deref()))).await {
        // Nothing is behind what is there: all of it, or another file.
        Err(failure) if failure.code() == Some("range_not_satisfiable") => {
            let head =
                gateway.open(gateway.request(Method::HEAD, &from.content()), empty()).await?;
            if length(&head) == Some(at) && tag(&head) == known && known.is_some() {
                drop(part);
                return place.finish(mode);
            }
            open(gateway, from, None).await?
        }
        answer => answer?,
    };
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        if at > 0 && !options.quiet {
            say(&format!("{from} is another one than what is here of it: begins afresh"));
        }
        at = 0;
    } else if known.is_none() && !options.quiet {
        say(&format!("{}: a stock agent does not say whether the file changed meanwhile", from.vm));
    }
    part.set_len(at)?;
    part.seek(SeekFrom::Start(at))?;
    let tag = tag(&answer);
    fs::write(&place.tag, tag.as_deref().unwrap_or_default())
        .with_context(|| place.tag.display().to_string())?;
    let bar = bar(options.quiet, &from.to_string(), length(&answer).map(|rest| at + rest), at);
    let moved = pour(answer, &mut part, from, &bar).await;
    bar.finish_and_clear();
    if let Err(error) = moved {
        let kept = part.metadata().map_or(0, |meta| meta.len());
        let part = place.part.display();
        return Err(error.context(format!(
            "{kept} bytes are in {part}; the same with --continue goes on there"
        )));
    }
    part.sync_all().with_context(|| place.part.display().to_string())?;
    drop(part);
    unchanged(options, gateway, from, tag).await?;
    place.finish(mode)
}

/// Into something that is no file: a device, a pipe.
async fn into(
    options: &Options,
    gateway: &Gateway,
    from: &Remote,
    to: &Path,
) -> anyhow::Result<()> {
    if options.resume {
        return Err(Usage(format!(
            "{}: is no file, so there is nothing to go on with",
            to.display()
        ))
        .into());
    }
    let mut out = File::options().write(true).open(to).with_context(|| to.display().to_string())?;
    let answer = open(gateway, from, None).await?;
    let (tag, bar) = (tag(&answer), bar(options.quiet, &from.to_string(), length(&answer), 0));
    pour(answer, &mut out, from, &bar).await?;
    bar.finish_and_clear();
    unchanged(options, gateway, from, tag).await
}

/// The content, or what is behind the bytes that are here of the one with that tag.
pub(super) async fn open(
    gateway: &Gateway,
    from: &Remote,
    part: Option<(u64, Option<&str>)>,
) -> Result<Response<Incoming>, Failure> {
    let mut request = gateway.request(Method::GET, &from.content());
    if let Some((at, tag)) = part {
        request = request.header(header::RANGE, format!("bytes={at}-"));
        if let Some(tag) = tag {
            request = request.header(header::IF_RANGE, tag);
        }
    }
    gateway.open(request, empty()).await
}

pub(super) async fn pour(
    answer: Response<Incoming>,
    to: &mut File,
    from: &Remote,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|error| broken(from, &error))?.into_data() else { continue };
        to.write_all(&bytes).context("writing what came")?;
        bar.inc(bytes.len() as u64);
    }
    Ok(())
}

fn broken(from: &Remote, error: &hyper::Error) -> Failure {
    let why = format!("{error}; the file became shorter, or the guest or the gateway went away");
    Failure::Broken { place: from.to_string(), why }
}

pub(super) fn tag(answer: &Response<Incoming>) -> Option<String> {
    Some(answer.headers().get(header::ETAG)?.to_str().ok()?.to_owned())
}

fn length(answer: &Response<Incoming>) -> Option<u64> {
    answer.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The original's permission bits.
async fn mode(gateway: &Gateway, from: &Remote) -> anyhow::Result<u32> {
    let shown = gateway.get(&from.shown()).await?;
    let mode = shown["stat"]["mode"].as_u64().and_then(|mode| u32::try_from(mode).ok());
    // Not those that lend a user's rights: here the owner is another.
    mode.map(|mode| mode & 0o777).context("the guest tells no mode")
}

/// With `--verify`: what was read is one content, and not parts of two.
pub(super) async fn unchanged(
    options: &Options,
    gateway: &Gateway,
    from: &Remote,
    before: Option<String>,
) -> anyhow::Result<()> {
    if !options.verify {
        return Ok(());
    }
    let Some(before) = before else {
        bail!(
            "{from}: the guest tells no ETag, so whether the file changed while it was read cannot be \
             verified; that needs qga-agent and a file on a disk"
        );
    };
    let head = gateway.open(gateway.request(Method::HEAD, &from.content()), empty()).await?;
    if tag(&head) != Some(before) {
        bail!("{from} changed while it was read; copy it again, or freeze the VM meanwhile");
    }
    Ok(())
}

/// Where a file is to be here, and where it is until it is whole.
struct Place {
    target: PathBuf,
    part: PathBuf,
    tag: PathBuf,
    /// It is there, and no file.
    is_special: bool,
}

impl Place {
    fn of(from: &Remote, to: &Path) -> anyhow::Result<Self> {
        let name = from.path.rsplit(|byte| matches!(byte, b'/' | b'\\')).next().unwrap_or_default();
        let name = OsStr::from_bytes(name);
        let inside = to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/");
        let target = if inside { to.join(name) } else { to.to_owned() };
        // A link stays, and what it leads to is replaced.
        let target = fs::canonicalize(&target).unwrap_or(target);
        let Some(own) = target.file_name().filter(|_| !name.is_empty() && !target.is_dir()) else {
            return Err(Usage(format!("{from} to {}: name a file", to.display())).into());
        };
        let mut part = std::ffi::OsString::from(".");
        part.push(own);
        part.push(".qga-part");
        let part = target.with_file_name(part);
        let tag = part.with_extension("qga-part.etag");
        let is_special = fs::metadata(&target).is_ok_and(|meta| !meta.is_file());
        Ok(Self { target, part, tag, is_special })
    }

    /// That of what is replaced.
    fn mode(&self) -> Option<u32> {
        Some(fs::metadata(&self.target).ok()?.permissions().mode() & 0o777)
    }

    /// The part, for us alone, and how much of it is there.
    fn open(&self, resume: bool) -> anyhow::Result<(File, u64)> {
        let shown = || self.part.display().to_string();
        let mut how = File::options();
        let part =
            how.create(true).truncate(false).write(true).open(&self.part).with_context(shown)?;
        if part.try_lock().is_err() {
            bail!("{}: another copy to the same file is under way", self.part.display());
        }
        if !resume {
            part.set_len(0).with_context(shown)?;
        }
        let had = part.metadata().with_context(shown)?.len();
        Ok((part, had))
    }

    fn finish(&self, mode: Option<u32>) -> anyhow::Result<()> {
        if let Some(mode) = mode {
            fs::set_permissions(&self.part, Permissions::from_mode(mode))
                .with_context(|| self.part.display().to_string())?;
        }
        fs::rename(&self.part, &self.target).with_context(|| self.target.display().to_string())?;
        let _ = fs::remove_file(&self.tag);
        Ok(())
    }
}
