//! Everything that can be set: defaults, then the configuration file, then the command line.
//!
//! The `[general]` group is qemu-ga's, with its keys, and with `hook-timeout` and
//! `freeze-deadline` beside them. `[channel NAME]` groups add channels, and `[policy]` narrows
//! what commands may reach.

mod dump;
mod key_file;
mod load;

use std::path::PathBuf;

pub(crate) use self::load::{LoadError, load};
use crate::filter::Filter;
use crate::freeze::settings::FreezeSettings;
use crate::policy::Policy;

/// Where the configuration is, if nothing else says where.
pub(crate) const DEFAULT_FILE: &str = "/etc/qemu/qemu-ga.conf";
/// Channels that one agent serves.
const MAX_CHANNELS: usize = 16;

const DEFAULT_METHOD: &str = "virtio-serial";

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) method: Option<String>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) pid_file: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) verbose: bool,
    pub(crate) daemonize: bool,
    pub(crate) retry: bool,
    pub(crate) lists: Lists,
    pub(crate) freeze: FreezeSettings,
    pub(crate) channels: Vec<Section>,
    pub(crate) policy: Policy,
}

/// Names of commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    /// If there are any, all others are off.
    pub(crate) allow: Vec<String>,
    pub(crate) block: Vec<String>,
}

/// A `[channel NAME]` group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) retry: Option<bool>,
    pub(crate) lists: Lists,
}

/// One channel as it is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChannelConfig {
    pub(crate) method: String,
    pub(crate) path: Option<PathBuf>,
    /// Open it again, again and again, when it is lost or cannot be opened.
    pub(crate) retry: bool,
    pub(crate) filter: Filter,
}

impl ChannelConfig {
    /// For the log.
    pub(crate) fn name(&self) -> String {
        match &self.path {
            Some(path) => format!("{} {}", self.method, path.display()),
            None => self.method.clone(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            method: None,
            path: None,
            log_file: None,
            pid_file: "/var/run/qemu-ga.pid".into(),
            state_dir: "/var/run".into(),
            verbose: false,
            daemonize: false,
            retry: false,
            lists: Lists::default(),
            freeze: FreezeSettings::default(),
            channels: Vec::new(),
            policy: Policy::default(),
        }
    }
}

impl Config {
    /// The channels, that of `[general]` first. It is there unless only `[channel …]` groups name
    /// any. What `[general]` forbids is off on all.
    pub(crate) fn channels(&self) -> Vec<ChannelConfig> {
        let general = self.has_general_channel().then(|| ChannelConfig {
            method: self.method().to_owned(),
            path: self.general_path(),
            retry: self.retry,
            filter: Filter::new(&[&self.lists]),
        });
        let sections = self.channels.iter().map(|section| {
            let method = section.method.as_deref().unwrap_or(DEFAULT_METHOD);
            ChannelConfig {
                method: method.to_owned(),
                path: section.path.clone().or_else(|| default_path(method)),
                retry: section.retry.unwrap_or(self.retry),
                filter: Filter::new(&[&self.lists, &section.lists]),
            }
        });
        general.into_iter().chain(sections).collect()
    }

    /// Whether `[general]`, the command line or nothing at all names a channel.
    pub(crate) fn has_general_channel(&self) -> bool {
        self.method.is_some() || self.path.is_some() || self.channels.is_empty()
    }

    fn method(&self) -> &str {
        self.method.as_deref().unwrap_or(DEFAULT_METHOD)
    }

    fn general_path(&self) -> Option<PathBuf> {
        self.path.clone().or_else(|| default_path(self.method()))
    }
}

/// The listening methods have none.
fn default_path(method: &str) -> Option<PathBuf> {
    match method {
        "virtio-serial" => Some("/dev/virtio-ports/org.qemu.guest_agent.0".into()),
        "isa-serial" => Some("/dev/ttyS0".into()),
        _ => None,
    }
}

/// Appends a list as qemu-ga reads it: split at commas only, and each in reverse, which
/// `--dump-conf` shows.
pub(crate) fn extend_list(list: &mut Vec<String>, text: &str) {
    if !text.is_empty() {
        list.extend(text.split(',').rev().map(str::to_owned));
    }
}
