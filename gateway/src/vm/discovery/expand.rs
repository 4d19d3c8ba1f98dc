//! A pattern to the sockets that match it, and to the directories whose changes matter to it.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// What a pattern comes to at the moment.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) sockets: Vec<PathBuf>,
    pub(super) directories: Vec<PathBuf>,
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
        if below.is_dir() {
            return walk(&below, rest, expansion);
        }
    }
    // Here the pattern first meets what may come and go.
    expansion.directories.push(directory.into());
    for path in matching(directory, first, literal) {
        if !rest.is_empty() {
            if path.is_dir() {
                walk(&path, rest, expansion);
            }
        } else if fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
            expansion.sockets.push(path);
        }
    }
}

fn matching(directory: &Path, component: &str, literal: bool) -> Vec<PathBuf> {
    if literal {
        return vec![directory.join(component)];
    }
    // It was checked as part of the whole pattern.
    let Ok(pattern) = Pattern::new(component) else { return Vec::new() };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| pattern.matches_with(name, OPTIONS))
        })
        .map(|entry| entry.path())
        .collect()
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
}
