//! The ids of leases.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A lease's id: `frz_` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(Arc<str>);

/// A text that is no [`LeaseId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a lease id (frz_ and 32 hexadecimal digits)")]
pub struct InvalidLeaseId;

impl LeaseId {
    /// A new id that nobody can guess.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("frz_{:032x}", u128::from_be_bytes(bytes)).into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeaseId {
    type Err = InvalidLeaseId;

    fn from_str(text: &str) -> Result<Self, InvalidLeaseId> {
        let digits = text.strip_prefix("frz_").ok_or(InvalidLeaseId)?;
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() == 32 && digits.bytes().all(hex) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidLeaseId)
        }
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_and_parse_back() {
        let id = LeaseId::random().expect("random");
        assert_eq!(id.as_str().parse::<LeaseId>(), Ok(id.clone()));
        assert_ne!(id, LeaseId::random().expect("random"));
        for bad in ["", "frz_", "frz_0", "frz_ZZ", &id.as_str().to_uppercase(), &format!("{id}0")] {
            assert!(bad.parse::<LeaseId>().is_err(), "{bad}");
        }
    }
}
