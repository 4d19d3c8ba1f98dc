//! What the gateway tells of itself, and to whom.

use axum::http::Uri;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

/// The table `[telemetry]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Which log lines are written, as `RUST_LOG` has it, which goes first; `info` unless told.
    #[serde(deserialize_with = "filter")]
    pub log: Option<String>,
    /// Where traces are sent, as OTLP over HTTP; nowhere unless told.
    #[serde(deserialize_with = "endpoint")]
    pub otlp_endpoint: Option<Uri>,
}

fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match EnvFilter::try_new(&text) {
        Ok(_) if !text.trim().is_empty() => Ok(Some(text)),
        Ok(_) => Err(D::Error::custom("is empty; \"off\" writes nothing")),
        Err(error) => Err(D::Error::custom(format_args!("`{text}`: {error}"))),
    }
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Uri>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let uri = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|h| !h.is_empty()));
    let plain = uri.filter(|uri| {
        uri.scheme_str() == Some("http")
            && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
    });
    plain.map(Some).ok_or_else(|| {
        D::Error::custom(format_args!(
            "`{text}` is no address such as http://127.0.0.1:4318/v1/traces; where TLS is needed, \
             send to a collector on this host, and let that send on"
        ))
    })
}
