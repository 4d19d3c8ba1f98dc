//! Which commands the agents have.

use qga_proto::command::{AgentCommand, AgentInfo, command_info};

use super::Mode;

/// What qemu-ga had in its first release, of what the simulator answers at all.
const FIRST: [&str; 13] = [
    "guest-sync",
    "guest-ping",
    "guest-info",
    "guest-shutdown",
    "guest-file-open",
    "guest-file-close",
    "guest-file-read",
    "guest-file-write",
    "guest-file-seek",
    "guest-file-flush",
    "guest-fsfreeze-status",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-thaw",
];
/// What has come since, everywhere.
const LATER: [&str; 7] = [
    "guest-sync-delimited",
    "guest-get-time",
    "guest-fsfreeze-freeze-list",
    "guest-get-host-name",
    "guest-get-osinfo",
    "guest-exec",
    "guest-exec-status",
];
const NOT_ON_BSD: [&str; 4] =
    ["guest-get-fsinfo", "guest-fstrim", "guest-get-timezone", "guest-get-vcpus"];
const OURS: [&str; 4] = [
    "x-guest-fsfreeze-freeze",
    "x-guest-fsfreeze-renew",
    "x-guest-fsfreeze-thaw",
    "x-guest-fsfreeze-report",
];

/// Whether the agent has the command.
pub(super) fn has(mode: Mode, name: &str) -> bool {
    let lists: &[&[&str]] = match mode {
        Mode::Ancient => &[&FIRST],
        Mode::Bsd => &[&FIRST, &LATER],
        Mode::Stock | Mode::Windows => &[&FIRST, &LATER, &NOT_ON_BSD],
        Mode::Qga => &[&FIRST, &LATER, &NOT_ON_BSD, &OURS],
    };
    lists.iter().any(|list| list.contains(&name))
}

/// The answer of `guest-info`.
pub(super) fn info(mode: Mode, frozen: bool) -> AgentInfo {
    let version = match mode {
        Mode::Stock => "7.2.22",
        Mode::Qga => "0.1.0",
        Mode::Windows => "109.1.0",
        Mode::Bsd => "9.2.0",
        Mode::Ancient => return AgentInfo { version: "0.15.50".into(), ..AgentInfo::default() },
    };
    let mut commands: Vec<AgentCommand> = FIRST
        .iter()
        .chain(&LATER)
        .chain(&NOT_ON_BSD)
        .chain(&OURS)
        .filter(|name| has(mode, name))
        .filter_map(|name| command_info(name))
        .map(|info| AgentCommand {
            name: info.name.into(),
            enabled: !frozen || info.allowed_while_frozen,
            success_response: Some(info.success_response),
        })
        .collect();
    // Before 9.1 all agents listed what Windows alone has, disabled.
    if matches!(mode, Mode::Windows | Mode::Stock) {
        let enabled = mode == Mode::Windows && !frozen;
        let name = "guest-get-devices".to_owned();
        commands.push(AgentCommand { name, enabled, success_response: Some(true) });
    }
    commands.reverse();
    AgentInfo { version: version.into(), supported_commands: commands }
}
