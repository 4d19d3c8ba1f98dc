//! The configuration file.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

use super::key_file::{Group, KeyFile, KeyFileError};
use super::{Config, Lists, MAX_CHANNELS, Section, extend_list};
use crate::policy::Policy;
use crate::{errno, log};

/// A larger file is not a configuration.
const MAX_BYTES: u64 = 1 << 20;

/// Of the group `[general]`.
const GENERAL_KEYS: [&str; 14] = [
    "daemon",
    "method",
    "path",
    "logfile",
    "pidfile",
    "fsfreeze-hook",
    "statedir",
    "verbose",
    "retry-path",
    "block-rpcs",
    "allow-rpcs",
    "blacklist",
    "hook-timeout",
    "freeze-deadline",
];
/// Of a group `[channel NAME]`.
const CHANNEL_KEYS: [&str; 5] = ["method", "path", "retry-path", "allow-rpcs", "block-rpcs"];
/// Of the group `[policy]`.
const POLICY_KEYS: [&str; 2] = ["file-paths", "exec-programs"];

/// Why there is no configuration: qemu-ga's line.
#[derive(Debug, thiserror::Error)]
#[error("error loading configuration from path: {path}, {cause}")]
pub(crate) struct LoadError {
    path: String,
    cause: Cause,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Cause {
    #[error("{}", errno::text(*.0))]
    Unreadable(Errno),
    #[error("Not a regular file")]
    NotRegular,
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error(
        "it can be written by others than its owner (mode {0:04o}), who would decide what the \
         agent does as root: chmod go-w"
    )]
    Writable(u32),
    #[error("it belongs to user {0}, who would decide what the agent does as root: chown root")]
    Owner(u32),
    #[error(transparent)]
    Syntax(#[from] KeyFileError),
    #[error("group “{0}” has no key “{1}”")]
    UnknownKey(String, String),
    #[error("group “channel” lacks its name: [channel NAME]")]
    NoName,
    #[error("key “{0}” is to be a number of seconds{1}, not “{2}”")]
    Seconds(&'static str, &'static str, String),
    #[error("key “{0}” is to be a list of absolute paths without “..”, not “{1}”")]
    NotAbsolute(&'static str, String),
    #[error("more than {MAX_CHANNELS} channels")]
    TooManyChannels,
}

/// Reads the file into `config`. One that does not exist is an error only if it is `required`.
pub(crate) fn load(config: &mut Config, path: &Path, required: bool) -> Result<(), LoadError> {
    let result = match read(path) {
        Ok(bytes) => apply(config, &bytes),
        Err(Cause::Unreadable(Errno::NOENT)) if !required => Ok(()),
        Err(cause) => Err(cause),
    };
    result.map_err(|cause| LoadError { path: path.display().to_string(), cause })
}

fn read(path: &Path) -> Result<Vec<u8>, Cause> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(Cause::Unreadable)?;
    check(&file)?;
    let mut bytes = Vec::new();
    let read = File::from(file).take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| Cause::Unreadable(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Cause::TooLarge);
    }
    Ok(bytes)
}

/// Whoever can write this file can do whatever root can.
fn check(file: &OwnedFd) -> Result<(), Cause> {
    let stat = fstat(file).map_err(Cause::Unreadable)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Cause::NotRegular);
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(Cause::Writable(mode.as_raw_mode()));
    }
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Cause::Owner(stat.st_uid));
    }
    Ok(())
}

fn apply(config: &mut Config, bytes: &[u8]) -> Result<(), Cause> {
    let file = KeyFile::parse(bytes)?;
    for group in file.groups() {
        let name = group.name();
        if name == "general" {
            apply_general(config, group)?;
        } else if name == "policy" {
            known_keys(group, &POLICY_KEYS)?;
            let files = absolute_paths(group, "file-paths")?;
            let programs = absolute_paths(group, "exec-programs")?;
            config.policy = Policy::new(files, programs);
        } else if name == "channel" {
            return Err(Cause::NoName);
        } else if let Some(name) = name.strip_prefix("channel ") {
            config.channels.push(section(group, name.trim())?);
        } else {
            log::warning(format_args!("the configuration's group [{name}] is not known"));
        }
    }
    // The general channel may be one more.
    if config.channels.len() >= MAX_CHANNELS {
        return Err(Cause::TooManyChannels);
    }
    Ok(())
}

