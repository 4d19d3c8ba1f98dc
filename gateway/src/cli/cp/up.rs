//! Into a guest.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, stdin};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use base64_simd::STANDARD;
use hyper::{Method, header};
use qga_gateway::client::{Failure, Gateway, empty, streamed};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::bar::bar;
use super::{Options, Remote};
use crate::cli::bytes_in::chunks;
use crate::cli::exit::Usage;
use crate::cli::out::say;

/// Up to here a digest costs nothing that anybody notices: the file is read twice.
const CHEAP: u64 = 64 << 20;

/// How often one that goes on looks for the place anew.
const ATTEMPTS: u32 = 10;

/// From standard input.
pub(super) async fn stream(
    options: &Options,
    gateway: &Gateway,
    to: &Remote,
) -> anyhow::Result<()> {
    if options.resume || options.preserve || options.verify {
        let why = "--continue, --preserve and --verify need a file, and - is none";
        return Err(Usage(why.into()).into());
    }
    if to.is_marked_directory() {
        return Err(Usage(format!("{to}: what comes from - has no name; name the file")).into());
    }
    let bar = bar(options.quiet, &to.to_string(), None, 0);
    let progress = bar.clone();
    let body = streamed(chunks(stdin(), move |n| progress.inc(n)));
    let written = gateway.ask(gateway.request(Method::PUT, &to.content()), body).await;
    bar.finish_and_clear();
    told(options.quiet, to, &written?);
    Ok(())
}

/// From a file.
pub(super) async fn file(
    options: &Options,
    gateway: &Gateway,
    from: &Path,
    to: &Remote,
) -> anyhow::Result<()> {
    let inside = |to: &Remote| from.file_name().map(|name| to.join(name.as_bytes()));
    let given = if to.is_marked_directory() { inside(to) } else { Some(to.clone()) };
    let to = given.context("the file has no name")?;
    let open = || File::open(from).with_context(|| from.display().to_string());
    match send(options, gateway, open()?, from, &to, options.quiet).await {
        Err(error) if is_directory(&error) => {
            let to = inside(&to).context("the file has no name")?;
            send(options, gateway, open()?, from, &to, options.quiet).await
        }
        done => done,
    }
}

fn is_directory(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().and_then(Failure::code) == Some("is_a_directory")
}

/// `file`, which is opened at `from`; without a word if it is `quiet`.
pub(super) async fn send(
    options: &Options,
    gateway: &Gateway,
    file: File,
    from: &Path,
    to: &Remote,
    quiet: bool,
) -> anyhow::Result<()> {
    let shown = || from.display().to_string();
    let meta = file.metadata().with_context(shown)?;
    let size = meta.is_file().then_some(meta.len());
    let kept = match (options.resume, size) {
        (false, _) => Kept { bytes: 0, digests: true },
        (true, Some(size)) => Kept::of(gateway, to).await?.within(size, from, to)?,
        (true, None) => return Err(Usage(format!("{}: is no file to go on with", shown())).into()),
    };
    if options.verify && size.is_none() {
        return Err(Usage(format!("{}: --verify needs a file", shown())).into());
    }
    if options.verify && !kept.digests {
        bail!("{}: a stock agent goes on without a digest; send the whole again", to.vm);
    }
    let cheap = size.is_some_and(|size| size <= CHEAP);
    let mut digest = None;
    if kept.digests && (options.verify || cheap) {
        digest = Some(self::digest(&file).with_context(shown)?);
    }
    let mut upload = Upload { options, gateway, file, size, at: kept.bytes, to, quiet };
    let mut attempts = 0;
    let written = loop {
        attempts += 1;
        let failure = match upload.send(&meta, digest.as_deref()).await? {
            Err(failure) if options.resume && attempts < ATTEMPTS => failure,
            written => break written,
        };
        match failure.code() {
            // What was on its way as the one before broke off has arrived by now.
            Some("upload_offset_mismatch") if received(&failure).is_some() => {
                let bytes = received(&failure).unwrap_or(0);
                upload.at =
                    Kept { bytes, digests: true }.within(size.unwrap_or(0), from, to)?.bytes;
            }
            // What it goes on with was begun without a digest, and goes on so.
            Some("bad_request") if upload.at > 0 && digest.is_some() && !options.verify => {
                digest = None;
            }
            _ => break Err(failure),
        }
    };
    match written {
        Ok(written) => told(quiet, to, &written),
        Err(failure) => {
            let again = failure.is_silence() || received(&failure).is_some();
            let hint =
                "what arrived is kept for some minutes; the same with --continue goes on there";
            let error = anyhow::Error::from(failure);
            return Err(if again && size.is_some() { error.context(hint) } else { error });
        }
    }
    Ok(())
}

