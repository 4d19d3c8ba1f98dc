//! What commands may reach: the `[policy]` group of the configuration.
//!
//! A path stays below one of the prefixes because the kernel holds it there (`openat2`): neither
//! `..` nor a symbolic link, even one made in between, leads out. The prefix itself is the
//! operator's, and links in it are followed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::{self, Errno};

/// How often a lookup is repeated that a rename elsewhere has disturbed.
const ATTEMPTS: usize = 16;

/// The rules. Those that are not set allow everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    files: Option<Vec<PathBuf>>,
    programs: Option<Vec<PathBuf>>,
}

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The rules forbid it.
    Forbidden,
    /// The kernel says no.
    Errno(Errno),
}

impl Policy {
    /// All paths are absolute and without `..`.
    pub(crate) fn new(files: Option<Vec<PathBuf>>, programs: Option<Vec<PathBuf>>) -> Self {
        Self { files, programs }
    }

    /// The prefixes that files must lie below.
    pub(crate) fn file_paths(&self) -> Option<&[PathBuf]> {
        self.files.as_deref()
    }

    /// The programs that may be run.
    pub(crate) fn exec_programs(&self) -> Option<&[PathBuf]> {
        self.programs.as_deref()
    }

    /// Whether a command may run this program: exactly one of those listed, by its absolute path.
    /// A name that would be looked for in `PATH` is none of them.
    pub(crate) fn may_exec(&self, program: &Path) -> bool {
        let listed = |programs: &[PathBuf]| {
            // As text: `Path` takes `/bin/./sh` for `/bin/sh`.
            programs.iter().any(|listed| listed.as_os_str() == program.as_os_str())
        };
        self.exec_programs().is_none_or(listed)
    }

    /// Opens a file for a command.
    pub(crate) fn open(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, OpenError> {
        match self.file_paths() {
            None => retrying(|| open(path, flags, mode)).map_err(OpenError::Errno),
            Some(prefixes) => {
                open_below(outermost(prefixes, path)?, path, flags, mode).map_err(outside)
            }
        }
    }

    /// Opens the directory `parent` of `path`, for a command that changes a name there. The name of
    /// a prefix is the operator's: what `replaces` a file's content may do so there too, but nothing
    /// else may be done to it. Otherwise a link in its place would lead out.
    pub(crate) fn open_parent(
        &self,
        parent: &Path,
        path: &Path,
        replaces: bool,
    ) -> Result<OwnedFd, OpenError> {
        let lookup = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let plain = |path: &Path| retrying(|| open(path, lookup, Mode::empty()));
        let Some(prefixes) = self.file_paths() else {
            return plain(parent).map_err(OpenError::Errno);
        };
        let prefix = outermost(prefixes, path)?;
        let result = match parent.strip_prefix(prefix) {
            Ok(rest) if rest.as_os_str().is_empty() => plain(prefix),
            Ok(_) => open_below(prefix, parent, lookup, Mode::empty()),
            Err(_) if replaces => plain(parent),
            Err(_) => return Err(OpenError::Forbidden),
        };
        result.map_err(outside)
    }
}

/// The prefix that `path` lies below. Of several the one that holds the others, since what lies
/// below that can be renamed, and another prefix with it.
fn outermost<'p>(prefixes: &'p [PathBuf], path: &Path) -> Result<&'p PathBuf, OpenError> {
    let below = |prefix: &&PathBuf| path.is_absolute() && path.starts_with(prefix);
    let found = prefixes.iter().filter(below).min_by_key(|prefix| prefix.components().count());
    found.ok_or(OpenError::Forbidden)
}

/// What the kernel says of a link, and of the way out.
fn outside(errno: Errno) -> OpenError {
    match errno {
        Errno::LOOP | Errno::XDEV => OpenError::Forbidden,
        errno => OpenError::Errno(errno),
    }
}

impl OpenError {
    /// What clients read of the first.
    pub(crate) const FORBIDDEN: &str = "the agent's policy does not allow this path";
}

