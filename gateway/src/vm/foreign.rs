//! Commands that the gateway has no type for: an agent's own, sent as they are.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use qga_proto::command::{CommandInfo, Right};

/// The most names that are ever kept; there are some fifty commands in the world.
const MAX: usize = 1024;

/// The facts of a command that no table has: the worst of each, so that nothing goes wrong.
///
/// They are kept for as long as the process lives, because a call's facts outlive everybody; so
/// there is a bound, and beyond it `None`.
pub(crate) fn foreign(name: &str, success_response: bool) -> Option<&'static CommandInfo> {
    static KNOWN: LazyLock<Mutex<HashMap<(String, bool), &'static CommandInfo>>> =
        LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(info) = known.get(&(name.to_owned(), success_response)) {
        return Some(info);
    }
    if known.len() >= MAX {
        return None;
    }
    let info: &'static CommandInfo = Box::leak(Box::new(CommandInfo {
        name: Box::leak(name.to_owned().into_boxed_str()),
        allowed_while_frozen: false,
        success_response,
        changes_guest: true,
        pipelined: false,
        yields: None,
        long: true,
        right: Right::Raw,
    }));
    known.insert((name.to_owned(), success_response), info);
    Some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_each_and_not_without_end() {
        let one = foreign("x-a", true).expect("room");
        assert!(std::ptr::eq(one, foreign("x-a", true).expect("known")));
        assert!(!foreign("x-a", false).expect("room").success_response);
        for n in 0..2 * MAX {
            foreign(&format!("x-{n}"), true);
        }
        assert!(foreign("x-one-too-many", true).is_none());
        assert!(std::ptr::eq(one, foreign("x-a", true).expect("still known")));
    }
}
