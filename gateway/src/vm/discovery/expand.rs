//! A pattern to the sockets that match it, and to the directories whose changes matter to it.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// What a pattern comes to at the moment.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) sockets: Vec<PathBuf>,
    pub(super) directories: Vec<PathBuf>,
    /// Directories that could not be looked into, and why: what is below them is not known.
    pub(super) unknown: Vec<(PathBuf, io::Error)>,
}

/// As a shell expands: `*` does not match a leading dot.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Walks the pattern component by component. Sockets are not followed if they are links.
pub(super) fn expand(pattern: &Pattern) -> Expansion {
    let mut expansion = Expansion::default();
    let components: Vec<&str> =
        pattern.as_str().split('/').filter(|part| !part.is_empty()).collect();
    walk(Path::new("/"), &components, &mut expansion);
    expansion.sockets.sort();
    expansion
}

fn walk(directory: &Path, components: &[&str], expansion: &mut Expansion) {
    let Some((first, rest)) = components.split_first() else { return };
    let literal = !first.contains(['*', '?', '[']);
    if literal && !rest.is_empty() {
        let below = directory.join(first);
        if expansion.is_directory(&below) {
            return walk(&below, rest, expansion);
        }
    }
    // Here the pattern first meets what may come and go.
    expansion.directories.push(directory.into());
    let found = match matching(directory, first, literal) {
        Ok(found) => found,
        Err(error) => return expansion.note(directory, error),
    };
    for path in found {
        if !rest.is_empty() {
            if expansion.is_directory(&path) {
                walk(&path, rest, expansion);
            }
            continue;
        }
        match fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => expansion.sockets.push(path),
            Ok(_) => {}
            Err(error) => expansion.note(&path, error),
        }
    }
}

impl Expansion {
    fn is_directory(&mut self, path: &Path) -> bool {
        match fs::metadata(path) {
            Ok(found) => found.is_dir(),
            Err(error) => {
                self.note(path, error);
                false
            }
        }
    }

    /// What is not there is known not to be there; any other error leaves that open.
    fn note(&mut self, path: &Path, error: io::Error) {
        if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            self.unknown.push((path.into(), error));
        }
    }
}

fn matching(directory: &Path, component: &str, literal: bool) -> io::Result<Vec<PathBuf>> {
    if literal {
        return Ok(vec![directory.join(component)]);
    }
    // It was checked as part of the whole pattern.
    let Ok(pattern) = Pattern::new(component) else { return Ok(Vec::new()) };
    let matches = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| pattern.matches_with(name, OPTIONS))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if matches(&entry) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn finds_sockets_and_names_the_directories_to_watch() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        for name in ["a", "b", ".hidden"] {
            fs::create_dir(root.join(name)).expect("mkdir");
            UnixListener::bind(root.join(name).join("qga.sock")).expect("bind");
        }
        fs::create_dir(root.join("empty")).expect("mkdir");
        fs::write(root.join("file"), "").expect("write");
        std::os::unix::fs::symlink(root.join("a/qga.sock"), root.join("link")).expect("symlink");

        let pattern = |tail: &str| Pattern::new(&format!("{}/{tail}", root.display())).expect(tail);
        let found = expand(&pattern("*/qga.sock"));
        assert_eq!(found.sockets, [root.join("a/qga.sock"), root.join("b/qga.sock")]);
        let mut watched = found.directories;
        watched.sort();
        assert_eq!(watched, [root.into(), root.join("a"), root.join("b"), root.join("empty")]);

        let found = expand(&pattern("*"));
        assert!(found.sockets.is_empty(), "neither files nor links: {found:?}");

        let found = expand(&pattern("not/yet/*.sock"));
        assert_eq!(found.directories, [root.to_path_buf()], "the nearest that exists");
    }

    #[test]
    fn what_is_gone_is_known_and_what_cannot_be_read_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        std::os::unix::fs::symlink("loop", root.join("loop")).expect("symlink");
        let pattern = |tail: &str| Pattern::new(&format!("{}/{tail}", root.display())).expect(tail);
        assert!(expand(&pattern("none/*.sock")).unknown.is_empty());
        let unknown = expand(&pattern("*/qga.sock")).unknown;
        let [(path, _)] = unknown.as_slice() else { panic!("{unknown:?}") };
        assert_eq!(path, &root.join("loop"));
    }
}
