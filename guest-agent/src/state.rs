//! `qga.state`: the number of the next file handle, kept over restarts so that none is used twice.
//!
//! A GLib key file, as qemu-ga writes it: `[global]` and `fd_counter=N`. A missing key or a bad
//! value counts as 1000. Every access may block on a disk: it belongs to the start of the agent or
//! to the file worker, never to the poll thread.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The number of the first handle of all.
const FIRST_HANDLE: i64 = 1000;

/// The state file and what it says.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    loaded: Option<i64>,
}

impl State {
    /// The state in `dir`. Nothing is read yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join("qga.state"), loaded: None }
    }

    /// Reads the file, and creates it where it is missing, so that an unusable directory shows.
    pub(crate) fn load(&mut self) -> io::Result<()> {
        match fs::read(&self.path) {
            Ok(text) => self.loaded = Some(fd_counter(&String::from_utf8_lossy(&text))),
            Err(e) if e.kind() == ErrorKind::NotFound => self.store(FIRST_HANDLE)?,
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Takes a handle number. It is on disk that it is taken before this returns.
    pub(crate) fn take_handle(&mut self) -> io::Result<i64> {
        if self.loaded.is_none() {
            self.load()?;
        }
        let handle = self.loaded.unwrap_or(FIRST_HANDLE);
        self.store(handle.checked_add(1).unwrap_or(FIRST_HANDLE))?;
        Ok(handle)
    }

    /// Where the state is kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn store(&mut self, next: i64) -> io::Result<()> {
        let mut text = String::from("[global]\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "fd_counter={next}");
        let temporary = self.path.with_extension("state.new");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, &self.path)?;
        self.loaded = Some(next);
        Ok(())
    }
}

fn fd_counter(text: &str) -> i64 {
    let mut in_global = false;
    let mut counter = FIRST_HANDLE;
    for line in text.lines().map(str::trim) {
        if let Some(group) = line.strip_prefix('[') {
            in_global = group.trim_end() == "global]";
        } else if in_global
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "fd_counter"
        {
            counter = value.trim().parse().ok().filter(|n| *n >= 0).unwrap_or(FIRST_HANDLE);
        }
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_go_on_where_the_last_agent_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::new(dir.path());
        state.load().unwrap();
        assert_eq!(fs::read(state.path()).unwrap(), b"[global]\nfd_counter=1000\n");
        assert_eq!(state.take_handle().unwrap(), 1000);
        assert_eq!(fs::read(state.path()).unwrap(), b"[global]\nfd_counter=1001\n");
        assert_eq!(State::new(dir.path()).take_handle().unwrap(), 1001);
    }

    #[test]
    fn what_is_not_a_number_counts_as_the_first_handle() {
        for text in ["", "[global]\n", "[global]\nfd_counter=x\n", "[other]\nfd_counter=7\n"] {
            assert_eq!(fd_counter(text), 1000, "{text:?}");
        }
        assert_eq!(fd_counter("# c\n[x]\na=1\n[global]\n fd_counter = 7 \n"), 7);
    }

    #[test]
    fn an_unusable_directory_is_an_error() {
        assert!(State::new(Path::new("/nonexistent")).load().is_err());
    }
}
