//! What an operator can set about freezes.

use std::path::PathBuf;
use std::time::Duration;

/// Where `-F` without a path finds the hook.
pub(crate) const DEFAULT_HOOK: &str = "/etc/qemu/fsfreeze-hook";

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FreezeSettings {
    /// Run as `HOOK freeze` before and `HOOK thaw` after.
    pub(crate) hook: Option<PathBuf>,
    /// How long one run of the hook may take.
    pub(crate) hook_timeout: Duration,
    /// How long a freeze without a deadline of its own lasts at most; `None`: for ever.
    pub(crate) deadline: Option<Duration>,
}

impl Default for FreezeSettings {
    fn default() -> Self {
        Self {
            hook: None,
            hook_timeout: Duration::from_secs(300),
            deadline: Some(Duration::from_secs(600)),
        }
    }
}