/// A file that is to be sent, from a place in it on.
struct Upload<'a> {
    options: &'a Options,
    gateway: &'a Gateway,
    file: File,
    /// None if it is no file that has one.
    size: Option<u64>,
    at: u64,
    to: &'a Remote,
    quiet: bool,
}

impl Upload<'_> {
    fn query(&self, meta: &Metadata) -> String {
        let mut path = self.to.content();
        if self.options.preserve {
            path += &format!("&mode={:o}", meta.permissions().mode() & 0o7777);
        }
        if self.at > 0 {
            path += &format!("&offset={}", self.at);
        }
        path
    }

    async fn send(
        &self,
        meta: &Metadata,
        digest: Option<&str>,
    ) -> anyhow::Result<Result<Value, Failure>> {
        let mut request = self.gateway.request(Method::PUT, &self.query(meta));
        request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        if let Some(size) = self.size {
            request = request.header(header::CONTENT_LENGTH, size - self.at);
        }
        if let Some(digest) = digest {
            request = request.header("repr-digest", digest);
        }
        let part = Part { file: self.file.try_clone()?, at: self.size.map(|_| self.at) };
        let bar = bar(self.quiet, &self.to.to_string(), self.size, self.at);
        let progress = bar.clone();
        // Not more than was there at first: what is appended meanwhile is no part of it.
        let content = part.take(self.size.map_or(u64::MAX, |size| size - self.at));
        let body = streamed(chunks(content, move |n| progress.inc(n)));
        let written = self.gateway.ask(request, body).await;
        bar.finish_and_clear();
        Ok(written)
    }
}

/// How much the gateway says that it has.
fn received(failure: &Failure) -> Option<u64> {
    match failure {
        Failure::Refused(refusal) => refusal.problem["received"].as_u64(),
        _ => None,
    }
}

/// What is behind a place in a file. An earlier request's thread may still read the same file, so
/// each has a place of its own.
struct Part {
    file: File,
    /// None if it is no file that has places.
    at: Option<u64>,
}

impl io::Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(at) = &mut self.at else { return self.file.read(buffer) };
        let read = self.file.read_at(buffer, *at)?;
        *at += read as u64;
        Ok(read)
    }
}

/// The digest of the whole file, also where only its end is sent.
fn digest(mut file: &File) -> io::Result<String> {
    let (mut digest, mut chunk) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => digest.update(&chunk[..n]),
        }
    }
    Ok(format!("sha-256=:{}:", STANDARD.encode_to_string(digest.finalize())))
}

/// What of an upload that was broken off is there.
struct Kept {
    bytes: u64,
    /// Whether the rest may come with a digest of the whole.
    digests: bool,
}

impl Kept {
    async fn of(gateway: &Gateway, to: &Remote) -> Result<Self, Failure> {
        let shown = match gateway.get(&to.shown()).await {
            Ok(shown) => shown["partial"]["received"].as_u64(),
            Err(Failure::Refused(refusal)) => match refusal.problem["code"].as_str() {
                Some("file_not_found") => refusal.problem["received"].as_u64(),
                // A stock agent: the file itself is what is there.
                Some("command_unsupported") => return Self::of_file(gateway, to).await,
                _ => return Err(Failure::Refused(refusal)),
            },
            Err(failure) => return Err(failure),
        };
        Ok(Self { bytes: shown.unwrap_or(0), digests: true })
    }

    async fn of_file(gateway: &Gateway, to: &Remote) -> Result<Self, Failure> {
        let head = gateway.request(Method::HEAD, &to.content());
        let head = match gateway.open(head, empty()).await {
            Ok(head) => head,
            // It is not there, or cannot be looked at: the beginning will tell.
            Err(Failure::Refused(_)) => return Ok(Self { bytes: 0, digests: true }),
            Err(failure) => return Err(failure),
        };
        let length = head.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let bytes = length.unwrap_or(0);
        Ok(Self { bytes, digests: bytes == 0 })
    }

    fn within(self, size: u64, from: &Path, to: &Remote) -> anyhow::Result<Self> {
        if self.bytes > size {
            bail!(
                "{} bytes of {to} are there, and {} has only {size}: it is not the same file; send it \
                 without --continue",
                self.bytes,
                from.display()
            );
        }
        Ok(self)
    }
}

fn told(quiet: bool, to: &Remote, written: &Value) {
    if quiet {
        return;
    }
    let how = match written["atomic"] == true {
        true => "in its place whole, in one step",
        false => "written where it is, not in one step: the guest has a stock agent",
    };
    say(&format!("{to}: {} bytes, {how}", written["size"]));
}
