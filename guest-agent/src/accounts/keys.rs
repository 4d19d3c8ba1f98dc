//! `~/.ssh/authorized_keys` of a user.
//!
//! The home directory belongs to its user, who may have put anything anywhere in it. All of this
//! is done with that user's ids ([`super::Desk::act_as`]), and no link is followed below the home: where
//! one is in the way, the command fails. A file is replaced as a whole, so that at no time half of
//! it is there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use qga_proto::QgaError;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::{self, Errno};

use super::User;
use crate::errno;

const DIRECTORY: &str = ".ssh";
const FILE: &str = "authorized_keys";
/// What the file is called until it is whole.
const NEW_FILE: &str = "authorized_keys.qga-new";
/// More than this is no list of keys.
const MAX_BYTES: u64 = 4 << 20;

/// Whether these can be lines of the file; checked before anything else is.
pub(crate) fn check(keys: &[String]) -> Result<(), QgaError> {
    let odd = |key: &&String| key.starts_with('#') || key.contains('\n');
    match keys.iter().find(odd) {
        Some(key) => Err(QgaError::generic(format!("invalid OpenSSH public key: '{key}'"))),
        None => Ok(()),
    }
}

/// The keys in the file, in qemu-ga's order: the last one first.
pub(crate) fn list(user: &User) -> Result<Vec<String>, QgaError> {
    let place = Place::of(user);
    let text = place.open_directory().and_then(|directory| {
        let file = open_file(&directory)?;
        read(file)
    });
    Ok(keys_in(&text.map_err(|e| place.unreadable(e))?))
}

/// Adds keys that are not there yet, to nothing if `reset`.
pub(crate) fn add(user: &User, keys: &[String], reset: bool) -> Result<(), QgaError> {
    let place = Place::of(user);
    let directory = place.make_directory()?;
    let text = if reset { None } else { place.read_if_there(&directory)? };
    place.replace(&directory, &with(text.as_deref(), keys))
}

/// Removes the lines that are one of `keys`.
pub(crate) fn remove(user: &User, keys: &[String]) -> Result<(), QgaError> {
    let place = Place::of(user);
    let directory = match place.open_directory() {
        Err(Errno::NOENT) => return Ok(()),
        directory => directory.map_err(|e| place.unreadable(e))?,
    };
    match place.read_if_there(&directory)? {
        Some(text) => place.replace(&directory, &without(&text, keys)),
        None => Ok(()),
    }
}

fn keys_in(text: &[u8]) -> Vec<String> {
    let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let keys = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    keys.rev().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

/// A newline at the end counts as a last, empty line, and none is added.
fn with(text: Option<&[u8]>, keys: &[String]) -> Vec<u8> {
    let text = text.filter(|text| !text.is_empty());
    let old = text.into_iter().flat_map(|text| text.split(|&byte| byte == b'\n'));
    let mut lines: Vec<_> = old.collect();
    for key in keys {
        if !lines.contains(&key.as_bytes()) {
            lines.push(key.as_bytes());
        }
    }
    lines.join(&b'\n')
}

fn without(text: &[u8], keys: &[String]) -> Vec<u8> {
    let lines = text.split(|&byte| byte == b'\n');
    let lines = lines.filter(|line| keys.iter().all(|key| key.as_bytes() != *line));
    lines.collect::<Vec<_>>().join(&b'\n')
}

/// Where a user's keys are, and how errors call it.
struct Place<'a> {
    user: &'a User,
    directory: PathBuf,
    file: String,
}

impl<'a> Place<'a> {
    fn of(user: &'a User) -> Self {
        let directory = user.home.join(DIRECTORY);
        let file = directory.join(FILE).display().to_string();
        Self { user, directory, file }
    }

