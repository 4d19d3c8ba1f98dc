//! Which commands a channel may use.

use qga_proto::command::{COMMANDS, Command as _, CommandInfo, GuestFileOpen, Right};

use crate::config::Lists;

/// The commands that are off. Names that are not known mean nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    off: Vec<&'static str>,
}

impl Filter {
    /// A command must pass every one of `lists`: a list of allowed ones turns all others off, and
    /// then one of blocked ones those that are on it.
    ///
    /// Blocking a command also blocks what extends it: whoever blocked `guest-exec` in a
    /// configuration made for qemu-ga did not mean to leave the door beside it open.
    pub(crate) fn new(lists: &[&Lists]) -> Self {
        let on = |info: &CommandInfo, lists: &Lists| {
            let named = |list: &[String]| list.iter().any(|name| name == info.name);
            let allowed = lists.allow.is_empty() || named(&lists.allow);
            let extends = |blocked: &String| {
                COMMANDS.iter().any(|other| other.name == blocked && extends(info, other))
            };
            let blocked =
                named(&lists.block) || (!named(&lists.allow) && lists.block.iter().any(extends));
            allowed && !blocked
        };
        let off = |info: &&CommandInfo| !lists.iter().all(|lists| on(info, lists));
        Self { off: COMMANDS.iter().filter(off).map(|info| info.name).collect() }
    }

    /// Whether a command runs now. While filesystems are frozen qemu-ga's six do, whatever the lists
    /// say, and of our extensions for freezing those that the lists leave on.
    pub(crate) fn allows_now(&self, info: &CommandInfo, frozen: bool) -> bool {
        let listed = || self.allows(info.name);
        if frozen {
            info.allowed_while_frozen && (!info.is_extension() || listed())
        } else {
            listed()
        }
    }

    /// Whether the lists leave a command on.
    pub(crate) fn allows(&self, name: &str) -> bool {
        !self.off.contains(&name)
    }
}

/// Whether `extension` does more of what `base` does: same family, same right. Without
/// `guest-file-open` qemu-ga has no way to any file, so nothing of its family is left.
fn extends(extension: &CommandInfo, base: &CommandInfo) -> bool {
    let Some(name) = extension.name.strip_prefix("x-guest-") else { return false };
    let family = |name: &str| name.split('-').next().map(str::to_owned);
    (extension.right == base.right || base.name == GuestFileOpen::INFO.name)
        && base.right != Right::Observe
        && base.name.strip_prefix("guest-").is_some_and(|base| family(base) == family(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(allow: &str, block: &str) -> Lists {
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Lists { allow: split(allow), block: split(block) }
    }

    #[test]
    fn without_lists_everything_is_on() {
        assert!(COMMANDS.iter().all(|info| Filter::new(&[&lists("", "")]).allows(info.name)));
    }

    #[test]
    fn an_allow_list_turns_the_rest_off_and_a_block_list_then_removes() {
        let filter = Filter::new(&[&lists("guest-ping guest-info nonsense", "guest-info other")]);
        let on: Vec<_> =
            COMMANDS.iter().filter(|info| filter.allows(info.name)).map(|i| i.name).collect();
        assert_eq!(on, ["guest-ping"]);
        let filter = Filter::new(&[&lists("", "guest-ping"), &lists("guest-ping guest-sync", "")]);
        assert!(filter.allows("guest-sync"));
        assert!(!filter.allows("guest-ping"));
    }

    #[test]
    fn a_blocked_way_to_files_is_blocked_for_their_extensions() {
        let off = |block| {
            let filter = Filter::new(&[&lists("", block)]);
            let off = COMMANDS.iter().map(|info| info.name).filter(|name| !filter.allows(name));
            off.map(|name| name.trim_start_matches("x-guest-file-")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            off("guest-file-open"),
            "guest-file-open stat list open create sync commit rename remove mkdir beneath"
        );
        assert_eq!(
            off("guest-file-write"),
            "guest-file-write create sync commit rename remove mkdir"
        );
        assert_eq!(off("guest-file-read"), "guest-file-read stat list open beneath");
    }

    #[test]
    fn an_extension_is_what_does_the_same_under_another_name() {
        let base = |name| *COMMANDS.iter().find(|info| info.name == name).unwrap();
        let exec = base("guest-exec");
        assert!(extends(&CommandInfo { name: "x-guest-exec-start", ..exec }, &exec));
        assert!(!extends(&exec, &exec));
        let trim = base("guest-fstrim");
        let freeze = CommandInfo { name: "x-guest-fsfreeze-freeze", ..trim };
        assert!(!extends(&freeze, &trim));
        assert!(extends(&freeze, &base("guest-fsfreeze-freeze")));
    }
}
