//! `[audit]` in the configuration.

use std::path::PathBuf;

use serde::Deserialize;

/// Where records go, and which.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// A file that records are added to, made with mode 0640; opened anew on SIGHUP.
    #[serde(deserialize_with = "crate::config::absolute_or_none")]
    pub file: Option<PathBuf>,
    /// To the journal, as `SYSLOG_IDENTIFIER=qga-gateway-audit`.
    pub journal: bool,
    /// Requests that only read are on record too.
    pub reads: bool,
    /// What would change something is refused while records cannot be written.
    pub required: bool,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { file: None, journal: false, reads: true, required: false }
    }
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    File(PathBuf),
    Journal,
}

impl AuditConfig {
    pub(super) fn target(&self) -> Option<Target> {
        match &self.file {
            Some(file) => Some(Target::File(file.clone())),
            None => self.journal.then_some(Target::Journal),
        }
    }

    /// What makes no sense, with its key.
    pub(crate) fn contradiction(&self) -> Option<(String, String)> {
        let (key, cause) = match (&self.file, self.journal, self.required) {
            (Some(_), true, _) => ("journal", "is not possible next to audit.file"),
            (None, false, true) => ("required", "needs audit.file or audit.journal"),
            _ => return None,
        };
        Some((format!("audit.{key}"), cause.into()))
    }
}
