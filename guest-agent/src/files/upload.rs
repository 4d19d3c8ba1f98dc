//! A file that is written first and gets its name when it is whole.
//!
//! ```text
//!   begin ──▶ without a name ─────────commit────────▶ in its place
//!               │  (O_TMPFILE)        a name in between, if it replaces something
//!               └▶ .NAME.qga-TAG ────commit─────────▶ in its place
//!                  (where the filesystem knows no files without a name)
//! ```
//!
//! A name that it has in between is on record ([`Leftovers`]), so that it does not stay.

use std::ffi::CString;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use qga_proto::command::{Expected, FileStat};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, fstat, fsync, linkat, openat,
    renameat, renameat_with, unlinkat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::attributes::Attributes;
use super::failure::Failure;
use super::leftovers::Leftovers;
use super::place::{IS_DIRECTORY, Place, kind, path_of, proc_path};
use super::stat::{check, describe};
use super::writeback::Writeback;
use crate::policy::Policy;

/// Bytes of a file's name that its temporary one repeats; 255 is what filesystems take.
const MAX_REPEATED: usize = 200;
/// Who may have it while it is written.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file without its name, and the place where it will have one.
#[derive(Debug)]
pub(super) struct Upload {
    /// As the client called it.
    pub(super) path: PathBuf,
    place: Place,
    temporary: Option<Temporary>,
    /// It has its name, and so ends.
    pub(super) is_committed: bool,
    writeback: Writeback,
}

/// A name for the time until the right one can be given.
#[derive(Debug)]
struct Temporary {
    name: CString,
    tag: String,
}

impl Upload {
    /// Opens it. Also returns what it is going to replace.
    pub(super) fn begin(
        policy: &Policy,
        leftovers: &Leftovers,
        path: &Path,
    ) -> Result<(Self, OwnedFd, Option<Stat>), Failure> {
        let (place, old) = destination(policy, path)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let (file, temporary) = match openat(&place.dir, c".", flags | OFlags::TMPFILE, PRIVATE) {
            Ok(file) => (file, None),
            // What filesystems and kernels say that do not know it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let temporary = Temporary::new(&place, leftovers)?;
                match temporary.create(&place) {
                    Ok(file) => (file, Some(temporary)),
                    Err(errno) => {
                        leftovers.forget(&temporary.tag);
                        return Err(errno.into());
                    }
                }
            }
            Err(errno) => return Err(errno.into()),
        };
        let path = path.to_owned();
        let writeback = Writeback::default();
        Ok((Self { path, place, temporary, is_committed: false, writeback }, file, old))
    }

    /// Has `file` put on disk by a thread of its own. True once that is done.
    pub(super) fn sync(&self, file: &OwnedFd) -> Result<bool, Failure> {
        self.writeback.poll(|| {
            let file = fcntl_dupfd_cloexec(file, 0)?;
            Ok(move || fsync(&file))
        })
    }

    /// Puts `file` on disk and into its place. If this fails, it can be tried again, unless it is in
    /// place all the same.
    pub(super) fn commit(
        &mut self,
        file: &OwnedFd,
        attributes: Attributes,
        expected: &Expected,
        umask: Mode,
        leftovers: &Leftovers,
    ) -> Result<FileStat, Failure> {
        // The kernel tells of a failure once only.
        self.writeback.result()?;
        let old = self.old(expected)?;
        attributes.give(file, &self.place, old.as_ref(), umask)?;
        fsync(file)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(&self.place.dir, c".", flags, Mode::empty());
        // Once more, because the disk may have taken its time.
        let old = self.old(expected)?;
        self.publish(file, expected.absent, old.is_some(), leftovers)?;
        self.is_committed = true;
        // The name belongs to the directory, and the number of names to the file. A directory that
        // may not be read cannot be written to disk by itself.
        match fsync(file).and_then(|()| dir.map_or(Ok(()), fsync)) {
            // The filesystem does not do that.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => {
                let text = "it is in place, but its name could not be written to disk";
                return Err(Failure::new(errno, text));
            }
        }
        Ok(describe(&fstat(file)?, None))
    }

    /// Gives up.
    pub(super) fn discard(&self, leftovers: &Leftovers) {
        if let Some(temporary) = &self.temporary
            && !self.is_committed
        {
            temporary.remove(&self.place, leftovers);
        }
    }

    /// What it will replace, if that is as expected.
    fn old(&self, expected: &Expected) -> Result<Option<Stat>, Failure> {
        let old = self.place.look()?;
        check(expected, old.as_ref())?;
        replaceable(old.as_ref())?;
        Ok(old)
    }

    fn publish(
        &self,
        file: &OwnedFd,
        absent: bool,
        replaces: bool,
        leftovers: &Leftovers,
    ) -> Result<(), Failure> {
        let Place { dir, name, .. } = &self.place;
        if let Some(temporary) = &self.temporary {
            temporary.rename(&self.place, absent)?;
            leftovers.forget(&temporary.tag);
            return Ok(());
        }
        if absent || !replaces {
            match link(file, dir, name) {
                // Somebody was faster, and gives way like any other.
                Err(Errno::EXIST) if !absent => {}
                result => return Ok(result?),
            }
        }
        let temporary = Temporary::new(&self.place, leftovers)?;
        let result = link(file, dir, &temporary.name)
            .and_then(|()| renameat(dir, &temporary.name, dir, name));
        match result {
            Ok(()) => leftovers.forget(&temporary.tag),
            Err(_) => temporary.remove(&self.place, leftovers),
        }
        Ok(result?)
    }
}

