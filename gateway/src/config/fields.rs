//! Single values of the config file that are more than what TOML knows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::vm::VmId;

/// How a discovered socket's path gives its VM's id: text with `{name}` (the file's name),
/// `{stem}` (the name up to its last dot) and `{dir}` (the name of the directory it lies in).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Stem,
    Dir,
}

impl Default for IdTemplate {
    fn default() -> Self {
        Self(vec![Piece::Stem])
    }
}

impl IdTemplate {
    /// The id of the VM behind `socket`, if that makes one.
    pub fn apply(&self, socket: &Path) -> Option<VmId> {
        let mut id = String::new();
        for piece in &self.0 {
            let part = match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Name => socket.file_name().and_then(|name| name.to_str()),
                Piece::Stem => socket.file_stem().and_then(|stem| stem.to_str()),
                Piece::Dir => {
                    socket.parent().and_then(Path::file_name).and_then(|dir| dir.to_str())
                }
            };
            id.push_str(part?);
        }
        id.parse().ok()
    }
}

impl FromStr for IdTemplate {
    type Err = String;

    fn from_str(mut text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        while let Some((before, rest)) = text.split_once('{') {
            let (name, after) = rest.split_once('}').ok_or("a `{` without its `}`")?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(match name {
                "name" => Piece::Name,
                "stem" => Piece::Stem,
                "dir" => Piece::Dir,
                other => {
                    return Err(format!("`{{{other}}}` is none of {{name}}, {{stem}}, {{dir}}"));
                }
            });
            text = after;
        }
        if pieces.is_empty() {
            return Err("without {name}, {stem} or {dir} all VMs would have one id".into());
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Ok(Self(pieces))
    }
}

impl<'de> Deserialize<'de> for IdTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A number of seconds, fractions allowed, more than nothing and at most a year.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number of seconds")]
    enum Number {
        Whole(i64),
        Fraction(f64),
    }
    const YEAR: Duration = Duration::from_secs(366 * 86_400);
    let duration = match Number::deserialize(deserializer)? {
        Number::Whole(n) => u64::try_from(n).ok().map(Duration::from_secs),
        Number::Fraction(n) => Duration::try_from_secs_f64(n).ok(),
    };
    duration
        .filter(|d| !d.is_zero() && *d <= YEAR)
        .ok_or_else(|| D::Error::custom("must be more than 0 and at most a year of seconds"))
}

/// A loopback address.
pub(super) fn loopback<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let address: SocketAddr = text.parse().map_err(|_| {
        D::Error::custom(format_args!("`{text}` is no address such as 127.0.0.1:8470"))
    })?;
    if !address.ip().is_loopback() {
        return Err(D::Error::custom(format_args!(
            "{address} is not a loopback address; others are refused until the gateway has TLS and rights"
        )));
    }
    Ok(Some(address))
}

/// An absolute path.
pub(super) fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() && path.file_name().is_some() {
        Ok(path)
    } else {
        Err(D::Error::custom(format_args!("`{}` is not an absolute path", path.display())))
    }
}

/// An absolute pattern. `**` is refused: how many directories it watches has no bound.
pub(super) fn pattern<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<glob::Pattern, D::Error> {
    let text = String::deserialize(deserializer)?;
    let problem = if !text.starts_with('/') || text.ends_with('/') {
        "is not an absolute path of files"
    } else if text.contains("**") {
        "has a `**`; name the directories"
    } else if text.split('/').any(|part| part == "." || part == "..") {
        "has a `.` or `..` in it"
    } else {
        return glob::Pattern::new(&text)
            .map_err(|e| D::Error::custom(format_args!("`{text}`: {}", e.msg)));
    };
    Err(D::Error::custom(format_args!("`{text}` {problem}")))
}

/// A key as the beginning of a message.
pub(super) fn prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}
