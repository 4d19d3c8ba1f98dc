//! Which commands the agents have.

use qga_proto::command::{AgentCommand, AgentInfo, command_info};

use super::Mode;

/// What the simulator answers at all, of what qemu-ga has everywhere.
const EVERYWHERE: [&str; 18] = [
    "guest-sync-delimited",
    "guest-sync",
    "guest-ping",
    "guest-info",
    "guest-get-time",
    "guest-shutdown",
    "guest-file-open",
    "guest-file-close",
    "guest-file-read",
    "guest-file-write",
    "guest-file-seek",
    "guest-file-flush",
    "guest-fsfreeze-status",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-freeze-list",
    "guest-fsfreeze-thaw",
    "guest-get-host-name",
    "guest-get-osinfo",
];
const NOT_ON_BSD: [&str; 4] =
    ["guest-get-fsinfo", "guest-fstrim", "guest-get-timezone", "guest-get-vcpus"];
const OURS: [&str; 4] = [
    "x-guest-fsfreeze-freeze",
    "x-guest-fsfreeze-renew",
    "x-guest-fsfreeze-thaw",
    "x-guest-fsfreeze-report",
];
const ANCIENT: [&str; 13] = [
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

/// Whether the agent has the command.
pub(super) fn has(mode: Mode, name: &str) -> bool {
    match mode {
        Mode::Ancient => ANCIENT.contains(&name),
        Mode::Bsd => EVERYWHERE.contains(&name),
        Mode::Stock | Mode::Windows => EVERYWHERE.contains(&name) || NOT_ON_BSD.contains(&name),
        Mode::Qga => {
            EVERYWHERE.contains(&name) || NOT_ON_BSD.contains(&name) || OURS.contains(&name)
        }
    }
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
    let mut commands: Vec<AgentCommand> = EVERYWHERE
        .iter()
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
