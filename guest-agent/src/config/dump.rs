//! `--dump-conf`: the settings as a file that sets them.

use std::fmt::Display;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{Config, Lists, key_file};
use crate::freeze::settings::FreezeSettings;

impl Config {
    /// qemu-ga's keys in qemu-ga's order; whatever it does not know follows, where it is set.
    pub(crate) fn dump(&self) -> String {
        let mut out = String::from("[general]\n");
        put(&mut out, "daemon", self.daemonize);
        if self.has_general_channel() {
            put(&mut out, "method", self.method());
            put_path(&mut out, "path", self.general_path().as_deref());
        }
        put_path(&mut out, "logfile", self.log_file.as_deref());
        put_path(&mut out, "pidfile", Some(&self.pid_file));
        put_path(&mut out, "fsfreeze-hook", self.freeze.hook.as_deref());
        put_path(&mut out, "statedir", Some(&self.state_dir));
        put(&mut out, "verbose", self.verbose);
        put(&mut out, "retry-path", self.retry);
        put_lists(&mut out, &self.lists);
        let FreezeSettings { hook_timeout, deadline, .. } = FreezeSettings::default();
        if self.freeze.hook_timeout != hook_timeout {
            put(&mut out, "hook-timeout", self.freeze.hook_timeout.as_secs());
        }
        if self.freeze.deadline != deadline {
            let seconds = self.freeze.deadline.as_ref().map_or(0, Duration::as_secs);
            put(&mut out, "freeze-deadline", seconds);
        }
        for section in &self.channels {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\n[channel {}]", section.name);
            if let Some(method) = &section.method {
                put(&mut out, "method", method);
            }
            put_path(&mut out, "path", section.path.as_deref());
            if let Some(retry) = section.retry {
                put(&mut out, "retry-path", retry);
            }
            put_lists(&mut out, &section.lists);
        }
        let policy = [
            ("file-paths", self.policy.file_paths()),
            ("exec-programs", self.policy.exec_programs()),
        ];
        if policy.iter().any(|(_, paths)| paths.is_some()) {
            out.push_str("\n[policy]\n");
        }
        for (key, paths) in policy {
            if let Some(paths) = paths {
                let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
                put(&mut out, key, paths.join(","));
            }
        }
        out
    }
}

fn put_lists(out: &mut String, lists: &Lists) {
    put(out, "block-rpcs", lists.block.join(","));
    put(out, "allow-rpcs", lists.allow.join(","));
}

fn put_path(out: &mut String, key: &str, path: Option<&Path>) {
    if let Some(path) = path {
        put(out, key, path.display());
    }
}

fn put(out: &mut String, key: &str, value: impl Display) {
    key_file::write(out, key, &value.to_string());
}
