//! A lease as it lies on disk: JSON with a version, which a person can read in an emergency.

use serde::{Deserialize, Serialize};

use super::Lease;

/// Raised when a lease can no longer be read by an older gateway. What is only added has a default
/// instead.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    lease: &'a Lease,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
struct Read {
    lease: Lease,
}

/// Why a record is no lease.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    #[error("version {0}, and this gateway knows those up to {VERSION}: run the later release")]
    Newer(u32),
    #[error("it has no VM")]
    Empty,
}

/// The record of a lease.
pub(crate) fn write(lease: &Lease) -> Vec<u8> {
    // Strings, numbers and lists: their serialization cannot fail.
    serde_json::to_vec(&Written { version: VERSION, lease }).unwrap_or_default()
}

/// The lease of a record.
pub(crate) fn read(record: &[u8]) -> Result<Lease, RecordError> {
    let Head { version } = serde_json::from_slice(record)?;
    if version > VERSION {
        return Err(RecordError::Newer(version));
    }
    let Read { lease } = serde_json::from_slice(record)?;
    if lease.members.is_empty() { Err(RecordError::Empty) } else { Ok(lease) }
}

/// Times on the wall, in milliseconds since 1970.
pub(super) mod wall {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    fn millis(time: &SystemTime) -> u64 {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn time<E: serde::de::Error>(millis: u64) -> Result<SystemTime, E> {
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        time.ok_or_else(|| E::custom("no point in time"))
    }

    pub(in super::super) fn serialize<S: Serializer>(
        at: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        millis(at).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        time(u64::deserialize(deserializer)?)
    }

    pub(in super::super) mod option {
        use super::{Deserializer, Serializer, SystemTime, millis, time};
        use serde::{Deserialize as _, Serialize as _};

        #[expect(clippy::ref_option, reason = "serde calls it so")]
        pub(in super::super::super) fn serialize<S: Serializer>(
            at: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            at.as_ref().map(millis).serialize(serializer)
        }

        pub(in super::super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            Option::<u64>::deserialize(deserializer)?.map(time).transpose()
        }
    }
}
