//! The name of a VM, as it stands in URLs, leases and logs.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A VM's id: 1 to 128 of `A-Z a-z 0-9 . _ : @ -`, and neither `.` nor `..`.
///
/// The alphabet needs no escaping in a URL's path segment, a log line or a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(Arc<str>);

/// A text that is no [`VmId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a VM id (1 to 128 of A-Z a-z 0-9 . _ : @ -, and not `.` or `..`)")]
pub struct InvalidVmId;

impl VmId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmId {
    type Err = InvalidVmId;

    fn from_str(text: &str) -> Result<Self, InvalidVmId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:@-".contains(&b);
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(allowed);
        if fits && text != "." && text != ".." { Ok(Self(text.into())) } else { Err(InvalidVmId) }
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for VmId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for VmId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for VmId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VmId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|e| serde::de::Error::custom(format_args!("`{text}` is {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_alphabet_and_nothing_else() {
        for good in ["a", "100", "web-1.example:0@x_y", "...", &"x".repeat(128)] {
            assert_eq!(good.parse::<VmId>().expect(good).as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\n", "%41", &"x".repeat(129)] {
            assert_eq!(bad.parse::<VmId>(), Err(InvalidVmId), "{bad:?}");
        }
    }
}
