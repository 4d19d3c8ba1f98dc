//! Who asks: the name that leases, rights and audit hang on.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An authenticated caller, such as `unix:uid=0` or `token:default`.
///
/// Built where a request is authenticated; everything below only compares and shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// A principal of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The peer of a Unix socket, known by its user id.
    pub fn unix(uid: u32) -> Self {
        Self(format!("unix:uid={uid}").into())
    }

    /// A group of such peers, known by its id; grants may name it.
    pub fn unix_group(gid: u32) -> Self {
        Self(format!("unix:gid={gid}").into())
    }

    /// Whoever has the token of the gateway's token file.
    pub fn token_file() -> Self {
        Self("token:default".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Principal {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
