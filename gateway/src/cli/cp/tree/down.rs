//! Directories out of a guest.
//!
//! What a guest lists is its word and no more. Each directory here is held open, and what comes is made
//! in the one that is held, by a single name and without following a link: wherever the list leads,
//! nothing is written beside the directory that was named.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::vec;

use anyhow::{Context as _, bail};
use qga_gateway::client::{Gateway, encoded};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, syncfs,
    unlinkat,
};
use rustix::io::Errno;
use serde_json::Value;

use super::name::NoName;
use super::{DEPTH, Name, Tally, left_out, shown};
use crate::cli::cp::{Options, Remote, down};
use crate::cli::exit::Usage;

/// A directory that is being copied.
struct Level {
    here: OwnedFd,
    from: Remote,
    /// What is to be copied of the page that was listed last, and where the next one begins.
    page: vec::IntoIter<Value>,
    next: Option<String>,
    /// The original's permission bits, to be given when all is in it.
    mode: Option<u32>,
}

impl Level {
    fn new(options: &Options, here: OwnedFd, from: Remote, mut listed: Value) -> Self {
        let mode = options.preserve.then(|| mode(&listed["stat"])).flatten();
        let (page, next) = page(&mut listed);
        Self { here, from, page, next, mode }
    }
}

fn page(listed: &mut Value) -> (vec::IntoIter<Value>, Option<String>) {
    let entries = match listed["entries"].take() {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    };
    (entries.into_iter(), listed["next"].as_str().map(str::to_owned))
}

/// Those bits that lend no user's rights: here the owner is another.
fn mode(stat: &Value) -> Option<u32> {
    u32::try_from(stat["mode"].as_u64()?).ok().map(|mode| mode & 0o777)
}

pub(super) async fn copy(
    options: &Options,
    gateway: &Gateway,
    from: &Remote,
    to: &Path,
    listed: Value,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let top = top(from, to)?;
    tally.directories += 1;
    let mut levels = vec![Level::new(options, top, from.clone(), listed)];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let Some(entry) = level.page.next() else {
            if let Some(after) = level.next.take() {
                // A page without entries is one more thing to look at too.
                tally.look()?;
                let path = format!("{}&after={}", level.from.shown(), encoded(&after));
                let mut listed = gateway.get(&path).await?;
                (level.page, level.next) = page(&mut listed);
                continue;
            }
            if let Some(mode) = level.mode {
                fchmod(&level.here, Mode::from_raw_mode(mode))?;
            }
            if depth == 1 {
                // All of it is on the disk before it is said that it is there.
                syncfs(&level.here)?;
            }
            levels.pop();
            continue;
        };
        tally.look()?;
        let name = Name::of(&entry)?;
        let from = level.from.join(name.bytes());
        let what = from.to_string();
        match entry["stat"]["kind"].as_str() {
            Some("directory") if depth == DEPTH => {
                bail!(
                    "{what}: more than {DEPTH} directories within each other; nothing more is copied"
                );
            }
            Some("directory") => match enter(gateway, level.here.as_fd(), &name, &from).await {
                Ok((here, listed)) => {
                    tally.directories += 1;
                    levels.push(Level::new(options, here, from, listed));
                }
                Err(error) => tally.fail(&what, error)?,
            },
            Some("file") => {
                let mode = options.preserve.then(|| mode(&entry["stat"])).flatten();
                let here = level.here.as_fd();
                match file(options, gateway, &from, here, &name, mode, tally).await {
                    Ok(()) => tally.files += 1,
                    Err(error) => tally.fail(&what, error)?,
                }
            }
            Some(kind) => tally.skip(&what, left_out(kind)),
            None => {
                let gone = "it has gone meanwhile, or the agent may not look at it";
                tally.fail(&what, anyhow::anyhow!(gone))?;
            }
        }
    }
}

/// The directory that becomes the copy: in `to`, if that is one, under the original's name.
fn top(from: &Remote, to: &Path) -> anyhow::Result<OwnedFd> {
    let whole = || shown(to);
    if to.is_dir() {
        let path = from.path.trim_ascii_end();
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = Name::new(last).map_err(|NoName { .. }| {
            Usage(format!("{from} has no name to be put into {}; name a new directory", whole()))
        })?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, to, flags, Mode::empty()).with_context(whole)?;
        return directory(parent.as_fd(), &name).with_context(|| shown(&to.join(path_of(&name))));
    }
    fs::create_dir(to).with_context(whole)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, to, flags, Mode::empty()).with_context(whole)
}

fn path_of(name: &Name) -> PathBuf {
    std::ffi::OsStr::from_bytes(name.bytes()).into()
}

/// The directory of that name, which may be there already; a link is none.
fn directory(parent: BorrowedFd<'_>, name: &Name) -> io::Result<OwnedFd> {
    match mkdirat(parent, name.bytes(), Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name.bytes(), flags, Mode::empty())?)
}

async fn enter(
    gateway: &Gateway,
    parent: BorrowedFd<'_>,
    name: &Name,
    from: &Remote,
) -> anyhow::Result<(OwnedFd, Value)> {
    // Not through a link that the guest has put there since it was listed.
    let listed = gateway.get(&format!("{}&follow=false", from.shown())).await?;
    if listed["stat"]["kind"] != "directory" {
        bail!("it was a directory a moment ago, and is none any more");
    }
    let here = directory(parent, name).context("the directory here")?;
    Ok((here, listed))
}

async fn file(
    options: &Options,
    gateway: &Gateway,
    from: &Remote,
    here: BorrowedFd<'_>,
    name: &Name,
    mode: Option<u32>,
    tally: &Tally,
) -> anyhow::Result<()> {
    let answer = down::open(gateway, from, None).await?;
    let tag = down::tag(&answer);
    // What is replaced keeps its mode, as with one file.
    let old = statat(here, name.bytes(), AtFlags::SYMLINK_NOFOLLOW).ok();
    let old = old.filter(|old| FileType::from_raw_mode(old.st_mode) == FileType::RegularFile);
    let mode = mode.or_else(|| old.map(|old| old.st_mode & 0o777));
    let mut part = Part::new(here)?;
    down::pour(answer, &mut part.file, from, &tally.bar).await?;
    down::unchanged(options, gateway, from, tag).await?;
    if let Some(mode) = mode {
        fchmod(&part.file, Mode::from_raw_mode(mode))?;
    }
    part.becomes(name)
}

/// A file without its name yet; removed, if it does not get it.
struct Part<'a> {
    here: BorrowedFd<'a>,
    /// Random: a guest cannot list it.
    called: String,
    file: File,
    whole: bool,
}

impl<'a> Part<'a> {
    fn new(here: BorrowedFd<'a>) -> anyhow::Result<Self> {
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).context("no random number")?;
        let called = format!(".{:016x}.qga-part", u64::from_ne_bytes(random));
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(here, &called, flags, Mode::from_raw_mode(0o666))
            .with_context(|| format!("making {called} here"))?;
        Ok(Self { here, called, file: file.into(), whole: false })
    }

    /// A link of that name is replaced, and not followed; a directory is in the way.
    fn becomes(mut self, name: &Name) -> anyhow::Result<()> {
        renameat(self.here, &self.called, self.here, name.bytes()).context("its place here")?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !self.whole {
            let _ = unlinkat(self.here, &self.called, AtFlags::empty());
        }
    }
}