impl Temporary {
    /// A name that is on record, and nothing more.
    fn new(place: &Place, leftovers: &Leftovers) -> Result<Self, Failure> {
        let tag = format!("{:016x}", RandomState::new().build_hasher().finish());
        let name = place.name.to_bytes();
        let mut length = name.len().min(MAX_REPEATED);
        // Not through the middle of a character.
        while length < name.len() && length > 0 && name[length] & 0xC0 == 0x80 {
            length -= 1;
        }
        let name = [b".", &name[..length], b".qga-", tag.as_bytes()].concat();
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let path = path_of(&place.dir)?.join(&*name.to_string_lossy());
        let unwritable = "the state directory cannot be written to";
        leftovers
            .note(&tag, &path)
            .map_err(|e| Failure::new(Errno::from_io_error(&e).unwrap_or(Errno::IO), unwritable))?;
        Ok(Self { name, tag })
    }

    fn create(&self, place: &Place) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(&place.dir, &self.name, flags, PRIVATE)
    }

    fn rename(&self, place: &Place, absent: bool) -> Result<(), Errno> {
        let Place { dir, name, .. } = place;
        if absent {
            rename_to_nothing(dir, &self.name, dir, name, false)
        } else {
            renameat(dir, &self.name, dir, name)
        }
    }

    fn remove(&self, place: &Place, leftovers: &Leftovers) {
        if matches!(unlinkat(&place.dir, &self.name, AtFlags::empty()), Ok(()) | Err(Errno::NOENT))
        {
            leftovers.forget(&self.tag);
        }
    }
}

/// Renames where nothing is. Not every filesystem has that (NFS has not); there, a file gets its
/// second name first, and a directory can only take the place of an empty one.
pub(super) fn rename_to_nothing(
    from: &OwnedFd,
    old: &CString,
    to: &OwnedFd,
    new: &CString,
    is_directory: bool,
) -> Result<(), Errno> {
    match renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) if is_directory => {
            match rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(_) => renameat(from, old, to, new),
            }
        }
        Err(Errno::INVAL | Errno::NOSYS) => {
            linkat(from, old, to, new, AtFlags::empty())?;
            unlinkat(from, old, AtFlags::empty())
        }
        result => result,
    }
}

/// Where a file called `path` is to be put, and what is there. A link is followed: what it leads to
/// is replaced, and the link stays.
fn destination(policy: &Policy, path: &Path) -> Result<(Place, Option<Stat>), Failure> {
    let mut place = Place::of(policy, path, true)?;
    if place.slash {
        return Err(IS_DIRECTORY);
    }
    let mut old = place.look()?;
    if old.as_ref().is_some_and(|old| kind(old) == FileType::Symlink) {
        if policy.file_paths().is_some() {
            return Err(policy.refusal().into());
        }
        place = place.behind_link()?;
        old = place.look()?;
    }
    replaceable(old.as_ref())?;
    Ok((place, old))
}

/// Whether a file may take its place.
fn replaceable(old: Option<&Stat>) -> Result<(), Failure> {
    match old.map(kind) {
        None | Some(FileType::RegularFile) => Ok(()),
        Some(FileType::Directory) => Err(IS_DIRECTORY),
        Some(_) => {
            let text = "it is no regular file, and is not replaced; write to it with \
                        guest-file-open or x-guest-file-open";
            Err(Failure::new(Errno::INVAL, text))
        }
    }
}

