//! Times as the API writes them.

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// RFC 3339 in UTC with milliseconds: `2026-11-22T09:15:04.250Z`.
#[derive(Clone, Copy, Debug, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-22T09:15:04.250Z")]
pub(crate) struct Timestamp(SystemTime);

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Outside the years -9999 to 9999 the host's clock is broken, and the epoch says so.
        let time = jiff::Timestamp::try_from(self.0).unwrap_or_default();
        serializer.collect_str(&format_args!("{time:.3}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn writes_rfc_3339_in_utc_with_milliseconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_250_999);
        assert_eq!(
            serde_json::to_string(&Timestamp(time)).unwrap(),
            "\"2023-11-14T22:13:20.250Z\""
        );
        assert_eq!(
            serde_json::to_string(&Timestamp(SystemTime::UNIX_EPOCH)).unwrap(),
            "\"1970-01-01T00:00:00.000Z\""
        );
    }
}