/// Kernels before 5.6 have no such call, and then nothing is opened.
fn open_below(prefix: &Path, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    // `path` starts with `prefix`; if that is all, the prefix is a file, or wanted as such.
    let rest = path.strip_prefix(prefix).unwrap_or_else(|_| Path::new(""));
    let (root, rest) = match (rest.as_os_str().is_empty(), prefix.parent(), prefix.file_name()) {
        (true, Some(parent), Some(name)) if !flags.contains(OFlags::DIRECTORY) => {
            (parent, Path::new(name))
        }
        (true, _, _) => (prefix, Path::new(".")),
        (false, _, _) => (prefix, rest),
    };
    let lookup = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = retrying(|| rustix::fs::openat(CWD, root, lookup, Mode::empty()))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    // The kernel refuses a mode where nothing is created.
    let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
    retrying(|| openat2(&root, rest, flags, mode, resolve))
}

fn retrying(mut call: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let mut attempts = 0;
    loop {
        match call() {
            Err(Errno::INTR) => {}
            // From openat2: a rename elsewhere has disturbed the lookup.
            Err(Errno::AGAIN) if attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, write};
    use std::os::unix::fs::symlink;

    fn policy(files: &[&Path]) -> Policy {
        Policy::new(Some(files.iter().map(|path| path.to_path_buf()).collect()), None)
    }

    fn try_open(policy: &Policy, path: &Path) -> Result<(), OpenError> {
        policy.open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop)
    }

    #[test]
    fn only_what_lies_below_a_prefix_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (inside, outside) = (dir.join("in"), dir.join("out"));
        create_dir(&inside).unwrap();
        create_dir(&outside).unwrap();
        create_dir(dir.join("in-other")).unwrap();
        for file in [inside.join("f"), outside.join("f"), dir.join("in-other/f")] {
            write(file, "x").unwrap();
        }
        symlink(&outside, inside.join("link")).unwrap();
        symlink("f", inside.join("near")).unwrap();
        symlink("../out/f", inside.join("far")).unwrap();
        let policy = policy(&[&inside, &outside.join("f")]);
        try_open(&policy, &inside.join("f")).unwrap();
        try_open(&policy, &inside).unwrap();
        try_open(&policy, &inside.join("./f")).unwrap();
        // A prefix may be one file.
        try_open(&policy, &outside.join("f")).unwrap();
        let new = inside.join("new");
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        policy.open(&new, create, Mode::from_raw_mode(0o600)).unwrap();
        let missing = try_open(&policy, &inside.join("none"));
        assert_eq!(missing, Err(OpenError::Errno(Errno::NOENT)));
        for forbidden in ["link/f", "near", "far", "../out/f", "../in/f"] {
            let result = try_open(&policy, &inside.join(forbidden));
            assert_eq!(result, Err(OpenError::Forbidden), "{forbidden}");
        }
        for forbidden in [&dir.join("in-other/f"), &outside, Path::new("f"), Path::new("/")] {
            let result = try_open(&policy, forbidden);
            assert_eq!(result, Err(OpenError::Forbidden), "{}", forbidden.display());
        }
    }

    #[test]
    fn without_rules_everything_is_allowed_and_an_empty_list_allows_nothing() {
        let all = Policy::default();
        try_open(&all, Path::new("/etc/passwd")).unwrap();
        assert!(all.may_exec(Path::new("sh")));
        let none = Policy::new(Some(Vec::new()), Some(Vec::new()));
        assert_eq!(try_open(&none, Path::new("/etc/passwd")), Err(OpenError::Forbidden));
        assert!(!none.may_exec(Path::new("/bin/sh")));
    }

    #[test]
    fn the_root_is_a_prefix_too() {
        try_open(&policy(&[Path::new("/")]), Path::new("/")).unwrap();
    }

    #[test]
    fn programs_are_named_exactly() {
        let policy = Policy::new(None, Some(vec!["/bin/sh".into()]));
        assert!(policy.may_exec(Path::new("/bin/sh")));
        for other in ["sh", "/bin/sh/", "/bin/./sh", "/bin/../bin/sh", "/bin", "/bin/shx"] {
            assert!(!policy.may_exec(Path::new(other)), "{other}");
        }
    }
}
