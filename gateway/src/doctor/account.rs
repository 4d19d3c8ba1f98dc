//! As whom the gateway runs where systemd starts it, and what that user may reach.
//!
//! Root, as whom a doctor mostly is called, may connect to everything; the service may not.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A user with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) user: String,
    pub(super) uid: u32,
    groups: BTreeSet<u32>,
    /// Permissions do not stop it.
    overrides: bool,
}

/// Where units and their drop-ins are, what counts most last.
const UNITS: [&str; 4] = [
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
];
const UNIT: &str = "qga-gateway.service";

/// The account of the installed unit; without one, whoever asks.
pub(super) fn service() -> Account {
    let mine = rustix::process::geteuid().as_raw();
    // Only root runs the doctor for somebody else.
    let unit = if mine == 0 { settings() } else { String::new() };
    let user = last(&unit, "User").map_or_else(|| name_of(mine), str::to_owned);
    let uid = lookup("/etc/passwd", &user).map_or(mine, |(uid, _)| uid);
    let mut groups: BTreeSet<u32> = members_of(&user).collect();
    groups.extend(lookup("/etc/passwd", &user).and_then(|(_, gid)| gid));
    let named = unit.lines().filter_map(|line| {
        line.strip_prefix("SupplementaryGroups=").or_else(|| line.strip_prefix("Group="))
    });
    for name in named.flat_map(str::split_ascii_whitespace) {
        let number = lookup("/etc/group", name).map(|(gid, _)| gid).or_else(|| name.parse().ok());
        groups.extend(number);
    }
    let overrides = uid == 0
        || last(&unit, "AmbientCapabilities").is_some_and(|list| list.contains("CAP_DAC_OVERRIDE"));
    Account { user, uid, groups, overrides }
}

/// The unit's text and that of its drop-ins, in the order in which they count.
fn settings() -> String {
    let read = |path: PathBuf| fs::read_to_string(path).ok();
    let unit = UNITS.iter().rev().find_map(|dir| read(Path::new(dir).join(UNIT)));
    let mut text = unit.unwrap_or_default();
    for dir in UNITS {
        let entries = fs::read_dir(Path::new(dir).join(format!("{UNIT}.d")));
        let mut files: Vec<_> = entries.into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files.into_iter().filter(|f| f.extension().is_some_and(|e| e == "conf")) {
            text.push('\n');
            text.push_str(&read(file).unwrap_or_default());
        }
    }
    text
}

fn last<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.map(str::trim).rfind(|value| !value.is_empty())
}

/// The number of a user or group, and a user's own group. The files alone: other directories of
/// users are beyond a static program.
fn lookup(file: &str, name: &str) -> Option<(u32, Option<u32>)> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next().and_then(|gid| gid.parse().ok())))
}

fn members_of(user: &str) -> impl Iterator<Item = u32> {
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == user).then_some(gid)
    };
    text.lines().filter_map(of).collect::<Vec<_>>().into_iter()
}

fn name_in(file: &str, number: u32) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

fn name_of(uid: u32) -> String {
    name_in("/etc/passwd", uid).unwrap_or_else(|| uid.to_string())
}

/// Whether `/etc/passwd` has a user of this number.
pub(super) fn is_user(uid: u32) -> bool {
    name_in("/etc/passwd", uid).is_some()
}

/// Whether `/etc/group` has a group of this number.
pub(super) fn is_group(gid: u32) -> bool {
    name_in("/etc/group", gid).is_some()
}

/// Owner, group and mode of what is at a path: `root:qga 0660`.
pub(super) fn permissions(path: &Path) -> Option<String> {
    let found = fs::symlink_metadata(path).ok()?;
    let group = name_in("/etc/group", found.gid()).unwrap_or_else(|| found.gid().to_string());
    Some(format!("{}:{group} {:04o}", name_of(found.uid()), found.mode() & 0o7777))
}

impl Account {
    /// What stops it on the way to a socket: the first thing that it may not pass, as a sentence.
    pub(super) fn stopped_at(&self, socket: &Path) -> Option<String> {
        let mut directories: Vec<&Path> = socket.ancestors().skip(1).collect();
        directories.reverse();
        let closed = directories.into_iter().find(|dir| !self.may(dir, 0o1));
        if let Some(dir) = closed {
            return Some(format!("{self} may not enter {} ({})", dir.display(), shown(dir)));
        }
        (!self.may(socket, 0o2))
            .then(|| format!("{self} may not write to the socket ({})", shown(socket)))
    }

    /// By the permission bits. What cannot be looked at is not held against anybody.
    fn may(&self, path: &Path, bit: u32) -> bool {
        let Ok(found) = fs::metadata(path) else { return true };
        let shift = if found.uid() == self.uid {
            6
        } else if self.groups.contains(&found.gid()) {
            3
        } else {
            0
        };
        self.overrides || found.mode() & (bit << shift) != 0
    }
}

fn shown(path: &Path) -> String {
    permissions(path).unwrap_or_default()
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} (uid {})", self.user, self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_directory_or_a_socket_stops_who_has_no_right_there() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).expect("mkdir");
        let socket = inner.join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        chmod(dir.path(), 0o755);
        chmod(&inner, 0o750);
        chmod(&socket, 0o660);
        let gid = fs::metadata(&socket).expect("there").gid();
        let account = |groups: &[u32], overrides| Account {
            user: "x".into(),
            uid: 54_321,
            groups: groups.iter().copied().collect(),
            overrides,
        };
        assert_eq!(account(&[gid], false).stopped_at(&socket), None);
        assert_eq!(account(&[], true).stopped_at(&socket), None);
        let said = account(&[], false).stopped_at(&socket).expect("stopped");
        assert!(said.contains("may not enter") && said.contains("inner"), "{said}");
        chmod(&inner, 0o751);
        let said = account(&[], false).stopped_at(&socket).expect("stopped");
        assert!(said.contains("may not write to the socket") && said.contains("0660"), "{said}");
    }

    #[test]
    fn the_last_setting_counts() {
        let unit = "[Service]\nUser=qga\nUserX=no\n[Service]\nUser=other\nUser=\n";
        assert_eq!(last(unit, "User"), Some("other"));
        assert_eq!(last(unit, "Group"), None);
        assert_eq!(lookup("/etc/passwd", "root"), Some((0, Some(0))));
        assert!(is_user(0) && is_group(0));
    }
}