/// Gives a file without a name one.
fn link(file: &OwnedFd, dir: &OwnedFd, name: &CString) -> Result<(), Errno> {
    match linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
        // It takes CAP_DAC_READ_SEARCH, or a kernel since 6.10.
        Err(Errno::NOENT) => linkat(CWD, proc_path(file), dir, name, AtFlags::SYMLINK_FOLLOW),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{read, read_dir, write};

    /// An upload on a filesystem that knows no files without a name, with `text` in it.
    fn named(dir: &Path, path: &Path, text: &str) -> (Upload, OwnedFd, Leftovers) {
        let leftovers = Leftovers::new(&dir.join("state"));
        let (place, _) = destination(&Policy::default(), path).unwrap();
        let temporary = Temporary::new(&place, &leftovers).unwrap();
        let file = temporary.create(&place).unwrap();
        rustix::io::write(&file, text.as_bytes()).unwrap();
        let temporary = Some(temporary);
        let path = path.to_owned();
        let writeback = Writeback::default();
        (Upload { path, place, temporary, is_committed: false, writeback }, file, leftovers)
    }

    fn dirs() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["state", "files"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let file = dir.path().join("files/grün");
        (dir, file)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn commit(upload: &mut Upload, file: &OwnedFd, absent: bool, records: &Leftovers) -> String {
        let attributes = Attributes::read(&Default::default()).unwrap();
        let expected = Expected { absent, ..Expected::default() };
        let umask = Mode::from_raw_mode(0o022);
        match upload.commit(file, attributes, &expected, umask, records) {
            Ok(stat) => format!("{:o}", stat.mode),
            Err(failure) => crate::errno::name(failure.errno),
        }
    }

    #[test]
    fn a_temporary_name_gives_way_to_the_right_one() {
        let (dir, path) = dirs();
        let (mut upload, file, leftovers) = named(dir.path(), &path, "one");
        let seen = names(path.parent().unwrap());
        assert!(seen.len() == 1 && seen[0].starts_with(".grün.qga-"), "{seen:?}");
        assert_eq!(names(&dir.path().join("state")).len(), 1);
        assert_eq!(commit(&mut upload, &file, true, &leftovers), "644");
        assert_eq!(names(path.parent().unwrap()), ["grün"]);

        let (mut upload, file, leftovers) = named(dir.path(), &path, "two");
        assert_eq!(commit(&mut upload, &file, true, &leftovers), "EEXIST");
        assert_eq!(read(&path).unwrap(), b"one");
        assert_eq!(commit(&mut upload, &file, false, &leftovers), "644");
        assert_eq!(read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["grün"]);
        assert!(names(&dir.path().join("state")).is_empty());
    }

    #[test]
    fn nothing_is_left_of_one_that_is_given_up_or_whose_agent_was_killed() {
        let (dir, path) = dirs();
        let (upload, _, leftovers) = named(dir.path(), &path, "one");
        upload.discard(&leftovers);
        assert!(names(path.parent().unwrap()).is_empty());
        assert!(names(&dir.path().join("state")).is_empty());

        drop(named(dir.path(), &path, "two"));
        assert_eq!(names(path.parent().unwrap()).len(), 1);
        let innocent = dir.path().join("files/other");
        write(&innocent, "x").unwrap();
        let record = innocent.to_str().unwrap();
        write(dir.path().join("state/qga.upload.0123456789abcdef"), record).unwrap();
        let ended = leftovers.sweep().unwrap().recv();
        assert!(ended.is_err(), "nothing is sent");
        assert_eq!(names(path.parent().unwrap()), ["other"]);
        assert!(names(&dir.path().join("state")).is_empty());
        assert!(leftovers.sweep().is_none());
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let (dir, _) = dirs();
        let name = format!("x{}", "ü".repeat(127));
        let path = dir.path().join("files").join(&name);
        let (mut upload, file, leftovers) = named(dir.path(), &path, "one");
        assert_eq!(commit(&mut upload, &file, false, &leftovers), "644");
        assert_eq!(names(path.parent().unwrap()), [name]);
    }

    #[test]
    fn where_the_filesystem_cannot_be_told_that_nothing_is_to_be_there() {
        let (dir, path) = dirs();
        let place = |name: &str| {
            Place::of(&Policy::default(), &dir.path().join("files").join(name), false).unwrap()
        };
        write(&path, "x").unwrap();
        let (from, to) = (place("grün"), place("new"));
        let rename = || rename_to_nothing(&from.dir, &from.name, &to.dir, &to.name, false);
        rename().unwrap();
        assert_eq!(rename(), Err(Errno::NOENT));
        write(&path, "y").unwrap();
        assert_eq!(rename(), Err(Errno::EXIST));
    }
}
