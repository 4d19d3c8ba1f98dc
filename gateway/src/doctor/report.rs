//! What the doctor found, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::vm::Holder;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Perhaps as it should be.
    Note,
    /// Something is to be done.
    Problem,
}

/// One thing about the host.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub about: &'static str,
    /// What is known.
    pub what: String,
    /// What to do.
    pub todo: Option<String>,
}

impl Finding {
    pub(super) fn ok(about: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, about, what: what.into(), todo: None }
    }

    pub(super) fn note(about: &'static str, what: impl Into<String>) -> Self {
        Self { level: Level::Note, ..Self::ok(about, what) }
    }

    pub(super) fn problem(
        about: &'static str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self { level: Level::Problem, todo: Some(todo.into()), ..Self::ok(about, what) }
    }
}

/// An agent that has answered.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// Its version; guest text.
    pub version: String,
    /// How many commands it has beyond QEMU's own: only `qga-agent` has any.
    pub extensions: usize,
}

/// One VM.
#[derive(Clone, Debug, Serialize)]
pub struct VmFinding {
    /// How bad it is.
    pub level: Level,
    /// The VM's id.
    pub id: String,
    /// Its socket, where that is known.
    pub socket: Option<String>,
    /// The socket's owner, group and mode.
    pub permissions: Option<String>,
    /// The link's state, as in the API.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// The process that is behind the socket.
    pub listener: Option<Holder>,
    /// The client that the socket serves now.
    pub held_by: Option<Holder>,
    /// The agent, if one answers.
    pub agent: Option<Agent>,
    /// What to do.
    pub todo: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nothing is to be done.
    pub ok: bool,
    /// The host.
    pub host: Vec<Finding>,
    /// The VMs, by id.
    pub vms: Vec<VmFinding>,
}

impl Report {
    pub(super) fn new(host: Vec<Finding>, mut vms: Vec<VmFinding>) -> Self {
        vms.sort_by(|a, b| a.id.cmp(&b.id));
        let bad = |level| level == Level::Problem;
        let ok = !host.iter().any(|f| bad(f.level)) && !vms.iter().any(|vm| bad(vm.level));
        Self { ok, host, vms }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "PROBLEM",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { level, about, what, todo } in &self.host {
            writeln!(f, "{level:<8} {about:<10} {what}")?;
            arrow(f, todo.as_deref())?;
        }
        if self.vms.is_empty() {
            return writeln!(f, "\nNo VM was found.");
        }
        let width = self.vms.iter().map(|vm| vm.id.len()).max().unwrap_or(0).max(2);
        writeln!(f, "\n{:<8} {:<width$} {:<8} {:<26} SOCKET", "", "VM", "STATE", "AGENT")?;
        for vm in &self.vms {
            let agent = match &vm.agent {
                None => "-".to_owned(),
                Some(Agent { version, extensions: 0 }) => format!("{version} (qemu-ga)"),
                Some(Agent { version, extensions }) => {
                    format!("{version}, {extensions} extensions")
                }
            };
            let socket = vm.socket.as_deref().unwrap_or("-");
            let permissions = vm.permissions.as_deref().unwrap_or("");
            let line = format!(
                "{:<8} {:<width$} {:<8} {agent:<26} {socket} {permissions}",
                vm.level, vm.id, vm.state
            );
            writeln!(f, "{}", line.trim_end())?;
            if vm.level != Level::Ok
                && let Some(reason) = &vm.reason
            {
                writeln!(f, "         {reason}")?;
            }
            if let Some(Holder { pid, program }) = &vm.held_by {
                writeln!(f, "         held by {program} (process {pid})")?;
            }
            arrow(f, vm.todo.as_deref())?;
        }
        Ok(())
    }
}

fn arrow(f: &mut fmt::Formatter<'_>, todo: Option<&str>) -> fmt::Result {
    todo.map_or(Ok(()), |todo| writeln!(f, "         -> {todo}"))
}
