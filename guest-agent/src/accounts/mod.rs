//! User accounts: who they are, and what the agent does in their name.
//!
//! The agent is linked statically and has no name service switch: it reads `/etc/passwd` and
//! `/etc/group` itself, and asks `getent` for users that are not there.

mod databases;
pub(crate) mod keys;

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use qga_proto::QgaError;
use rustix::fs::{Gid, Uid};
use rustix::process::geteuid;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

pub(crate) use self::databases::User;
use self::databases::{find_number, find_user, groups_of, listed_groups};
use crate::{errno, helper, sys};

/// How long a name service may take, and then a home directory.
const PATIENCE: Duration = Duration::from_secs(10);
/// Homes that may hang at once.
const MAX_UNANSWERED: usize = 8;
/// Bytes of stack of a thread that works in a user's name.
const STACK: usize = 64 << 10;

/// Works in users' homes, and remembers which ones have not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    unanswered: BTreeMap<String, JoinHandle<()>>,
}

impl Desk {
    /// Does `work` with the effective user and groups of `user`, on a thread that ends with it.
    /// The real and the saved user stay the agent's, or the user could send signals to it.
    pub(crate) fn act_as<T: Send + 'static>(
        &mut self,
        user: User,
        work: impl FnOnce(&User) -> Result<T, QgaError> + Send + 'static,
    ) -> Result<T, QgaError> {
        let name = user.name.clone();
        let no_answer = || {
            let text = format!("the home directory of user '{name}' does not answer");
            QgaError::generic(text)
        };
        self.unanswered.retain(|_, thread| !thread.is_finished());
        if self.unanswered.contains_key(&name) || self.unanswered.len() >= MAX_UNANSWERED {
            return Err(no_answer());
        }
        let groups = user.groups();
        let (send, answer) = sync_channel(1);
        let thread = std::thread::Builder::new().name("user".into()).stack_size(STACK);
        let thread = thread.spawn(move || {
            let result = keep_no_descriptor()
                .and_then(|()| user.become_effective(&groups))
                .and_then(|()| work(&user));
            drop(send.send(result));
        });
        let thread = thread.map_err(|e| {
            QgaError::generic(format!("failed to create a thread: {}", errno::of(&e)))
        })?;
        answer.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            self.unanswered.insert(name.clone(), thread);
            Err(no_answer())
        })
    }
}

impl User {
    /// The user with this name. May take as long as the name service.
    pub(crate) fn look_up(name: &str) -> Result<Self, QgaError> {
        let local = std::fs::read("/etc/passwd").ok();
        let found = local.and_then(|passwd| find_user(&passwd, name)).or_else(|| {
            // A name that is a number would be looked up as one; only its own line is taken.
            find_user(&getent("passwd", name)?, name)
        });
        // What the C library says of an error that has not happened: the user is not known.
        found.ok_or_else(|| QgaError::generic(format!("failed to lookup user '{name}': Success")))
    }

    /// The user with this name or, if there is none, this number.
    pub(crate) fn named_or_numbered(text: &str) -> Option<Self> {
        let number = text.parse().ok().filter(|uid| *uid != u32::MAX).map(Uid::from_raw);
        let find = |passwd: &[u8]| {
            find_user(passwd, text).or_else(|| number.and_then(|uid| find_number(passwd, uid)))
        };
        let local = std::fs::read("/etc/passwd").ok();
        local.and_then(|passwd| find(&passwd)).or_else(|| find(&getent("passwd", text)?))
    }

    /// All groups of the user, the main one first.
    pub(crate) fn groups(&self) -> Vec<Gid> {
        let local = std::fs::read("/etc/passwd").ok();
        let mut groups = vec![self.gid];
        if local.is_some_and(|passwd| find_user(&passwd, &self.name).is_some()) {
            let group = std::fs::read("/etc/group").unwrap_or_default();
            groups.extend(groups_of(&group, &self.name));
        } else if let Some(listed) = getent("initgroups", &self.name) {
            groups.extend(listed_groups(&listed));
        }
        groups
    }

    /// For this thread only.
    fn become_effective(&self, groups: &[Gid]) -> Result<(), QgaError> {
        if geteuid() == self.uid && !self.uid.is_root() {
            return Ok(());
        }
        let failed = |what: &str| {
            let text = format!("failed to set effective {what} ID for user '{}'", self.name);
            QgaError::generic(text)
        };
        set_thread_groups(groups).map_err(|_| failed("group"))?;
        set_thread_res_gid(None, self.gid, None).map_err(|_| failed("group"))?;
        set_thread_res_uid(None, self.uid, None).map_err(|_| failed("user"))
    }
}

/// A call that hangs may outlive a SIGKILL of the agent, and must not keep its channel open.
fn keep_no_descriptor() -> Result<(), QgaError> {
    sys::threads::leave_descriptors()
        .map_err(|e| QgaError::generic(format!("failed to close descriptors: {}", errno::text(e))))
}

/// A line of a database, from whichever service knows it.
fn getent(database: &str, name: &str) -> Option<Vec<u8>> {
    let odd = |byte: u8| byte.is_ascii_control() || byte == b':';
    if name.is_empty() || name.starts_with('-') || name.bytes().any(odd) {
        return None;
    }
    helper::output(&["getent", database, name], PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_users_are_refused_in_qemu_gas_words() {
        for name in ["nosuchuser", "", "-x", "a\nb", "0", "root:x"] {
            let refused = User::look_up(name).unwrap_err().desc;
            assert_eq!(refused, format!("failed to lookup user '{name}': Success"));
        }
    }

    #[test]
    fn a_thread_has_the_users_ids_and_the_others_keep_theirs() {
        let root = User::look_up("root").unwrap();
        if !geteuid().is_root() {
            println!("skipped: not root");
            return;
        }
        let nobody = User { name: "nobody".into(), uid: uid(65534), gid: gid(65533), ..root };
        let status = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let lines = status.lines();
            let ids = lines.filter(|line| ["Uid", "Gid", "Gro"].contains(&&line[..3]));
            ids.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        let before: Vec<_> = status();
        let mut desk = Desk::default();
        let inside: Vec<String> = desk.act_as(nobody.clone(), move |_| Ok(status())).unwrap();
        assert_eq!(inside, ["Uid: 0 65534 0 65534", "Gid: 0 65533 0 65533", "Groups: 65533"]);
        let refused = desk.act_as(nobody, |_| {
            let error = std::fs::read("/etc/shadow").unwrap_err();
            Err::<(), _>(QgaError::generic(errno::of(&error)))
        });
        assert_eq!(refused.unwrap_err().desc, "Permission denied");
        assert_eq!(status(), before);
    }

    fn uid(raw: u32) -> Uid {
        Uid::from_raw(raw)
    }

    fn gid(raw: u32) -> Gid {
        Gid::from_raw(raw)
    }
}
