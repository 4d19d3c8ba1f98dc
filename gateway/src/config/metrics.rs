//! What the figures for Prometheus hold besides what the gateway knows anyhow.

use std::time::Duration;

use serde::Deserialize;

use super::fields;

/// The table `[metrics]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// How often each guest is asked for its filesystems and its load; 0 for never.
    #[serde(rename = "refresh_seconds", deserialize_with = "fields::seconds_or_none")]
    pub refresh: Duration,
}
