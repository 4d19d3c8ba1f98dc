//! Single values of the config file that are more than what TOML knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A number of seconds, fractions allowed, more than nothing and at most a year.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    number_of_seconds(deserializer, false)
}

fn number_of_seconds<'de, D: Deserializer<'de>>(
    deserializer: D,
    zero: bool,
) -> Result<Duration, D::Error> {
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
    duration.filter(|d| (zero || !d.is_zero()) && *d <= YEAR).ok_or_else(|| match zero {
        true => D::Error::custom("must be 0 or more and at most a year of seconds"),
        false => D::Error::custom("must be more than 0 and at most a year of seconds"),
    })
}

/// A number of seconds as for [`seconds`], or 0.
pub(super) fn seconds_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    number_of_seconds(deserializer, true)
}

/// An address with a port.
pub(super) fn address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(format_args!("`{text}` is no address such as 127.0.0.1:8470"))
    })
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

/// An absolute path, where there may be none.
pub(crate) fn absolute_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    absolute(deserializer).map(Some)
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
