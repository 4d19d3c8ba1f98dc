//! What a VM's agent can do, from its last unfrozen `guest-info`.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use qga_proto::command::{AgentCommand, AgentInfo, Command as _, GuestGetDevices};

/// What an agent can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The agent's version, like `11.1.3`; guest text.
    pub version: String,
    /// Its commands. `None` for an agent of the 0.15 era, which gives no list.
    pub commands: Option<Vec<AgentCommand>>,
    /// It echoes `id`, so that every reply tells whose it is.
    pub echoes_id: bool,
    /// It has `guest-sync-delimited`.
    pub delimited_sync: bool,
}

/// More commands than any agent has, and a bound on what a hostile one can make us keep.
const MAX_COMMANDS: usize = 512;
const MAX_NAME: usize = 64;

impl Capabilities {
    pub(crate) fn new(info: AgentInfo, echoes_id: bool, delimited_sync: bool) -> Self {
        let mut commands = info.supported_commands;
        commands.retain(|command| command.name.len() <= MAX_NAME);
        commands.truncate(MAX_COMMANDS);
        commands.shrink_to_fit();
        let version = info.version.chars().take(MAX_NAME).collect();
        let commands = (!commands.is_empty()).then_some(commands);
        Self { version, commands, echoes_id, delimited_sync }
    }

    /// The agent's word on a command: `None` if it gives no list.
    pub fn command(&self, name: &str) -> Option<CommandState> {
        let commands = self.commands.as_ref()?;
        Some(match commands.iter().find(|command| command.name == name) {
            None => CommandState::Missing,
            Some(command) if command.enabled => CommandState::Enabled,
            Some(_) => CommandState::Disabled,
        })
    }

    /// The commands beyond QEMU's own that it would run.
    pub fn extensions(&self) -> impl Iterator<Item = &str> {
        let own = |command: &&AgentCommand| command.enabled && command.name.starts_with("x-");
        self.commands.iter().flatten().filter(own).map(|command| command.name.as_str())
    }

    /// Whether the agent is qemu-ga of a version before this one, as far as it says.
    pub fn before(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.version.split('.').map(str::parse);
        let (Some(Ok(first)), second) = (numbers.next(), numbers.next()) else { return false };
        let second = second.and_then(Result::ok).unwrap_or(0);
        (first, second) < (major, minor)
    }

    /// Whether the guest is Windows, whose VSS holds a freeze for 10 seconds: only its agent has
    /// `guest-get-devices` enabled.
    pub fn windows(&self) -> bool {
        self.command(GuestGetDevices::INFO.name) == Some(CommandState::Enabled)
    }
}

/// What an agent's list says of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandState {
    /// It would run.
    Enabled,
    /// The guest's policy forbids it.
    Disabled,
    /// The agent does not have it.
    Missing,
}

/// Keeps one copy of what many agents have in common: a fleet runs few agent versions.
#[derive(Debug, Default)]
pub(crate) struct Interner(Mutex<Vec<Weak<Capabilities>>>);

impl Interner {
    /// Hostile guests can each be unique; beyond this many they keep their own copy.
    const MAX: usize = 256;

    pub(crate) fn intern(&self, capabilities: Capabilities) -> Arc<Capabilities> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().filter_map(Weak::upgrade).find(|k| **k == capabilities) {
            return same;
        }
        let new = Arc::new(capabilities);
        known.retain(|weak| weak.strong_count() > 0);
        if known.len() < Self::MAX {
            known.push(Arc::downgrade(&new));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(name: &str, enabled: bool) -> AgentCommand {
        AgentCommand { name: name.into(), enabled, success_response: Some(true) }
    }

    fn capabilities(version: &str, commands: Vec<AgentCommand>) -> Capabilities {
        let info = AgentInfo { version: version.into(), supported_commands: commands };
        Capabilities::new(info, true, true)
    }

    #[test]
    fn an_agent_without_a_list_gives_no_word() {
        let old = capabilities("0.15.50", Vec::new());
        assert_eq!((&old.commands, old.command("guest-ping")), (&None, None));
        let new = capabilities("11", vec![command("a", true), command("b", false)]);
        assert_eq!(new.command("a"), Some(CommandState::Enabled));
        assert_eq!(new.command("b"), Some(CommandState::Disabled));
        assert_eq!(new.command("c"), Some(CommandState::Missing));
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, before) in [
            ("7.2.22", true),
            ("9.0.99", true),
            ("9.1.0", false),
            ("11.1.3", false),
            ("9", true),
            ("0.15.50", true),
            ("qga-agent", false),
            ("", false),
        ] {
            assert_eq!(capabilities(version, Vec::new()).before(9, 1), before, "{version}");
        }
    }

    #[test]
    fn a_hostile_list_is_cut() {
        let long = capabilities(&"v".repeat(1000), vec![command(&"n".repeat(65), true)]);
        assert_eq!((long.version.len(), long.commands), (64, None));
        let many = (0..10_000).map(|n| command(&n.to_string(), true)).collect();
        assert_eq!(capabilities("1", many).commands.expect("some").len(), MAX_COMMANDS);
    }

    #[test]
    fn equal_agents_share_one_copy() {
        let interner = Interner::default();
        let one = interner.intern(capabilities("11", vec![command("a", true)]));
        let two = interner.intern(capabilities("11", vec![command("a", true)]));
        let other = interner.intern(capabilities("12", Vec::new()));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
    }
}
