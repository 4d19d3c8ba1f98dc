//! What becomes of a VM that somebody else has frozen.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// What becomes of a VM that is frozen and has no lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalFreeze {
    /// It is reported.
    #[default]
    Report,
    /// It is reported, and thawed if it stays so for this long.
    ThawAfter(Duration),
}

impl ExternalFreeze {
    /// After how long it is thawed, if at all.
    pub fn thaw_after(self) -> Option<Duration> {
        match self {
            Self::Report => None,
            Self::ThawAfter(after) => Some(after),
        }
    }
}

impl<'de> Deserialize<'de> for ExternalFreeze {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const YEAR: Duration = Duration::from_secs(366 * 86_400);
        let text = String::deserialize(deserializer)?;
        if text == "report" {
            return Ok(Self::Report);
        }
        let seconds = text.strip_prefix("thaw-after=").and_then(|seconds| seconds.parse().ok());
        let after = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let after = after.filter(|after| !after.is_zero() && *after <= YEAR);
        after.map(Self::ThawAfter).ok_or_else(|| {
            D::Error::custom(format_args!(
                "`{text}` is neither \"report\" nor \"thaw-after=SECONDS\", of more than 0 seconds \
                 and at most a year"
            ))
        })
    }
}
