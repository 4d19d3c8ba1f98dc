//! logind's record of a session: `KEY=value` lines in `/run/systemd/sessions/`.
//!
//! The file is private to systemd by its own word, and read by its own library; its keys have not
//! changed since 2012. What is missing or strange makes the session one that is left out.

use super::Login;

/// A session that a user logged in to and has not left; display managers, cron jobs and systemd's
/// own per-user managers are none.
pub(super) fn parse(session: &[u8]) -> Option<Login> {
    let (mut user, mut class, mut state, mut time) = (None, None, None, None);
    for line in session.split(|&byte| byte == b'\n') {
        let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|l| l.split_once('='))
        else {
            continue;
        };
        match key {
            "USER" => user = Some(value),
            "CLASS" => class = Some(value),
            "STATE" => state = Some(value),
            "REALTIME" => time = value.parse::<u64>().ok(),
            _ => {}
        }
    }
    // `user-early`, `user-light` and `user-early-light` are logins as well.
    let class = class?;
    let login = class == "user" || class.starts_with("user-") && class != "user-incomplete";
    let user = user.filter(|user| !user.is_empty())?;
    (login && state != Some("closing"))
        .then(|| Some(Login { user: user.to_owned(), time: seconds(time?)? }))?
}

/// From microseconds.
fn seconds(microseconds: u64) -> Option<f64> {
    let seconds = u32::try_from(microseconds / 1_000_000).ok()?;
    let rest = u32::try_from(microseconds % 1_000_000).ok()?;
    Some(f64::from(seconds) + f64::from(rest) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{corpus, fuzz};

    #[test]
    fn logins_are_told_from_other_sessions() {
        let found: Vec<_> = corpus("logind-session")
            .into_iter()
            .map(|(name, bytes)| (name, parse(&bytes).map(|login| (login.user, login.time))))
            .collect();
        let none = |name: &str| (name.to_owned(), None);
        let some = |name: &str, user: &str, time| (name.to_owned(), Some((user.into(), time)));
        let expected = [
            none("closing"),
            none("cron"),
            none("greeter"),
            none("manager"),
            some("ssh", "alice", 1_762_246_923.123_456),
            some("tty", "root", 1_762_240_000.0),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_missing_leaves_the_session_out() {
        for bad in ["", "USER=a\nCLASS=user\n", "CLASS=user\nREALTIME=1\n", "USER=a\nREALTIME=1\n"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        fuzz("logind-session", |bytes| drop(parse(bytes)));
    }
}
