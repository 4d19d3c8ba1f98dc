//! `[cors]` in the configuration.

use serde::{Deserialize, Deserializer, de};

/// Which pages of other hosts a browser may let talk to the gateway; none unless told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Their origins, like `https://dashboard.example`; none of them by a pattern.
    #[serde(deserialize_with = "origins")]
    pub origins: Vec<String>,
    /// Whether a browser may prove who its user is by a TLS certificate there. Tokens need no such
    /// leave: a page that sends one knows it.
    pub credentials: bool,
}

fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let origins = Vec::<String>::deserialize(deserializer)?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._[]:".contains(&b);
    let is_origin = |text: &str| {
        let host = ["https://", "http://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
        host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain))
    };
    match origins.iter().find(|origin| !is_origin(origin)) {
        Some(wrong) => Err(de::Error::custom(format_args!(
            "`{wrong}` is no origin as browsers send it, such as https://dashboard.example"
        ))),
        None => Ok(origins),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        let parse = |origin: &str| {
            toml::from_str::<CorsConfig>(&format!("origins = [{origin:?}]")).map(drop)
        };
        for good in ["https://a.example", "http://localhost:5173", "https://[::1]:80"] {
            parse(good).unwrap();
        }
        for bad in ["*", "null", "a.example", "https://", "https://a/", "https://A", "https://*.a"]
        {
            assert!(parse(bad).unwrap_err().to_string().contains("is no origin"), "{bad}");
        }
    }
}
