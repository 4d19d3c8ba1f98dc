//! Files of a guest that a grant is about: those below certain directories.
//!
//! What lies where is for the guest's kernel to say: names alone know no links. So a path is compared
//! here only to tell a caller at once, and where a grant does without the kernel.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A directory (or file) of a guest, by its absolute path without `.`, `..` and doubled slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// What a grant allows of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRule {
    /// Below this.
    pub prefix: Prefix,
    /// Also where the guest's agent does not hold a path there.
    pub unenforced: bool,
}

impl Prefix {
    fn new(path: &str) -> Option<Self> {
        if path.contains('\0') {
            return None;
        }
        let mut normal = String::with_capacity(path.len());
        for part in components(path.as_bytes())? {
            normal.push('/');
            // Cut at slashes, text stays text.
            normal.push_str(std::str::from_utf8(part).ok()?);
        }
        Some(Self(if normal.is_empty() { "/".into() } else { normal }))
    }

    /// Whether `path` lies below by its name: component by component, and nothing with `..`.
    pub(crate) fn holds(&self, path: &[u8]) -> bool {
        let (Some(own), Some(path)) = (components(self.0.as_bytes()), components(path)) else {
            return false;
        };
        path.starts_with(&own)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The names on the way to `path`; `None` if it is not absolute, or goes up again.
fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let rest = path.strip_prefix(b"/")?;
    let parts = rest.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<_> = parts.collect();
    (!parts.contains(&&b".."[..])).then_some(parts)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        Self::new(&path).ok_or_else(|| {
            de::Error::custom(format_args!(
                "{path:?} is no absolute path without `..`, such as /var/log"
            ))
        })
    }
}

pub(super) fn prefixes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Prefix>>, D::Error> {
    let prefixes = Vec::deserialize(deserializer)?;
    if prefixes.is_empty() {
        return Err(de::Error::custom("names no directory; leave the key out for all files"));
    }
    Ok(Some(prefixes))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::{Component, Path};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    #[test]
    fn a_prefix_is_made_plain_and_holds_what_lies_below() {
        let log = Prefix::new("//var/./log/").unwrap();
        assert_eq!(log.as_str(), "/var/log");
        for inside in ["/var/log", "/var/log/", "/var//log/./syslog", "/var/log/a\\..\\b"] {
            assert!(log.holds(inside.as_bytes()), "{inside}");
        }
        assert!(log.holds(b"/var/log/\xff\xfe"));
        for outside in [
            "",
            "/",
            "var/log",
            "/var",
            "/var/logs",
            "/var/log/../x",
            "/var/log/..",
            "/var/log/../log",
            "/VAR/log",
            "/var\\log",
            "C:/var/log",
            "\\var\\log",
        ] {
            assert!(!log.holds(outside.as_bytes()), "{outside}");
        }
        assert!(Prefix::new("/").unwrap().holds(b"/etc/passwd"));
        for wrong in ["", "var", "/var/..", "/../var", "/a\0", "~"] {
            assert_eq!(Prefix::new(wrong), None, "{wrong:?}");
        }
    }

    /// Paths of few names, so that they meet often.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        let part: Vec<&[u8]> = vec![b"a", b"b", b"ab", b".", b"..", b"", b"...", b"\xff", b" "];
        (any::<bool>(), vec(select(part), 0..6)).prop_map(|(absolute, parts)| {
            let path = parts.join(&b"/"[..]);
            if absolute { [b"/", &*path].concat() } else { path }
        })
    }

    proptest! {
        /// Against the standard library's idea of a path.
        #[test]
        fn what_is_held_starts_with_the_prefix_and_never_goes_up(prefix in path(), path in path()) {
            let Some(known) = std::str::from_utf8(&prefix).ok().and_then(Prefix::new) else {
                return Ok(());
            };
            // Twice is as once, and nothing of it is lost.
            prop_assert_eq!(Prefix::new(known.as_str()), Some(known.clone()));
            prop_assert!(known.holds(known.as_str().as_bytes()));
            let model = Path::new(OsStr::from_bytes(&path));
            let up = model.components().any(|part| part == Component::ParentDir);
            let below = model.is_absolute() && !up && model.starts_with(known.as_str());
            prop_assert_eq!(known.holds(&path), below);
            // What lies below what is held is held, and what it is called matters to the byte.
            if below {
                prop_assert!(known.holds(&[&*path, b"/more"].concat()));
                prop_assert!(!known.holds(&[&*path, b"/.."].concat()));
            }
        }
    }
}
