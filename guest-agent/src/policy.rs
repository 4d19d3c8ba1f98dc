//! What commands may reach: the `[policy]` group of the configuration, and what a request says of
//! itself (`beneath`).
//!
//! A path stays below one of the prefixes because the kernel holds it there (`openat2`): neither
//! `..` nor a symbolic link, even one made in between, leads out. A prefix of the configuration is
//! the operator's, and links in it are followed. One of a request is not: whoever may write above
//! it could put a link in its place.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::{self, Errno};

/// How often a lookup is repeated that a rename elsewhere has disturbed.
const ATTEMPTS: usize = 16;

/// The rules. Those that are not set allow everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    files: Option<Vec<PathBuf>>,
    programs: Option<Vec<PathBuf>>,
    /// The prefixes are a request's too: no link is followed anywhere, and no `..`.
    narrowed: bool,
}

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The rules forbid it.
    Forbidden,
    /// The request itself does.
    Outside,
    /// The kernel says no.
    Errno(Errno),
}

impl Policy {
    /// All paths are absolute and without `..`.
    pub(crate) fn new(files: Option<Vec<PathBuf>>, programs: Option<Vec<PathBuf>>) -> Self {
        Self { files, programs, narrowed: false }
    }

    /// These rules for a request that is to stay beneath `prefixes` besides.
    pub(crate) fn narrowed_to(&self, prefixes: &[PathBuf]) -> Self {
        let both = |own: &PathBuf| {
            let inner = |prefix: &PathBuf| {
                let deeper = prefix.starts_with(own).then_some(prefix);
                deeper.or_else(|| own.starts_with(prefix).then_some(own)).cloned()
            };
            prefixes.iter().filter_map(inner).collect::<Vec<_>>()
        };
        let files = match &self.files {
            None => prefixes.to_vec(),
            Some(own) => own.iter().flat_map(both).collect(),
        };
        Self { files: Some(files), programs: None, narrowed: true }
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
                let prefix = self.outermost(prefixes, path)?;
                self.open_below(prefix, path, flags, mode).map_err(|errno| self.outside(errno))
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
        let Some(prefixes) = self.file_paths() else {
            return retrying(|| open(parent, lookup, Mode::empty())).map_err(OpenError::Errno);
        };
        let prefix = self.outermost(prefixes, path)?;
        let result = match parent.strip_prefix(prefix) {
            Ok(rest) if rest.as_os_str().is_empty() => self.open_root(prefix),
            Ok(_) => self.open_below(prefix, parent, lookup, Mode::empty()),
            Err(_) if replaces => self.open_root(parent),
            Err(_) => return Err(self.refusal()),
        };
        result.map_err(|errno| self.outside(errno))
    }

    /// What is said of a path that the rules do not allow.
    pub(crate) fn refusal(&self) -> OpenError {
        if self.narrowed { OpenError::Outside } else { OpenError::Forbidden }
    }

    /// The prefix that `path` lies below. Of several the one that holds the others, since what lies
    /// below that can be renamed, and another prefix with it.
    fn outermost<'p>(
        &self,
        prefixes: &'p [PathBuf],
        path: &Path,
    ) -> Result<&'p PathBuf, OpenError> {
        // Of two prefixes of which one is the operator's and one a request's, the path must lie
        // below both, and with `..` the names alone do not tell.
        let plain = !self.narrowed || !path.components().any(|part| part == Component::ParentDir);
        let below = |prefix: &&PathBuf| plain && path.is_absolute() && path.starts_with(prefix);
        let found = prefixes.iter().filter(below).min_by_key(|prefix| prefix.components().count());
        found.ok_or_else(|| self.refusal())
    }

    /// What the kernel says of a link, and of the way out.
    fn outside(&self, errno: Errno) -> OpenError {
        match errno {
            Errno::LOOP | Errno::XDEV => self.refusal(),
            errno => OpenError::Errno(errno),
        }
    }

    /// Kernels before 5.6 have no such call, and then nothing is opened.
    fn open_below(
        &self,
        prefix: &Path,
        path: &Path,
        flags: OFlags,
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        // `path` starts with `prefix`; if that is all, the prefix is a file, or wanted as such.
        let rest = path.strip_prefix(prefix).unwrap_or_else(|_| Path::new(""));
        let (root, rest) = match (rest.as_os_str().is_empty(), prefix.parent(), prefix.file_name())
        {
            (true, Some(parent), Some(name)) if !flags.contains(OFlags::DIRECTORY) => {
                (parent, Path::new(name))
            }
            (true, _, _) => (prefix, Path::new(".")),
            (false, _, _) => (prefix, rest),
        };
        let root = self.open_root(root)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // The kernel refuses a mode where nothing is created.
        let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
        retrying(|| openat2(&root, rest, flags, mode, resolve))
    }

    /// Opens the directory that others are looked up in.
    fn open_root(&self, path: &Path) -> io::Result<OwnedFd> {
        let lookup = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.narrowed {
            let resolve = ResolveFlags::NO_SYMLINKS;
            return retrying(|| openat2(CWD, path, lookup, Mode::empty(), resolve));
        }
        retrying(|| open(path, lookup, Mode::empty()))
    }
}

impl OpenError {
    /// What clients read of the first.
    pub(crate) const FORBIDDEN: &str = "the agent's policy does not allow this path";
    /// And of the second.
    pub(crate) const OUTSIDE: &str = "it does not lie beneath what the request allows, or links or \
                                      '..' lead there, which are not followed";
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
    fn a_request_narrows_the_rules_and_follows_no_link_of_the_operators() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for name in ["a", "a/b", "a/b/c", "a/d", "e"] {
            create_dir(dir.join(name)).unwrap();
            write(dir.join(name).join("f"), "x").unwrap();
        }
        symlink("a", dir.join("link")).unwrap();
        let at = |name: &str| dir.join(name);
        let rules = policy(&[&at("a/b"), &at("link")]).narrowed_to(&[at("a"), at("e"), at("link")]);
        try_open(&rules, &at("a/b/f")).unwrap();
        try_open(&rules, &at("a/b/c/f")).unwrap();
        // Not the operator's, not the request's, behind a link in a prefix, and up again.
        for name in ["a/d/f", "e/f", "link/f", "link", "a/b/../d/f", "a/b/c/../f", "f"] {
            assert_eq!(try_open(&rules, &at(name)), Err(OpenError::Outside), "{name}");
        }
        let rules = Policy::default().narrowed_to(&[at("a/b"), at("link/d")]);
        try_open(&rules, &at("a/b/c/f")).unwrap();
        for name in ["a/f", "link/d/f", "a/b/../b/f"] {
            assert_eq!(try_open(&rules, &at(name)), Err(OpenError::Outside), "{name}");
        }
        let root = Policy::default().narrowed_to(&["/".into()]);
        try_open(&root, &at("e/f")).unwrap();
        assert_eq!(try_open(&root, &at("link/f")), Err(OpenError::Outside));
        let magic = format!("/proc/self/cwd{}", at("e/f").display());
        assert_eq!(try_open(&root, Path::new(&magic)), Err(OpenError::Outside));
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
