//! Who is logged in: from utmp, and where nobody writes that any more, from logind's records.

mod logind;
mod utmp;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use qga_proto::command::User;

use crate::bounded;

/// Sessions beyond this many are not looked at.
const MAX_SESSIONS: usize = 16 << 10;
/// Bytes that logind writes about one session, at most.
const SESSION: u64 = 64 << 10;

/// One login of one user.
#[derive(Clone, Debug, PartialEq)]
struct Login {
    user: String,
    /// Seconds since 1970 UTC.
    time: f64,
}

/// One entry per user with the earliest login, in the order of utmp, or by login time. `run` is
/// `/run` outside of tests.
pub(crate) fn logged_in(run: &Path) -> Vec<User> {
    let utmp = bounded::read(run.join("utmp"), bounded::LARGE).unwrap_or_default();
    let mut logins = utmp::parse(&utmp);
    // On systems without utmp a file may be left that only knows of the boot.
    if logins.is_empty() {
        logins = sessions(&run.join("systemd/sessions"));
    }
    earliest(logins)
}

/// Beside each session's file lies a FIFO, `ID.ref`, which is none of ours.
fn sessions(directory: &Path) -> Vec<Login> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut logins: Vec<_> = entries
        .take(MAX_SESSIONS)
        .filter_map(|entry| bounded::read(entry.path(), SESSION).ok())
        .filter_map(|session| logind::parse(&session))
        .collect();
    logins.sort_by(|a, b| a.time.total_cmp(&b.time));
    logins
}

fn earliest(logins: Vec<Login>) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for Login { user, time } in logins {
        match places.entry(user) {
            Entry::Occupied(known) => {
                let known = &mut users[*known.get()].login_time;
                *known = f64::min(*known, time);
            }
            Entry::Vacant(place) => {
                let user = place.key().clone();
                place.insert(users.len());
                users.push(User { user, domain: None, login_time: time });
            }
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    fn names(users: &[User]) -> Vec<(&str, f64)> {
        users.iter().map(|user| (user.user.as_str(), user.login_time)).collect()
    }

    #[test]
    fn logind_is_asked_where_utmp_knows_nobody() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(logged_in(run.path()), []);
        let sessions = run.path().join("systemd/sessions");
        std::fs::create_dir_all(&sessions).unwrap();
        let session = |user: &str, time: u64| {
            format!("USER={user}\nSTATE=active\nCLASS=user\nREALTIME={time}\n")
        };
        std::fs::write(sessions.join("3"), session("root", 3_000_000)).unwrap();
        std::fs::write(sessions.join("5"), session("alice", 2_500_000)).unwrap();
        std::fs::write(sessions.join("c1"), session("root", 1_000_000)).unwrap();
        mknodat(CWD, sessions.join("3.ref"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(names(&logged_in(run.path())), [("root", 1.0), ("alice", 2.5)]);
        #[cfg(target_arch = "x86_64")]
        {
            let utmp = include_bytes!("../../tests/corpus/utmp/x86_64");
            std::fs::write(run.path().join("utmp"), utmp).unwrap();
            let users = logged_in(run.path());
            let long = "x".repeat(32);
            let expected =
                [("root", 1_600_000_000.999_999), ("alice", 1_700_000_100.000_001), (&long, 1.0)];
            assert_eq!(names(&users), expected);
        }
    }
}
