//! The directory that holds all that the demo makes, and looking whether anything is left.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// What the images of the VM may grow to, with room to spare.
const NEEDED: u64 = 1 << 30;

/// Makes the directory, in the user's run-time directory if that has room for a VM's disks.
pub(crate) fn make() -> Result<TempDir> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| has_room(dir));
    let parent = runtime.unwrap_or_else(env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("qga-demo-")
        .tempdir_in(&parent)
        .with_context(|| format!("making a directory in {}", parent.display()))?;
    // Whatever else is temporary lies there too, and goes with it.
    drop(tempfile::env::override_temp_dir(dir.path()));
    Ok(dir)
}

fn has_room(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) >= NEEDED)
}

/// What still lies at `dir` or runs with its path on its command line.
pub(crate) fn leftovers(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    if dir.exists() {
        found.push(dir.display().to_string());
    }
    let path = dir.as_os_str().as_encoded_bytes();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command_line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command_line.windows(path.len()).any(|part| part == path) {
            let name = command_line.split(|b| *b == 0).next().unwrap_or_default();
            let pid = entry.file_name().to_string_lossy().into_owned();
            found.push(format!("process {pid}, {}", String::from_utf8_lossy(name)));
        }
    }
    found
}
