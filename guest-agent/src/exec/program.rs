//! Looking a program up and executing it, by GLib's rules, which qemu-ga's clients know.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::sys::spawn::{Image, spawn};

/// Where GLib looks when there is no PATH at all.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin:.";

/// A program with its arguments and environment.
pub(super) struct Program {
    name: String,
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// The directories to look in, separated by colons.
    search: Vec<u8>,
}

impl Program {
    /// `environment` replaces the agent's, and so does its PATH, if it has one.
    pub(super) fn new(name: String, arguments: &[String], environment: Option<&[String]>) -> Self {
        let environment: Vec<CString> =
            environment.map_or_else(agents_environment, |v| v.iter().map(|v| c_text(v)).collect());
        let search = search_path(&environment);
        let all = [name.as_str()].into_iter().chain(arguments.iter().map(String::as_str));
        let arguments = all.map(c_text).collect();
        Self { path: c_text(&name), name, arguments, environment, search }
    }

    /// As the client named it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it. May take as long as the filesystem that it lies on.
    pub(super) fn start(&self, streams: [Option<BorrowedFd<'_>>; 3]) -> Result<Pid, Errno> {
        let name = self.path.as_bytes();
        if name.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut forbidden = false;
        let mut last = Errno::NOENT;
        for path in search_paths(name, &self.search) {
            match self.execute(&path, streams) {
                Ok(pid) => return Ok(pid),
                Err(e) => last = e,
            }
            match last {
                Errno::ACCESS => forbidden = true,
                Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
                _ => return Err(last),
            }
        }
        Err(if forbidden { Errno::ACCESS } else { last })
    }

    /// A file that the kernel does not take for a program is a script for the shell.
    fn execute(&self, path: &CString, streams: [Option<BorrowedFd<'_>>; 3]) -> Result<Pid, Errno> {
        let Self { arguments, environment, .. } = self;
        match spawn(Image { path, arguments, environment }, streams) {
            Err(Errno::NOEXEC) => {}
            result => return result,
        }
        let shell = c"/bin/sh";
        let script = [shell.to_owned(), path.clone()].into_iter();
        let arguments: Vec<_> = script.chain(arguments.iter().skip(1).cloned()).collect();
        spawn(Image { path: shell, arguments: &arguments, environment }, streams)
    }
}

/// The agent's own environment.
pub(super) fn agents_environment() -> Vec<CString> {
    std::env::vars_os().map(|(name, value)| variable(name, &value)).collect()
}

/// The directories to look in for programs with this environment.
pub(super) fn search_path(environment: &[CString]) -> Vec<u8> {
    match environment.iter().find_map(|v| v.as_bytes().strip_prefix(b"PATH=")) {
        Some(search) => search.to_vec(),
        None => std::env::var_os("PATH")
            .map_or_else(|| DEFAULT_PATH.to_vec(), |path| path.as_bytes().to_vec()),
    }
}

/// The files that `name` may mean, in order.
pub(super) fn search_paths(name: &[u8], search: &[u8]) -> Vec<CString> {
    if name.contains(&b'/') {
        return CString::new(name).into_iter().collect();
    }
    let path = |directory: &[u8]| {
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        // No part has a NUL in it.
        CString::new([directory, slash, name].concat()).ok()
    };
    search.split(|&byte| byte == b':').filter_map(path).collect()
}

/// qemu-ga carries U+0000 as two bytes that C does not take for an end.
fn c_text(text: &str) -> CString {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    for byte in text.bytes() {
        match byte {
            0 => bytes.extend_from_slice(&[0xC0, 0x80]),
            _ => bytes.push(byte),
        }
    }
    // Nothing in it is NUL any more.
    CString::new(bytes).unwrap_or_default()
}

fn variable(name: OsString, value: &OsStr) -> CString {
    let mut variable = name.into_vec();
    variable.push(b'=');
    variable.extend_from_slice(value.as_bytes());
    // What comes from an environment has no NUL in it.
    CString::new(variable).unwrap_or_default()
}