/// As qemu-ga does, keys that are not known are passed over, but not in silence.
fn apply_general(config: &mut Config, group: &Group) -> Result<(), Cause> {
    for key in group.keys().filter(|key| !GENERAL_KEYS.contains(&key.as_str())) {
        log::warning(format_args!("the configuration's key {key} is not known"));
    }
    set(&mut config.daemonize, group.boolean("daemon")?);
    config.method = group.string("method")?;
    config.path = path(group, "path")?;
    config.log_file = path(group, "logfile")?;
    set(&mut config.pid_file, path(group, "pidfile")?);
    config.freeze.hook = path(group, "fsfreeze-hook")?;
    set(&mut config.state_dir, path(group, "statedir")?);
    set(&mut config.verbose, group.boolean("verbose")?);
    set(&mut config.retry, group.boolean("retry-path")?);
    config.lists = lists(group)?;
    // Older releases' name. Whoever has it there relies on it.
    if let Some(names) = group.string("blacklist")? {
        log::warning(format_args!("the configuration's key blacklist is now called block-rpcs"));
        extend_list(&mut config.lists.block, &names);
    }
    if let Some(text) = group.string("hook-timeout")? {
        config.freeze.hook_timeout = seconds(&text)
            .filter(|timeout| !timeout.is_zero())
            .ok_or(Cause::Seconds("hook-timeout", " above 0", text))?;
    }
    if let Some(text) = group.string("freeze-deadline")? {
        let deadline =
            seconds(&text).ok_or(Cause::Seconds("freeze-deadline", ", or 0 for never", text))?;
        config.freeze.deadline = (!deadline.is_zero()).then_some(deadline);
    }
    Ok(())
}

fn section(group: &Group, name: &str) -> Result<Section, Cause> {
    known_keys(group, &CHANNEL_KEYS)?;
    if name.is_empty() {
        return Err(Cause::NoName);
    }
    Ok(Section {
        name: name.to_owned(),
        method: group.string("method")?,
        path: path(group, "path")?,
        retry: group.boolean("retry-path")?,
        lists: lists(group)?,
    })
}

fn known_keys(group: &Group, known: &[&str]) -> Result<(), Cause> {
    match group.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Cause::UnknownKey(group.name(), key)),
        None => Ok(()),
    }
}

fn lists(group: &Group) -> Result<Lists, Cause> {
    let mut lists = Lists::default();
    extend_list(&mut lists.allow, &group.string("allow-rpcs")?.unwrap_or_default());
    extend_list(&mut lists.block, &group.string("block-rpcs")?.unwrap_or_default());
    Ok(lists)
}

/// `None` where the key is missing; an empty value is an empty list.
fn absolute_paths(group: &Group, key: &'static str) -> Result<Option<Vec<PathBuf>>, Cause> {
    let Some(text) = group.string(key)? else { return Ok(None) };
    let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
    let check = |path: &str| {
        let clear = path.starts_with('/') && !path.split('/').any(|name| name == "..");
        clear.then(|| PathBuf::from(path)).ok_or_else(|| Cause::NotAbsolute(key, path.to_owned()))
    };
    paths.map(check).collect::<Result<_, _>>().map(Some)
}

fn path(group: &Group, key: &str) -> Result<Option<PathBuf>, Cause> {
    Ok(group.string(key)?.map(PathBuf::from))
}

/// At most some 136 years, which every clock can add.
fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}

#[cfg(test)]
mod tests;
