//! The guest's serial console, which QEMU writes to a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::until;

/// Lines shown of a console when something went wrong.
const TAIL_LINES: usize = 25;

/// A console log that grows.
#[derive(Clone, Debug)]
pub struct Console {
    path: PathBuf,
}

impl Console {
    /// The console that QEMU writes to `path`; the file need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All that the guest has written so far, with control characters as they came.
    pub fn text(&self) -> String {
        fs::read(&self.path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The last lines, for error messages.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Waits until the log contains `text`.
    ///
    /// # Errors
    /// It does not within `bound`; the message ends with the log's last lines.
    pub fn wait_for(&self, text: &str, bound: Duration) -> Result<()> {
        until(format_args!("{text:?} on the console"), bound, || {
            Ok(self.text().contains(text).then_some(()))
        })
        .with_context(|| format!("console ends with:\n{}", self.tail()))
    }
}
