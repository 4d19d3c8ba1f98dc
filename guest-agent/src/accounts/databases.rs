//! `/etc/passwd` and `/etc/group`.
//!
//! Lines of the one are `name:password:uid:gid:comment:home:shell`, of the other
//! `name:password:gid:member,member`. Whatever is not such a line is passed over.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{Gid, Uid};

/// A user, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
}

/// The first user with this name.
pub(super) fn find_user(passwd: &[u8], name: &str) -> Option<User> {
    let has_it = |line: &[&[u8]; 7]| line[0] == name.as_bytes();
    lines(passwd).filter_map(fields).find(has_it).and_then(user)
}

/// The first user with this number.
pub(super) fn find_number(passwd: &[u8], uid: Uid) -> Option<User> {
    let has_it = |line: &[&[u8]; 7]| id(line[2]) == Some(uid.as_raw());
    lines(passwd).filter_map(fields).find(has_it).and_then(user)
}

fn user([name, _, uid, gid, _, home, shell]: [&[u8]; 7]) -> Option<User> {
    let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
    Some(User {
        name: std::str::from_utf8(name).ok()?.to_owned(),
        uid: Uid::from_raw(id(uid)?),
        gid: Gid::from_raw(id(gid)?),
        home: path(home),
        shell: path(shell),
    })
}

/// The groups that list the user as a member, in the order of the file.
pub(super) fn groups_of(group: &[u8], user: &str) -> Vec<Gid> {
    let groups = lines(group).filter_map(|line| {
        let [_, _, gid, members] = fields(line)?;
        let mut members = members.split(|&byte| byte == b',');
        members.any(|member| member == user.as_bytes()).then_some(Gid::from_raw(id(gid)?))
    });
    groups.collect()
}

/// What `getent initgroups NAME` prints: the name, and group numbers behind it.
pub(super) fn listed_groups(line: &[u8]) -> Vec<Gid> {
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.skip(1).filter_map(|word| Some(Gid::from_raw(id(word)?))).collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let fields: Vec<_> = line.split(|&byte| byte == b':').collect();
    fields.try_into().ok()
}

/// The highest number means "none" to the kernel.
fn id(text: &[u8]) -> Option<u32> {
    let id = std::str::from_utf8(text).ok()?.parse().ok()?;
    (id != u32::MAX).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\n+nis::::::\nal:x:7:8::/home/al:/bin/sh\n\
                       alice:x:1001:1002:A,B:/home/a:/bin/sh\nbad:x:4294967295:1::/:/\nx:y\n";
        let alice = find_user(passwd, "alice").unwrap();
        assert_eq!((alice.uid.as_raw(), alice.gid.as_raw()), (1001, 1002));
        assert_eq!(alice.home, PathBuf::from("/home/a"));
        for name in ["ali", "bad", "x", "", "+nis", "0"] {
            assert_eq!(find_user(passwd, name), None, "{name}");
        }
        let number = |uid| find_number(passwd, Uid::from_raw(uid)).map(|user| user.name);
        assert_eq!((number(1001).as_deref(), number(8)), (Some("alice"), None));
        assert_eq!(alice.shell, PathBuf::from("/bin/sh"));
    }

    #[test]
    fn groups_are_those_with_the_user_among_their_members() {
        let group = b"wheel:x:10:bob,alice\nx:x:11:alice2\ndocker:x:12:alice\nodd:x:-1:alice\n";
        let raw = |gids: Vec<Gid>| gids.into_iter().map(Gid::as_raw).collect::<Vec<_>>();
        assert_eq!(raw(groups_of(group, "alice")), [10, 12]);
        assert_eq!(raw(listed_groups(b"alice                 1002 27\n")), [1002, 27]);
        assert!(raw(listed_groups(b"alice\n")).is_empty());
    }

    #[test]
    fn real_files_are_read() {
        let read = |path: &str| std::fs::read(path).unwrap();
        let root = find_user(&read("tests/corpus/passwd/debian-12"), "root").unwrap();
        assert!(root.uid.is_root());
        groups_of(&read("tests/corpus/group/debian-12"), "root");
    }

    proptest! {
        #[test]
        fn no_file_panics(text: Vec<u8>, name: String) {
            find_user(&text, &name);
            groups_of(&text, &name);
            listed_groups(&text);
        }

        #[test]
        fn no_line_panics(text in "([a-c]{0,2}:){0,8}[0-9a-c,-]{0,12}\n", name in "[a-c]") {
            find_user(text.as_bytes(), &name);
            groups_of(text.as_bytes(), &name);
        }
    }
}