    fn open_home(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, &self.user.home, flags, Mode::empty())
    }

    fn open_directory(&self) -> io::Result<OwnedFd> {
        open_directory_in(&self.open_home()?)
    }

    fn make_directory(&self) -> Result<OwnedFd, QgaError> {
        let failed = |what: &str, e| {
            let (directory, e) = (self.directory.display(), errno::text(e));
            QgaError::generic(format!("failed to {what} directory '{directory}': {e}"))
        };
        let home = self.open_home().map_err(|e| failed("create", e))?;
        match mkdirat(&home, DIRECTORY, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed("create", e)),
        }
        open_directory_in(&home).map_err(|e| failed("open", e))
    }

    /// Only a file that is not there counts as empty: one that cannot be read holds keys that
    /// would be lost.
    fn read_if_there(&self, directory: &OwnedFd) -> Result<Option<Vec<u8>>, QgaError> {
        match open_file(directory) {
            Err(Errno::NOENT) => Ok(None),
            file => file.and_then(read).map(Some).map_err(|e| self.unreadable(e)),
        }
    }

    fn replace(&self, directory: &OwnedFd, text: &[u8]) -> Result<(), QgaError> {
        let replaced = write_new(directory, text)
            .and_then(|()| renameat(directory, NEW_FILE, directory, FILE));
        replaced.map_err(|e| {
            let _ = unlinkat(directory, NEW_FILE, AtFlags::empty());
            let (file, e) = (&self.file, errno::text(e));
            QgaError::generic(format!("failed to write to '{file}': {e}"))
        })
    }

    fn unreadable(&self, e: Errno) -> QgaError {
        let (file, text) = (&self.file, errno::text(e));
        let what = if e == Errno::ISDIR { "Error reading file" } else { "Failed to open file" };
        QgaError::generic(format!("failed to read '{file}': {what} “{file}”: {text}"))
    }
}

fn open_directory_in(home: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(home, DIRECTORY, flags, Mode::empty()) {
        Err(Errno::NOTDIR) if is_link(home, DIRECTORY) => Err(Errno::LOOP),
        result => result,
    }
}

fn is_link(directory: &OwnedFd, name: &str) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink())
}

/// Never waits, whatever it is that has this name.
fn open_file(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    openat(directory, FILE, flags | OFlags::CLOEXEC, Mode::empty())
}

fn read(file: OwnedFd) -> io::Result<Vec<u8>> {
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::INVAL),
    }
    let mut text = Vec::new();
    File::from(file)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    if text.len() as u64 > MAX_BYTES { Err(Errno::FBIG) } else { Ok(text) }
}

fn write_new(directory: &OwnedFd, text: &[u8]) -> io::Result<()> {
    // From an agent that was killed just then.
    let _ = unlinkat(directory, NEW_FILE, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = openat(directory, NEW_FILE, flags, mode)?;
    fchmod(&file, mode)?;
    let mut file = File::from(file);
    let written = file.write_all(text).and_then(|()| file.sync_all());
    written.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|&key| key.to_owned()).collect()
    }

    #[test]
    fn files_become_what_qemu_ga_makes_of_them() {
        let text = b"# c\n\n  ssh-rsa A  \nssh-rsa B\n";
        assert_eq!(keys_in(text), ["ssh-rsa B", "ssh-rsa A"]);
        let keys = strings(&["ssh-rsa B", "ssh-rsa C", "ssh-rsa C", "ssh-rsa A"]);
        let added = with(Some(text), &keys);
        assert_eq!(added, b"# c\n\n  ssh-rsa A  \nssh-rsa B\n\nssh-rsa C\nssh-rsa A");
        let removed = without(&added, &strings(&["ssh-rsa C", "  ssh-rsa A  "]));
        assert_eq!(removed, b"# c\n\nssh-rsa B\n\nssh-rsa A");
        assert_eq!(with(None, &strings(&["k1", "k2"])), b"k1\nk2");
        assert_eq!(with(Some(b""), &strings(&["k1"])), b"k1");
        assert_eq!(with(None, &[]), b"");
        assert_eq!(keys_in(b"a\xff\n"), ["a\u{fffd}"]);
    }

    #[test]
    fn what_is_no_line_of_keys_is_refused() {
        for key in ["# x", "#", "a\nb"] {
            let refused = check(&strings(&["ok", key])).unwrap_err().desc;
            assert_eq!(refused, format!("invalid OpenSSH public key: '{key}'"));
        }
        check(&strings(&["", " # x", "ssh-rsa A"])).unwrap();
    }

    proptest! {
        #[test]
        fn what_was_added_is_there_and_what_was_removed_is_not(
            text: Vec<u8>,
            key in "[a-z]{1,5}( [a-z]{1,5})?",
        ) {
            let keys = [key.clone()];
            let added = with(Some(&text), &keys);
            prop_assert!(keys_in(&added).contains(&key));
            let removed = without(&added, &keys);
            prop_assert!(removed.split(|&byte| byte == b'\n').all(|line| line != key.as_bytes()));
        }
    }
}
